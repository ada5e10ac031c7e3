package pubsub

import (
	"crypto/x509"
	"fmt"
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
	testbed.Eventually(t, 5*time.Second, "subscribed", func() bool { return state() == "subscribed" })
	checkReceives(t, r, messages)

	_, distrusting := startSubscriber(t, &Server{Addresses: []string{address}, TLS: true}, quietLog())
	testbed.Eventually(t, 5*time.Second, "certificate refused", func() bool {
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
