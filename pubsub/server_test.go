package pubsub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// reach returns how to reach a server without TLS or password.
func reach(r *testbed.Redis) *Server { return &Server{Addresses: []string{r.Address()}} }

// startTLSRedis starts a server that speaks TLS on a second port, and returns that address.
func startTLSRedis(t *testing.T, ca *testbed.CA) (r *testbed.Redis, address string) {
	t.Helper()
	certificate, key := ca.Issue(t)
	port := strconv.Itoa(testbed.FreePort(t))
	r = testbed.StartRedis(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key,
		"--tls-ca-cert-file", ca.File, "--tls-auth-clients", "no")
	return r, "127.0.0.1:" + port
}

// trust returns a pool that holds a certificate authority.
func trust(t *testing.T, ca *testbed.CA) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

func TestServerTLS(t *testing.T) {
	ca := testbed.NewCA(t)
	r, address := startTLSRedis(t, ca)
	messages, state := startSubscriber(t, &Server{Addresses: []string{address}, TLS: true, CAs: trust(t, ca)}, quietLog())
	testbed.Eventually(t, 30*time.Second, "subscribed", func() bool { return state() == "subscribed" })
	checkReceives(t, r, messages)

	_, distrusting := startSubscriber(t, &Server{Addresses: []string{address}, TLS: true}, quietLog())
	testbed.Eventually(t, 30*time.Second, "certificate refused", func() bool {
		return strings.Contains(distrusting(), "certificate")
	})
}

// TestServerUserWithoutPassword: AUTH is sent for a user alone, too.
func TestServerUserWithoutPassword(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", "nopass", "-@all", "+ping", "+acl|whoami")
	conn, err := (&Server{Addresses: []string{r.Address()}, User: "host"}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if user, err := redis.String(conn.Do("ACL", "WHOAMI")); user != "host" {
		t.Errorf("want the user host, got %q, %v", user, err)
	}
}

// TestServerIPv6: an address in brackets is reached, also behind another one.
func TestServerIPv6(t *testing.T) {
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		testbed.Lack(t, "IPv6 on the loopback interface")
	}
	defer probe.Close()
	r := testbed.StartRedis(t, "--bind", "::1", "127.0.0.1")
	server, err := ParseURL(fmt.Sprintf("redis://[::1]:1,[::1]:%d", r.Port))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// TestServerInTurn: the address that was good last comes first, and after it those that follow.
func TestServerInTurn(t *testing.T) {
	s := &Server{Addresses: []string{"a", "b", "c"}}
	for _, step := range []struct{ good, want string }{
		{"b", "[a b]"}, {"b", "[b]"}, {"c", "[b c]"}, {"", "[c a b]"}, {"b", "[c a b]"}, {"a", "[b c a]"},
	} {
		var tried []string
		err := s.inTurn(func(address string) error {
			if tried = append(tried, address); address != step.good {
				return errLost
			}
			return nil
		})
		if got := fmt.Sprint(tried); got != step.want || (err == nil) != (step.good != "") {
			t.Errorf("want %s until %q is good, got %s, %v", step.want, step.good, got, err)
		}
	}
}

// TestServerString: what is shown to people holds no secret.
func TestServerString(t *testing.T) {
	for want, address := range map[string]string{
		"redis.example:6379":                     "rediss://me:secret@redis.example",
		"a:6379,b:1":                             "redis://secret@a,b:1",
		"cache of the sentinels a:26379,b:26379": "redis+sentinel://secret@a,b/cache?sentinelpassword=secret",
	} {
		s, err := ParseURL(address)
		if got := fmt.Sprint(s); got != want || err != nil {
			t.Errorf("want %s, got %s, %v", want, got, err)
		}
	}
}

// TestAUTHIsNotRepeated: whatever a server makes of a password that it refuses, nobody is shown it.
func TestAUTHIsNotRepeated(t *testing.T) {
	t.Parallel()
	password := strings.Repeat("geheim", 30) + "\r\nGEHEIM"
	for name, test := range map[string]struct{ answer, want string }{
		"cut": {"-ERR unknown command 'AUTH', with args beginning with: '" + password[:120] + "'",
			"AUTH: ERR no password"},
		"with spaces": {"-ERR unknown command 'AUTH', with args: geheim  GEHEIM", "AUTH: ERR no password"},
		"wrong": {"-WRONGPASS invalid username-password pair: " + password[:100],
			"AUTH: WRONGPASS user or password"},
		"as the first word":   {"-" + password[:50] + " is wrong", "AUTH: refused by the server"},
		"as the only word":    {"-GEHEIM", "AUTH: refused by the server"},
		"as a status":         {"+" + password[:50], errNotRedis.Error()},
		"as a string":         {"$6\r\ngeheim", errNotRedis.Error()},
		"as a list":           {"*2\r\n$4\r\nAUTH\r\n$6\r\ngeheim", errNotRedis.Error()},
		"as a length":         {"$geheim", errNotRedis.Error()},
		"as a number of them": {"*geheim", errNotRedis.Error()},
		"as a number":         {":geheim", ""},
		"without any type":    {"geheim: command not found", errNotRedis.Error()},
		"in another language": {"HTTP/1.1 400 geheim", "it speaks HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, test.answer, "\r\n") })
			var log testbed.Transcript
			server := func() *Server { return &Server{Addresses: []string{fake}, Password: password} }
			_, state := startSubscriber(t, server(), logTo(&log))
			testbed.Eventually(t, 30*time.Second, "refused", func() bool { return state() != "" })
			_, client := NewClient(t.Context(), server(), "capture", resultChannel)
			sentinel := &Server{Addresses: []string{fake}, Master: "m", SentinelPassword: password}
			_, watch := sentinel.dial(t.Context())
			for who, text := range map[string]string{"state": state(), "log": log.String(), "client": fmt.Sprint(client),
				"sentinel": fmt.Sprint(watch)} {
				if strings.Contains(strings.ToLower(text), "geheim") {
					t.Errorf("%s: the password is shown: %s", who, text)
				}
				if !strings.Contains(text, test.want) {
					t.Errorf("%s: want %q, got %s", who, test.want, text)
				}
			}
		})
	}
}

// TestOddServersAreNamed: who answers in Redis's protocol, but something else, is said to be no Redis.
func TestOddServersAreNamed(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"+OK", "+PONG", "$-1", ":1", "*0", "*1\r\n$4\r\nPING", "*3\r\n$9\r\nsubscribe\r\n:1\r\n:1"} {
		address := startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, answer, "\r\n") })
		server := func() *Server { return &Server{Addresses: []string{address}} }
		_, client := NewClient(t.Context(), server(), "capture", resultChannel)
		_, publish := (&Client{server: server()}).Publish(t.Context(), []byte("x"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, announce := server().Announce(ctx, "capture", []byte("x"))
		cancel()
		_, keys := server().Keys(t.Context(), "x")
		for who, err := range map[string]error{"client": client, "publish": publish, "announce": announce, "keys": keys} {
			if answer == ":1" && who == "publish" { // is an answer to that
				continue
			}
			if !errors.Is(err, errNotRedis) && !errors.Is(err, errReply) {
				t.Errorf("%q, %s: want %q, got %v", answer, who, errNotRedis, err)
			}
		}
	}
}
