package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestInterfaceDisappears deletes an interface while it carries traffic.
func TestInterfaceDisappears(t *testing.T) {
	ns, far := testbed.NewNamespace(t, "gone"), testbed.NewNamespace(t, "gonefar")
	ns.Pair(t, far)
	dir := t.TempDir()
	var out bytes.Buffer
	cmd := ns.Command(binary, append(keeping(dir), "-node", "web1", "-request", `{"interface":"v0","timeout":30,"bpf":"udp port 9"}`)...)
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	testbed.Eventually(t, 5*time.Second, "capture started", func() bool { return strings.Contains(p.Output.String(), "capture started") })
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
	if code := p.Wait(t, 5*time.Second); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	lines := testbed.ReadLines(out.String())
	var got reported
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatal(err)
	}
	if got.State != "failed" || got.Stop != "interface" || got.Error == "" || *got.Packets != 400 {
		t.Errorf("want all 400 packets and why there are no more, got %+v", got)
	}
	file, err := os.Open(got.File)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if found := testbed.Numbers(t, file); len(found) != 400 {
		t.Errorf("want 400 packets in the file, got %d", len(found))
	}
}

// TestInterfaceDown: nothing can come, and the result says why.
func TestInterfaceDown(t *testing.T) {
	ns, far := testbed.NewNamespace(t, "dn"), testbed.NewNamespace(t, "dnfar")
	ns.Pair(t, far)
	var out bytes.Buffer
	cmd := ns.Command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", `{"interface":"v0","timeout":2,"bpf":"ether proto 0x9999"}`)...)
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	testbed.Eventually(t, 5*time.Second, "capture started", func() bool { return strings.Contains(p.Output.String(), "capture started") })
	ns.IP(t, "link", "set", "v0", "down")
	code := p.Wait(t, 10*time.Second)
	if lines := testbed.ReadLines(out.String()); code != 0 || !strings.Contains(lines[len(lines)-1], `"state":"done"`) || !strings.Contains(lines[len(lines)-1], "down") {
		t.Errorf("want done, and that the interface is down, got %d, %s", code, out.String())
	}
}
