package e2e

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestInterfaceDisappears deletes an interface while it carries traffic.
func TestInterfaceDisappears(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "gone"), testbed.NewNamespace(t, "gonefar")
	ns.Pair(t, far)
	p, out := startRequest(t, ns, `{"interface":"v0","timeout":30,"bpf":"udp port 9"}`)
	ns.Do(t, func() { // somebody has to listen: a refused packet makes the next one fail
		sink, err := net.ListenPacket("udp", "10.99.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { sink.Close() })
	})
	sent := 0
	far.Do(t, func() {
		conn := testbed.DialUDPAt(t, "10.99.0.1:9")
		for ; sent < 400; sent++ {
			fmt.Fprintf(conn, "packet %08d", sent)
			time.Sleep(500 * time.Microsecond)
		}
	})
	ns.IP(t, "link", "del", "v0")
	if code := p.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	results := parseResults(out.String())
	got := results[len(results)-1]
	got.check(t, says{"state": "failed", "stop": "interface", "error": anything{}, "packets": 400})
	if found := readNumbers(t, got.File); len(found) != 400 {
		t.Errorf("want 400 packets in the file, got %d", len(found))
	}
}

// TestInterfaceDown: nothing can come, and the result says why.
func TestInterfaceDown(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "dn"), testbed.NewNamespace(t, "dnfar")
	ns.Pair(t, far)
	p, out := startRequest(t, ns, `{"interface":"v0","timeout":60,"bpf":"ether proto 0x9999"}`)
	ns.IP(t, "link", "set", "v0", "down")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	results := parseResults(out.String())
	results[len(results)-1].check(t, says{"state": "done", "error": about("down")})
}

// startRequest starts the program with -request in a namespace and waits until
// it captures. Its results can be read when it has ended.
func startRequest(t *testing.T, ns testbed.Namespace, request string) (*testbed.Process, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := ns.Command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", request)...)
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	testbed.Eventually(t, time.Minute, "capture started", func() bool {
		return strings.Contains(p.Output.String(), "capture started")
	})
	return p, &out
}
