//go:build soak

package e2e

import (
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// soakLink is an interface that loses its name now and then, while it is recorded and captured.
const soakLink = "soak0"

// ip runs an ip command in the namespace of the test.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// addSoakLink makes the interface, and gives it packets until the test ends.
func addSoakLink(t *testing.T) {
	t.Helper()
	ip(t, "link", "add", soakLink, "type", "veth", "peer", "name", "soak1")
	ip(t, "addr", "add", "10.98.0.1/24", "dev", soakLink)
	ip(t, "link", "set", "soak1", "up")
	raiseSoakLink(t)
	conn := testbed.DialUDPAt(t, "10.98.0.2:9")
	sending := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(sending)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				_, _ = conn.Write([]byte(strconv.Itoa(n))) // the link may be down
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-sending
	})
}

// raiseSoakLink lets the interface send, without a neighbour that answers.
func raiseSoakLink(t *testing.T) {
	t.Helper()
	ip(t, "link", "set", soakLink, "up")
	ip(t, "neigh", "replace", "10.98.0.2", "lladdr", "02:00:00:00:00:02", "dev", soakLink)
}

// renameLink gives the name of the interface to another one for a while.
func renameLink(t *testing.T) {
	t.Helper()
	ip(t, "link", "set", soakLink, "down") // older kernels rename nothing else
	ip(t, "link", "set", soakLink, "name", "away0")
	ip(t, "link", "add", soakLink, "type", "veth", "peer", "name", "away1")
	ip(t, "link", "set", soakLink, "up")
	time.Sleep(1500 * time.Millisecond)
	ip(t, "link", "del", soakLink)
	ip(t, "link", "set", "away0", "name", soakLink)
	raiseSoakLink(t)
}

// idle opens more connections to the endpoint than it serves at a time, says
// nothing on them, and closes them when the test ends.
func idle(t *testing.T, port int) {
	t.Helper()
	for range 100 {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
}
