package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/pubsub"
	"pcapdaemon/testbed"
)

// scanningACL is what docs/operations.md gives as the least for one who fetches what was left.
const scanningACL = fetchingACL + " +scan"

// captured returns a pcap file with a packet of the second of January 2026.
func captured(t *testing.T) string {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	info := gopacket.CaptureInfo{Timestamp: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), CaptureLength: 60, Length: 60}
	if err := errors.Join(w.WriteFileHeader(96, layers.LinkTypeEthernet), w.WritePacket(info, make([]byte, 60))); err != nil {
		t.Fatal(err)
	}
	return file.String()
}

// fetch fetches as the program does what is left for an id.
func fetch(t *testing.T, server *pubsub.Server, dir, id string) (stdout, stderr string, outcome Outcome) {
	t.Helper()
	var out, errs bytes.Buffer
	outcome = Fetch(Options{Server: server, Results: "capture-results", Dir: dir, Name: "-fetch",
		Ends: []os.Signal{syscall.SIGTERM}}, id, &out, &errs)
	return out.String(), errs.String(), outcome
}

// TestFetchLeftover: what is fetched, what its file is called, and which keys stay.
func TestFetchLeftover(t *testing.T) {
	const at = "20260102T030405.000006000Z"
	r := testbed.StartRedis(t)
	server := setUser(t, r, "asker", scanningACL)
	whole := captured(t)
	hole := whole[:24] + strings.Repeat("\x00", 300<<10)
	for name, test := range map[string]struct {
		id, key, value string
		file           string // empty: the key stays
		outcome        Outcome
		says           string
	}{
		"a capture":             {"r1", "capture-results:r1:web1:eth0", whole, "web1-eth0-" + at + ".pcap", Done, ""},
		"a node with a colon":   {"r1", "capture-results:r1:::1:eth0", whole, "__1-eth0-" + at + ".pcap", Done, ""},
		"a path":                {"r1", "capture-results:r1:../../etc:../x", whole, "_.._etc-.._x-" + at + ".pcap", Done, ""},
		"an odd id":             {`*?[a]\`, `capture-results:*?[a]\:web1:lo`, whole, "web1-lo-" + at + ".pcap", Done, ""},
		"a device called live":  {"r1", "capture-results:r1:web1:live", whole, "web1-live-" + at + ".pcap", Done, ""},
		"one that runs":         {"r1", "capture-results:r1:web1:eth0:live", "x", "", Unanswered, "nothing is left for r1"},
		"of another id":         {"r1", "capture-results:r10:web1:eth0", whole, "", Unanswered, "nothing is left for r1"},
		"of another channel":    {"r1", "capture-result:r1:web1:eth0", whole, "", Unanswered, "nothing is left for r1"},
		"no key of a host":      {"r1", "capture-results:r1:web1", whole, "", Unanswered, "nothing is left for r1"},
		"of a pattern":          {"r*", "capture-results:r1:web1:eth0", whole, "", Unanswered, "nothing is left for r*"},
		"what is written still": {"r1", "capture-results:r1:web1:eth0", hole, "", Failed, "web1 eth0: parts of the file are missing"},
		"what is cut":           {"r1", "capture-results:r1:web1:eth0", whole[:50], "", Failed, "web1 eth0: the file ends"},
		"an escape":             {"r1", "capture-results:r1:\x1b[2J:eth0", whole[:50], "", Failed, `\x1b[2J eth0: the file ends`},
	} {
		r.Do(t, "FLUSHALL")
		r.Do(t, "SET", test.key, test.value)
		dir := t.TempDir()
		out, errs, outcome := fetch(t, server, dir, test.id)
		if outcome != test.outcome || !strings.Contains(errs, test.says) {
			t.Errorf("%s: want outcome %d and %q, got %d, %s", name, test.outcome, test.says, outcome, errs)
		}
		want, left := []string{}, int64(1)
		if test.file != "" {
			want, left = []string{test.file}, 0
		}
		if got := listDir(t, dir); !slices.Equal(want, got) {
			t.Errorf("%s: want the files %q, got %q", name, want, got)
		}
		if got := r.Do(t, "EXISTS", test.key); got != left {
			t.Errorf("%s: want %d keys left, got %d", name, left, got)
		}
		if lines := testbed.ReadLines(out); len(lines) != len(want) {
			t.Errorf("%s: want a line for each file, got %s", name, out)
		}
	}
}

// TestFetchLeftoverOfAll: more than the server names at a time, one that is no string among
// them, and what is said of each.
func TestFetchLeftoverOfAll(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	server := &pubsub.Server{Addresses: []string{r.Address()}}
	r.Do(t, "RPUSH", "capture-results:r1:list:eth0", "x")
	dir := t.TempDir()
	r.Do(t, "SET", "capture-results:r1:web1:eth0", "no capture file")
	out, errs, outcome := fetch(t, server, dir, "r1")
	if outcome != Failed || !strings.Contains(errs, "list eth0: fetch capture-results:r1:list:eth0: WRONGTYPE") {
		t.Errorf("want outcome %d and the list named, got %d, %s", Failed, outcome, errs)
	}
	file := filepath.Join(dir, listDir(t, dir)[0])
	if want := fmt.Sprintf(`{"id":"r1","node":"web1","interface":"eth0","state":"fetched","file":"%s"}`+"\n", file); want != out {
		t.Errorf("want %s, got %s", want, out)
	}
	l := leftover{id: "r1", prefix: "capture-results:r1:", shown: jsonLines{&bytes.Buffer{}, &bytes.Buffer{}}}
	all := make([]string, pubsub.MaxKeys+3)
	for n := range all {
		all[n] = fmt.Sprint("capture-results:r1:list", n) // none of a host
	}
	calls := 0
	l.list = func(context.Context, string) ([]string, error) {
		calls++
		first := min((calls-1)*pubsub.MaxKeys, 3)
		return all[first : first+pubsub.MaxKeys], nil
	}
	if err := l.fetch(t.Context()); err != nil || calls != 3 {
		t.Errorf("want three calls, the last without news, got %d, %v", calls, err)
	}
}

// TestFetchLeftoverFails: a server that is not there is said at once.
func TestFetchLeftoverFails(t *testing.T) {
	r := testbed.StartRedis(t)
	for want, server := range map[string]*pubsub.Server{
		"connection refused": {Addresses: []string{fmt.Sprint("127.0.0.1:", testbed.FreePort(t))}},
		"NOPERM":             setUser(t, r, "asker", fetchingACL),
	} {
		began := time.Now()
		out, errs, outcome := fetch(t, server, t.TempDir(), "r1")
		if outcome != Failed || out != "" || !strings.Contains(errs, want) || time.Since(began) > 5*time.Second {
			t.Errorf("want %q at once, got %d after %v: %s%s", want, outcome, time.Since(began), out, errs)
		}
	}
}

// TestFetchLeftoverWithoutPackets: the file of a capture that has none bears the time at which it was fetched.
func TestFetchLeftoverWithoutPackets(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	r.Do(t, "SET", "capture-results:r1:web1:eth0", captured(t)[:24])
	dir := t.TempDir()
	began := time.Now().UTC()
	_, errs, outcome := fetch(t, &pubsub.Server{Addresses: []string{r.Address()}}, dir, "r1")
	names, _ := filepath.Glob(dir + "/web1-eth0-*.pcap")
	if outcome != Done || len(names) != 1 || filepath.Base(names[0]) < "web1-eth0-"+began.Format("20060102T150405.") {
		t.Errorf("want a file of now, got %d, %q, %s", outcome, names, errs)
	}
}
