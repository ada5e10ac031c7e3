package tap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// TestRingSocketIsNotPolled: Go's poller does not wait for the socket. It would
// wake up for each block, which costs several times what recording does.
func TestRingSocketIsNotPolled(t *testing.T) {
	testbed.NeedRoot(t)
	s, _, err := openRingSocket(geometryOf(MinRecorder), false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	pipe, _, err := os.Pipe() // which is polled
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	polled := polledDescriptors(t)
	if len(polled) == 0 {
		t.Fatal("want something polled, got nothing")
	}
	if polled[fmt.Sprint(s.fd())] {
		t.Error("want the socket left alone, got it polled")
	}
}

// TestClosedSocketRecordsNothing: also when somebody else keeps it open, as the
// mapping of its ring does.
func TestClosedSocketRecordsNothing(t *testing.T) {
	ns := testbed.NewNamespace(t, "closed")
	ns.Do(t, func() {
		s, _, err := openRingSocket(geometryOf(MinRecorder), false)
		if err != nil {
			t.Error(err)
			return
		}
		kept, err := unix.Dup(s.fd())
		if err != nil {
			t.Error(err)
		}
		defer unix.Close(kept)
		index, err := interfaceIndex(loopbackName)
		if err == nil {
			err = s.bind(index)
		}
		if err != nil {
			t.Error(err)
		}
		came := func() bool {
			sendFrames(t, ns, loopbackName, [][]byte{udpFrame(100, 9)})
			stats, err := unix.GetsockoptTpacketStatsV3(kept, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				t.Error(err)
				return false
			}
			return stats.Packets > 0
		}
		if !came() {
			t.Error("want a packet while it is open, got none")
		}
		s.close()
		if came() {
			t.Error("want no packet when it is closed, got one")
		}
	})
}

// polledDescriptors returns the descriptors that epoll instances of this process wait for.
func polledDescriptors(t *testing.T) map[string]bool {
	t.Helper()
	polled := map[string]bool{}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !strings.Contains(target, "eventpoll") {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range testbed.ReadLines(string(info)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "tfd:" {
				polled[fields[1]] = true
			}
		}
	}
	return polled
}

// openBound returns a socket with a ring, in the namespace of the caller, that records an interface.
func openBound(t *testing.T, name string) *ringSocket {
	t.Helper()
	s, blocks, err := openRingSocket(geometryOf(MinRecorder), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.close()
		_ = unix.Munmap(blocks)
	})
	index, err := interfaceIndex(name)
	if err == nil {
		err = s.attach(program{accept(MaxSnap)})
	}
	if err == nil {
		err = s.bind(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBindAfterDown: that the interface before went down is no word about the next.
func TestBindAfterDown(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	l.recorded.Do(t, func() {
		s := openBound(t, "v0")
		l.recorded.IP(t, "link", "set", "v0", "down")
		index, err := interfaceIndex(loopbackName)
		if err == nil {
			err = s.bind(index)
		}
		if err != nil || s.bound() != index {
			t.Errorf("want it bound to %d, got %d, %v", index, s.bound(), err)
		}
	})
}

// TestRecordedLinkLeavesNothing: an interface that has to be opened for its link type is closed again.
func TestRecordedLinkLeavesNothing(t *testing.T) {
	ns := testbed.NewNamespace(t, "linkleft")
	newTun(t, ns, "ppp", unix.ARPHRD_PPP)
	ns.Do(t, func() {
		if link, err := recordedLink("ppp", MaxSnap); link != 113 || err != nil {
			t.Errorf("want link type 113, got %d, %v", link, err)
		}
		if left := packetSockets(t); left != 0 {
			t.Errorf("want nothing left open, got %d packet sockets", left)
		}
	})
}
