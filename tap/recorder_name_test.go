package tap

import (
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestRecorderLosesItsName: an interface that gets another name has vanished,
// and what gets the name is recorded.
func TestRecorderLosesItsName(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), 4<<20)
	r.awaitUp(t)
	first := startSender(t, l.other, "v1", time.Millisecond, 100)
	time.Sleep(200 * time.Millisecond)
	l.recorded.IP(t, "link", "set", "v0", "name", "private0")
	select {
	case said := <-r.said:
		if !strings.Contains(said, "disappeared") {
			t.Errorf("want that it disappeared, was told %q", said)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("the recorder does not notice")
	}
	before := len(r.readPast(t, "udp"))
	l.recorded.IP(t, "link", "add", "v0", "type", "veth", "peer", "name", "v9")
	l.recorded.IP(t, "link", "set", "v9", "up")
	l.recorded.IP(t, "link", "set", "v0", "up")
	r.awaitUp(t)
	time.Sleep(3 * ReadTimeout)
	first.stop()
	if got := len(r.readPast(t, "udp")); got != before {
		t.Errorf("want no packet of the interface that has lost the name, got %d", got-before)
	}
}
