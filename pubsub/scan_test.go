package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// What is needed besides to look for what was left in Redis, and in all nodes of a cluster.
const (
	askerScanACL   = "+scan"
	clusterScanACL = "+cluster|slots"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	permit(t, r, "asker", askerACL+" "+askerScanACL)
	const ours = `capture-results:a*b?[c]\d^e-f:`
	for _, name := range []string{ours + "web1:eth0", ours + "web1:eth0-2:live", ours, "other",
		`capture-results:aXb?[c]\d^e-f:x`, `capture-results:a*bX[c]\d^e-f:x`, `capture-results:a*b?c\d^e-f:x`,
		`capture-results:a*b?[c]d^e-f:x`, "x" + ours, "capture-results:a"} {
		r.Do(t, "SET", name, "x")
	}
	for n := range 5000 {
		r.Do(t, "SET", fmt.Sprint("capture-results:many:", n), "x")
	}
	for name, server := range map[string]*Server{"anybody": reach(r), "asker": reachAs(r, "asker")} {
		want := []string{ours, ours + "web1:eth0", ours + "web1:eth0-2:live"}
		if got, err := server.Keys(t.Context(), ours); !slices.Equal(got, want) || err != nil {
			t.Errorf("%s: want %q, got %q, %v", name, want, got, err)
		}
		if got, err := server.Keys(t.Context(), "nothing"); len(got) > 0 || err != nil {
			t.Errorf("%s: want no keys, got %q, %v", name, got, err)
		}
		if got, err := server.Keys(t.Context(), "capture-results:many:"); len(got) != MaxKeys || err != nil {
			t.Errorf("%s: want no more than %d keys, got %d, %v", name, MaxKeys, len(got), err)
		}
	}
	r.Do(t, "ACL", "SETUSER", "asker", "-scan")
	if _, err := reachAs(r, "asker").Keys(t.Context(), ours); !mentions(err, "NOPERM") {
		t.Errorf("want the server's refusal, got %v", err)
	}
}

// TestKeysCluster: whichever nodes are known.
func TestKeysCluster(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	nodes := testbed.StartCluster(t)
	server := &Server{Addresses: []string{nodes[0].Address()}}
	var want []string
	for n := range 10 {
		key, err := server.Store(t.Context(), fmt.Sprint("capture-results:id:", n), 1, plain([]byte("x")))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, key)
	}
	if got, err := server.Keys(t.Context(), "capture-results:id:"); !slices.Equal(got, want) || err != nil {
		t.Errorf("want %q, got %q, %v", want, got, err)
	}
}

// TestKeysOfBadServers: one that never comes to an end, and ones that make no sense.
func TestKeysOfBadServers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ slots, scan, culprit string }{
		"no end":                    {"-ERR\r\n", "*2\r\n$1\r\n1\r\n*0\r\n", context.DeadlineExceeded.Error()},
		"no cursor":                 {"-ERR\r\n", "*0\r\n", "answer given up"},
		"keys that are no list":     {"-ERR\r\n", "*2\r\n$1\r\n0\r\n$1\r\nx\r\n", "answer given up"},
		"keys of others":            {"-ERR\r\n", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nx\r\n", ""},
		"nodes that are no lists":   {"*1\r\n:1\r\n", "", "answer given up"},
		"nodes without addresses":   {"*1\r\n*3\r\n:1\r\n:2\r\n*2\r\n:1\r\n*0\r\n", "", "answer given up"},
		"nodes without a master":    {"*1\r\n*2\r\n:1\r\n:2\r\n", "", "answer given up"},
		"no nodes":                  {"*0\r\n", "*2\r\n$1\r\n0\r\n*0\r\n", ""},
		"a node without its master": {"*1\r\n*3\r\n:1\r\n:2\r\n*1\r\n$1\r\nx\r\n", "", "answer given up"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var scans atomic.Int64
			fake := startFakeServer(t, func(to io.Writer, words []string) {
				if words[0] == "SCAN" {
					scans.Add(1)
				}
				fmt.Fprint(to, map[string]string{"CLUSTER": test.slots, "SCAN": test.scan}[words[0]])
			})
			patience := 30 * time.Second
			if name == "no end" {
				patience = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			keys, err := (&Server{Addresses: []string{fake}}).Keys(ctx, "capture-results:")
			if (err != nil) != (test.culprit != "") || err != nil && !mentions(err, test.culprit) || len(keys) > 0 {
				t.Errorf("want %q in the error, got %q, %v", test.culprit, keys, err)
			}
			if n := scans.Load(); n > 1 && name != "no end" {
				t.Errorf("want it asked once, was asked %d times", n)
			}
			if name == "no end" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("want the deadline passed, got %v", err)
			}
		})
	}
}

// TestKeysOfANodeWithoutName: a node of a cluster that does not say where it is is the one that was asked.
func TestKeysOfANodeWithoutName(t *testing.T) {
	t.Parallel()
	var port string
	fake := startFakeServer(t, func(to io.Writer, words []string) {
		fmt.Fprint(to, map[string]string{"CLUSTER": "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:" + port + "\r\n",
			"SCAN": "*2\r\n$1\r\n0\r\n*1\r\n$2\r\nxy\r\n"}[words[0]])
	})
	_, port, _ = net.SplitHostPort(fake)
	if keys, err := (&Server{Addresses: []string{fake}}).Keys(t.Context(), "x"); !slices.Equal(keys, []string{"xy"}) {
		t.Errorf("want the key, got %q, %v", keys, err)
	}
}

// TestKeysOfAClusterWithTLS: its nodes are trusted as the first one is.
func TestKeysOfAClusterWithTLS(t *testing.T) {
	t.Parallel()
	ca := testbed.NewCA(t)
	certificate, private := ca.Issue(t)
	port := strconv.Itoa(testbed.FreePort(t))
	r := testbed.StartRedis(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", private,
		"--tls-ca-cert-file", ca.File, "--tls-auth-clients", "no", "--tls-cluster", "yes",
		"--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(testbed.FreePort(t)))
	r.Do(t, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	server := &Server{Addresses: []string{"127.0.0.1:" + port}, TLS: true, CAs: trust(t, ca)}
	testbed.Eventually(t, 30*time.Second, "the node is a cluster", func() bool {
		_, err := server.Store(t.Context(), "xy", 1, plain([]byte("x")))
		return err == nil
	})
	if keys, err := server.Keys(t.Context(), "xy"); err != nil || len(keys) == 0 {
		t.Errorf("want the key, got %q, %v", keys, err)
	}
}
