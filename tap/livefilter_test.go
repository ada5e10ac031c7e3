package tap

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcap"

	"pcapdaemon/testbed"
)

// exchangeUDP sends packets from one end of a pair of interfaces to the other
// one and back: 1 in and 1 out for each of them.
type exchangeUDP struct {
	near, far *net.UDPConn
}

// newExchange returns the ends of a pair, which know each other's addresses.
func newExchange(t *testing.T, ns, far testbed.Namespace) exchangeUDP {
	t.Helper()
	ns.Pair(t, far)
	var e exchangeUDP
	listen := func(address string, to **net.UDPConn) func() {
		return func() {
			conn, err := net.ListenPacket("udp", address)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { conn.Close() })
			*to = conn.(*net.UDPConn)
		}
	}
	ns.Do(t, listen("10.99.0.1:9", &e.near))
	far.Do(t, listen("10.99.0.2:9", &e.far))
	e.send(t, 1) // and wait for the neighbours
	return e
}

// send sends so many packets to the near end, each answered before the next.
func (e exchangeUDP) send(t *testing.T, packets int) {
	t.Helper()
	buf := make([]byte, 100)
	near, far := &net.UDPAddr{IP: net.IPv4(10, 99, 0, 1), Port: 9}, &net.UDPAddr{IP: net.IPv4(10, 99, 0, 2), Port: 9}
	for n := range packets {
		_ = e.near.SetReadDeadline(time.Now().Add(5 * time.Second))
		_ = e.far.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := e.far.WriteTo(fmt.Appendf(nil, "packet %08d", n), near); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.near.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := e.near.WriteTo(fmt.Appendf(nil, "packet %08d", n), far); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.far.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKernelJudgesAll: the first packets after the start are judged as later
// ones are, by the kernel, and none is counted that it rejects.
func TestKernelJudgesAll(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "judges"), testbed.NewNamespace(t, "judgesfar")
	e := newExchange(t, ns, far)
	ns.Do(t, func() {
		v0, err := findDevice("v0")
		if err != nil {
			t.Error(err)
			return
		}
		for _, test := range []struct {
			iface, policy, filter string
			want                  int
		}{
			{"v0", "", "inbound and udp", 10},
			{"v0", "", "outbound and udp", 10},
			{"v0", "", fmt.Sprintf("ifindex %d and udp", v0.index), 20},
			{"v0", "", fmt.Sprintf("ifindex %d and udp", v0.index+1000), 0},
			{"v0", "inbound", "udp", 10},
			{"v0", "inbound", "outbound", 0},
			{"v0", "tcp", "", 0},
			{"v0", "not udp", "inbound and udp", 0},
			{AnyInterface, "", "inbound and udp", 10},
			{AnyInterface, "", "udp port 9", 20},
			{AnyInterface, "tcp", "", 0},
		} {
			name := fmt.Sprintf("%s %q %q", test.iface, test.policy, test.filter)
			live, err := listen(question{iface: test.iface, snap: MaxSnap, policy: policy(test.policy), expression: test.filter})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			e.send(t, 10)
			packets := take(t, live, test.want+1, 3*ReadTimeout)
			stats, err := live.Stats()
			if len(packets) != test.want || stats.Received != int64(test.want) || err != nil {
				t.Errorf("%s: want %d packets, got %d, received %d, %v", name, test.want, len(packets), stats.Received, err)
			}
			live.Close()
		}
	})
}

// TestLoopbackOnce: what leaves by the loopback interface comes in there as
// well. It is captured and counted once, and takes no room twice.
func TestLoopbackOnce(t *testing.T) {
	ns := testbed.NewNamespace(t, "once")
	ns.Do(t, func() {
		sink, err := net.ListenPacket("udp", "127.0.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer sink.Close()
		conn := testbed.DialUDP(t, 9)
		for iface, filters := range map[string][]string{
			"lo": {"", "udp", "inbound", "udp[8:4] = 0x70616e6b"}, AnyInterface: {"", "udp", "inbound"},
		} {
			for _, filter := range filters {
				live, err := listen(question{iface: iface, snap: MaxSnap, expression: filter})
				if err != nil {
					t.Error(err)
					return
				}
				want := 20
				if strings.HasPrefix(filter, "udp[") {
					want = 0
				}
				for n := range 20 {
					fmt.Fprintf(conn, "packet %08d", n)
				}
				packets := take(t, live, 21, 3*ReadTimeout)
				stats, err := live.Stats()
				if len(packets) != want || stats.Received != int64(want) || err != nil {
					t.Errorf("%s %q: want %d packets, got %d, received %d, %v", iface, filter, want, len(packets),
						stats.Received, err)
				}
				kernel, err := live.counts()
				if got := kernel.Received - live.before.Received; got != int64(want) || err != nil {
					t.Errorf("%s %q: want room taken for %d packets, got %d, %v", iface, filter, want, got, err)
				}
				live.Close()
			}
		}
	})
}

// TestNothingReceivedUnderFlood: a filter that no packet passes receives none and
// drops none, even if the kernel's buffer was full before it was there.
func TestNothingReceivedUnderFlood(t *testing.T) {
	t.Parallel()
	l := newLink(t)
	startSender(t, l.other, "v1", 0, 1400)
	l.recorded.Do(t, func() {
		const snap = 1500 // or the kernel's buffer would have larger blocks, and not be full at once
		filter, err := newCompiler(t).Compile(t.Context(), loopbackName, snap, "tcp port 9999")
		if err != nil {
			t.Error(err)
			return
		}
		for range 10 {
			live, err := Open(Options{Interface: "v0", Filter: filter, Snap: snap, BufferSize: 1 << 13})
			if err != nil {
				t.Error(err)
				return
			}
			packets := take(t, live, 1, ReadTimeout/2)
			stats, err := live.Stats()
			if len(packets) != 0 || stats != (Stats{}) || err != nil {
				t.Errorf("want nothing, got %d packets, %+v, %v", len(packets), stats, err)
			}
			live.Close()
		}
	})
}

// TestFilterOfUserSpace: what the kernel cannot run is judged all the same, by the length that
// a packet had and the bytes that are there.
func TestFilterOfUserSpace(t *testing.T) {
	const snap = 50
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	for _, test := range []struct {
		iface, filter string
		want          int
		inKernel      bool
	}{
		{"lo", stream.Filter(), 5, true},
		{"lo", "ip protochain 17 and " + stream.Filter(), 5, false},
		{"lo", "ip protochain 6 and " + stream.Filter(), 0, false},
		{"lo", "ip protochain 17 and len = 57 and " + stream.Filter(), 5, false},    // of which less is captured
		{"lo", "ip protochain 17 and ip[36] >= 0 and " + stream.Filter(), 0, false}, // that is not there
		{AnyInterface, "link[11] = 6 and " + stream.Filter(), 5, false},             // length of the address
		{AnyInterface, "link[11] = 7 and " + stream.Filter(), 0, false},
		{AnyInterface, "link[10] = 0 and " + stream.Filter(), 5, true}, // to us
		{AnyInterface, "link[10] = 1 and " + stream.Filter(), 0, true},
	} {
		live, err := listen(question{iface: test.iface, snap: snap, expression: test.filter})
		if err != nil {
			t.Errorf("%s %.80q: %v", test.iface, test.filter, err)
			continue
		}
		if inKernel := live.copying.filter == nil; inKernel != test.inKernel {
			t.Errorf("%s %.80q: want it judged by the kernel %v, got %v", test.iface, test.filter, test.inKernel, inKernel)
		}
		if packets := take(t, live, max(test.want, 1), 5*ReadTimeout); len(packets) != test.want {
			t.Errorf("%s %.80q: want %d packets, got %d", test.iface, test.filter, test.want, len(packets))
		}
		live.Close()
	}
	_, err := listen(question{iface: "lo", snap: MaxSnap, expression: "ip protochain 17 and inbound"})
	if err == nil || !strings.HasPrefix(err.Error(), "bpf: set filter") {
		t.Errorf("want a filter refused that nobody can judge, got %v", err)
	}
}

// TestFilterTooLongForKernel: a program of more instructions than the kernel takes.
func TestFilterTooLongForKernel(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	for last, want := range map[int]int{0: 0, MaxSnap: 5} {
		code := program{}
		for range 5000 {
			code = append(code, pcap.BPFInstruction{Code: bpfLD}) // an immediate load: nothing changes
		}
		filter := &Filter{link: 1, code: append(code, accept(last))}
		live, err := Open(Options{Interface: "lo", Filter: filter, Snap: MaxSnap, BufferSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if packets := take(t, live, max(want, 1), 5*ReadTimeout); len(packets) != want {
			t.Errorf("want %d packets, got %d", want, len(packets))
		}
		live.Close()
	}
	stream.Stop()
}
