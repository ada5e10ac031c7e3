package tap

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// resident returns the memory of this process, in bytes.
func resident(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(content))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestFiltersAreFreed: libpcap's copy of a program goes when ours is made.
func TestFiltersAreFreed(t *testing.T) {
	large := strings.Repeat("ip6 protochain 6 or ", 30) + "udp"
	size := 0
	compile := func(times int) {
		for range times {
			answers := make(chan answer, 1)
			ask(question{iface: "lo", snap: MaxSnap, expression: large}, answers)
			a := <-answers
			if a.err != nil {
				t.Fatal(a.err)
			}
			size = 8 * len(a.filter.code)
		}
	}
	// Go's own memory comes and goes, by megabytes: it is given back before each look. What
	// the race detector and threads take grows at some time and then no more, and a leak every time.
	const programs = 2000
	compile(500)
	for range 5 {
		debug.FreeOSMemory()
		before := resident(t)
		compile(programs)
		debug.FreeOSMemory()
		grown := resident(t) - before
		if grown <= programs*size/2 {
			return
		}
		t.Logf("%d programs of %d bytes: grew by %d", programs, size, grown)
	}
	t.Error("want the memory of programs back")
}

// TestLinkTypeIsKnown: what is known of an interface before it is open holds when it is.
func TestLinkTypeIsKnown(t *testing.T) {
	ns := testbed.NewNamespace(t, "link")
	ns.IP(t, "link", "add", "d0", "type", "ifb")
	ns.IP(t, "link", "set", "d0", "up")
	ns.Do(t, func() {
		for iface, want := range map[string]int{"lo": ethernet, AnyInterface: linuxSLL2, "d0": ethernet} {
			link, known := linkType(iface)
			if !known || int(link) != want {
				t.Errorf("%s: want link type %d, got %d, %v", iface, want, link, known)
			}
			live, err := listen(question{iface: iface, snap: MaxSnap, expression: "udp port 53"})
			if err != nil {
				t.Errorf("%s: %v", iface, err)
				continue
			}
			live.Close()
		}
		if link, known := linkType("x0"); known {
			t.Errorf("want nothing known of what is not there, got %d", link)
		}
	})
}

// TestBroadcastNeedsNetmask: the mask is the interface's own.
func TestBroadcastNeedsNetmask(t *testing.T) {
	ns := testbed.NewNamespace(t, "mask")
	ns.IP(t, "link", "add", "d0", "type", "ifb")
	ns.IP(t, "link", "set", "d0", "up")
	ns.Do(t, func() {
		if _, err := listen(question{iface: "d0", snap: MaxSnap, expression: "ip broadcast"}); err == nil {
			t.Error("want an error for an interface that has no IPv4 address")
		}
		ns.IP(t, "addr", "add", "10.97.0.1/20", "dev", "d0")
		if want, got := uint32(0x00f0ffff), uint32(netmask("d0")); want != got {
			t.Errorf("want netmask %#x, got %#x", want, got)
		}
		live, err := listen(question{iface: "d0", snap: MaxSnap, expression: "ip broadcast"})
		if err != nil {
			t.Error(err)
			return
		}
		live.Close()
	})
}
