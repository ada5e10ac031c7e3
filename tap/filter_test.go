package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcap"

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

// TestFiltersOfUserSpaceAreFreed: the copy of a program goes with the interface that it was for.
func TestFiltersOfUserSpaceAreFreed(t *testing.T) {
	testbed.NeedRoot(t)
	const opened = 8
	code := append(make(program, 1<<16-2), accept(100)) // of immediate loads, and more than the kernel takes
	open := func() {
		live, err := Open(Options{Interface: "lo", Filter: &Filter{link: ethernet, code: code}, Snap: 100, BufferSize: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		live.Close()
	}
	open()
	for range 5 { // as above
		debug.FreeOSMemory()
		before := resident(t)
		for range opened {
			open()
		}
		debug.FreeOSMemory()
		grown := resident(t) - before
		if grown <= opened*8*len(code)/2 {
			return
		}
		t.Logf("%d programs of %d bytes: grew by %d", opened, 8*len(code), grown)
	}
	t.Error("want the memory of programs back")
}

// TestCompilingLeavesNothing: an interface that has to be open for a filter is closed again.
func TestCompilingLeavesNothing(t *testing.T) {
	ns := testbed.NewNamespace(t, "compile")
	ns.Do(t, func() {
		answers := make(chan answer, 1)
		ask(question{iface: "lo", snap: MaxSnap, expression: "vlan 7"}, answers)
		_, err := newStill(t).compile("vlan 7")
		if err := errors.Join(err, (<-answers).err); err != nil {
			t.Error(err)
		}
		if left := packetSockets(t); left != 0 {
			t.Errorf("want nothing left open, got %d packet sockets", left)
		}
	})
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
		if want, got := uint32(0xfffff000), uint32(netmask("d0")); want != got {
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

// TestBroadcastIsTold: a broadcast of the interface's network is one, live and
// in what is recorded, whatever the order of the mask's bytes.
func TestBroadcastIsTold(t *testing.T) {
	l := newLink(t)
	l.recorded.IP(t, "addr", "flush", "dev", "v0")
	l.recorded.IP(t, "addr", "add", "10.97.0.1/20", "dev", "v0")
	r := startRecorder(t, l.recorded, recordV0(), MinRecorder)
	r.awaitUp(t)
	live := openAll(t, l.recorded, recordV0(), []string{"ip broadcast"})
	var frames, want [][]byte
	for address, isBroadcast := range map[string]bool{
		"10.97.15.255": true, "10.97.0.0": true, "255.255.255.255": true,
		"10.97.0.255": false, "10.97.15.0": false, "10.97.0.1": false, "10.255.255.255": true, "10.97.255.7": false,
	} {
		frame := numberedFrame(1, 100)
		copy(frame[30:], net.ParseIP(address).To4())
		frame = append(frame, fmt.Sprintf("%s frame %05d", address, len(frames))...)
		frames = append(frames, frame)
		if isBroadcast {
			want = append(want, frame)
		}
	}
	sendFrames(t, l.other, "v1", frames)
	if got := onlyNumbered(takeAll(live)[0]); !reflect.DeepEqual(want, got) {
		t.Errorf("live: want %q, got %q", want, got)
	}
	testbed.Eventually(t, 5*time.Second, "all recorded", func() bool {
		return len(onlyNumbered(r.readPast(t, ""))) == len(frames)
	})
	l.recorded.Do(t, func() {
		filter, err := r.compile("ip broadcast")
		if err != nil {
			t.Error(err)
			return
		}
		reader, err := r.Read(ReaderOptions{Filter: filter, Snap: MaxSnap, From: time.Unix(0, 0), Past: true})
		if err != nil {
			t.Error(err)
			return
		}
		if got := onlyNumbered(drain(t, reader, time.Now())); !reflect.DeepEqual(want, got) {
			t.Errorf("recorded: want %q, got %q", want, got)
		}
	})
}

// TestRecordedBroadcastHasTodaysNetmask: a filter for what is recorded has the mask
// that the interface has when it is compiled; while it is away, the one it had when
// it was opened last.
func TestRecordedBroadcastHasTodaysNetmask(t *testing.T) {
	ns := testbed.NewNamespace(t, "today")
	makeLink := func() {
		t.Helper()
		ns.IP(t, "link", "add", "d0", "type", "ifb")
		ns.IP(t, "link", "set", "d0", "up")
	}
	makeLink()
	r := startRecorder(t, ns, Options{Interface: "d0", Snap: MaxSnap}, MinRecorder)
	r.awaitUp(t)
	hosts := func(want uint32) {
		t.Helper()
		ns.Do(t, func() {
			f, err := r.compile("ip broadcast")
			if err != nil {
				t.Error(err)
				return
			}
			if !slices.ContainsFunc(f.code, func(i pcap.BPFInstruction) bool { return i.K == want }) {
				t.Errorf("want the part of hosts %#x, got %v", want, f.code)
			}
		})
	}
	ns.Do(t, func() {
		if _, err := r.compile("ip broadcast"); err == nil || !strings.Contains(err.Error(), "netmask not known") {
			t.Errorf("want no filter while there is no address, got %v", err)
		}
	})
	ns.IP(t, "addr", "add", "10.97.0.1/20", "dev", "d0")
	hosts(0xfff)
	ns.IP(t, "addr", "flush", "dev", "d0")
	ns.IP(t, "addr", "add", "10.97.0.1/25", "dev", "d0")
	hosts(0x7f)

	ns.IP(t, "link", "del", "d0")
	<-r.said
	makeLink()
	ns.IP(t, "addr", "add", "10.97.0.1/28", "dev", "d0")
	r.awaitUp(t)
	hosts(0xf)
	ns.IP(t, "addr", "flush", "dev", "d0")
	ns.IP(t, "addr", "add", "10.97.0.1/26", "dev", "d0")
	hosts(0x3f)
	ns.IP(t, "link", "del", "d0")
	<-r.said
	hosts(0xf)
}
