package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// collect opens an interface and returns so many packets, or those of two seconds.
func collect(t *testing.T, q question, packets int) ([]Packet, *Live) {
	t.Helper()
	live, err := listen(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(live.Close)
	return take(t, live, packets, 2*time.Second), live
}

// take returns so many packets of a source, one by one, or those that come within the time.
func take(t *testing.T, live *Live, packets int, within time.Duration) []Packet {
	t.Helper()
	var found []Packet
	for deadline := time.Now().Add(within); len(found) < packets && time.Now().Before(deadline); {
		p, err := live.Next()
		if errors.Is(err, ErrTimeout) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		p.Data = bytes.Clone(p.Data)
		found = append(found, p)
	}
	return found
}

// listen opens an interface where the caller is, which may be another
// namespace than that of other goroutines.
func listen(q question) (*Live, error) {
	answers := make(chan answer, 1)
	ask(q, answers)
	a := <-answers
	if a.err != nil {
		return nil, a.err
	}
	return Open(Options{Interface: q.iface, Filter: a.filter, Snap: q.snap, BufferSize: 4 << 20})
}

func TestSnapshotLength(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	packets, live := collect(t, question{iface: "lo", snap: 50, expression: stream.Filter()}, 1)
	if len(packets) != 1 {
		t.Fatal("no packet")
	}
	for name, pair := range map[string][2]int{
		"snapshot length": {50, live.SnapLen()}, "captured": {50, packets[0].CaptureLength},
		"on the wire": {42 + 15, packets[0].Length}, "data": {50, len(packets[0].Data)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: want %d, got %d", name, pair[0], pair[1])
		}
	}
}

func TestLinkTypes(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	for iface, want := range map[string]int{"lo": ethernet, AnyInterface: linuxSLL2} {
		packets, live := collect(t, question{iface: iface, snap: MaxSnap, expression: stream.Filter()}, 5)
		if live.LinkType() != want || len(packets) != 5 {
			t.Errorf("%s: want 5 packets of link type %d, got %d of %d", iface, want, len(packets), live.LinkType())
		}
	}
}

// TestTunIsRawIP: the file's link type for raw IP is another one than the handle's.
func TestTunIsRawIP(t *testing.T) {
	ns := testbed.NewNamespace(t, "tun")
	ns.Do(t, func() {
		device, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		if err != nil {
			testbed.Lack(t, "/dev/net/tun")
		}
		defer unix.Close(device)
		request, err := unix.NewIfreq("tun0")
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(device, unix.TUNSETIFF, request)
		}
		if err != nil {
			t.Error(err)
			return
		}
		ns.IP(t, "addr", "add", "10.98.0.1/24", "dev", "tun0")
		ns.IP(t, "link", "set", "tun0", "up")
		conn, err := net.Dial("udp", "10.98.0.2:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		live, err := listen(question{iface: "tun0", snap: MaxSnap, expression: "udp port 9"})
		if err != nil {
			t.Error(err)
			return
		}
		defer live.Close()
		for n := range 5 {
			fmt.Fprintf(conn, "packet %08d", n)
		}
		packets := take(t, live, 5, 2*time.Second)
		if live.LinkType() != int(layers.LinkTypeRaw) || len(packets) != 5 || packets[0].Data[0] != 0x45 {
			t.Errorf("want 5 packets of raw IP, got %d of link type %d", len(packets), live.LinkType())
		}
	})
}

// TestVLANFilter needs the filter to be compiled for the open interface: the
// kernel keeps the tag beside the packet.
func TestVLANFilter(t *testing.T) {
	ns, far := testbed.NewNamespace(t, "vlan"), testbed.NewNamespace(t, "vlanfar")
	ns.Pair(t, far)
	frame := append(bytes.Repeat([]byte{0xff}, 12), 0x81, 0, 0, 5, 0x99, 0x99)
	frame = append(frame, make([]byte, 50)...)
	var sender *pcap.Handle
	far.Do(t, func() { sender, _ = pcap.OpenLive("v1", 100, false, time.Second) })
	if sender == nil {
		t.Fatal("no handle to send with")
	}
	defer sender.Close()
	ns.Do(t, func() {
		for _, test := range []struct {
			policy policy
			filter string
			want   int
		}{
			{"", "vlan 5", 3}, {"", "vlan 6", 0}, {"", "vlan 5 and ether proto 0x9999", 3},
			{"vlan 5", "", 3}, {"vlan 5", "ether proto 0x9999", 3},
		} {
			live, err := listen(question{iface: "v0", snap: MaxSnap, policy: test.policy, expression: test.filter})
			if err != nil {
				t.Error(err)
				continue
			}
			for range 3 {
				if err := sender.WritePacketData(frame); err != nil {
					t.Error(err)
				}
			}
			if packets := take(t, live, max(test.want, 1), time.Second); len(packets) != test.want {
				t.Errorf("%q %q: want %d packets, got %d", test.policy, test.filter, test.want, len(packets))
			}
			live.Close()
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	testbed.NeedRoot(t)
	ns := testbed.NewNamespace(t, "open")
	ns.IP(t, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ns.Do(t, func() {
		for name, test := range map[string]struct {
			options Options
			culprit string
		}{
			"unknown interface":            {Options{Interface: "eth9"}, `interface: "eth9"`},
			"libpcap's other devices":      {Options{Interface: "nflog"}, "interface"},
			"an address as interface":      {Options{Interface: "rpcap://127.0.0.1/lo"}, "interface"},
			"interface is down":            {Options{Interface: "d0"}, "down"},
			"filter for another link type": {Options{Interface: "lo", Filter: &Filter{link: 101}}, "bpf: filter"},
		} {
			test.options.Snap, test.options.BufferSize = MaxSnap, 1<<20
			live, err := Open(test.options)
			if err == nil {
				live.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.culprit) {
				t.Errorf("%s: want %q in the error, got %v", name, test.culprit, err)
			}
			if left := packetSockets(t); left != 0 {
				t.Errorf("%s: want nothing left open, got %d packet sockets", name, left)
			}
		}
	})
}

// packetSockets returns how many packet sockets there are in the network namespace of
// this thread, of which no other test is to have any there.
func packetSockets(t *testing.T) int {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		t.Error(err)
	}
	return bytes.Count(table, []byte{'\n'}) - 1 // the first line has the names of the columns
}

// TestPromiscuous: frames for other stations are captured and recorded, too.
func TestPromiscuous(t *testing.T) {
	ns := testbed.NewNamespace(t, "promisc")
	ns.IP(t, "link", "add", "d0", "type", "ifb")
	ns.IP(t, "link", "set", "d0", "up")
	promiscuous := func() bool {
		out, err := ns.Command("ip", "-d", "link", "show", "d0").Output()
		return err == nil && strings.Contains(string(out), "promiscuity 1 ")
	}
	ns.Do(t, func() {
		live, err := Open(Options{Interface: "d0", Snap: MaxSnap, BufferSize: 1 << 20})
		if err != nil {
			t.Error(err)
			return
		}
		if !promiscuous() {
			t.Error("want the interface promiscuous while it is open")
		}
		live.Close()
		if promiscuous() {
			t.Error("want the interface no longer promiscuous when it is closed")
		}
		openBound(t, "d0")
		if !promiscuous() {
			t.Error("want the interface promiscuous while it is recorded")
		}
	})
}

// TestBufferSize: what nobody reads is kept by the kernel, as much as was asked for, and
// the pauses between two looks, while packets come fast, are reckoned by that.
func TestBufferSize(t *testing.T) {
	ns := testbed.NewNamespace(t, "ring")
	ns.Do(t, func() {
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		const packets, size = 2000, 1000
		for buffer, lossless := range map[int]bool{512 << 10: false, 8 << 20: true} {
			live, err := Open(Options{Interface: "lo", Snap: MaxSnap, BufferSize: buffer})
			if err != nil {
				t.Error(err)
				return
			}
			for range packets {
				_, _ = conn.Write(make([]byte, size)) // some answers say that nobody listens
			}
			stats, err := live.Stats()
			if err != nil || stats.Received != stats.Dropped || (stats.Dropped == 0) != lossless {
				t.Errorf("%d bytes: want lossless %v, and none received that nobody took, got %+v, %v", buffer, lossless, stats, err)
			}
			if got := int(live.copying.buffer); got != buffer {
				t.Errorf("want pauses for a buffer of %d bytes, got those for %d", buffer, got)
			}
			live.Close()
		}
	})
}

func TestInterfaceGoesDownAndUp(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "down"), testbed.NewNamespace(t, "downfar")
	ns.Pair(t, far)
	ns.Do(t, func() {
		live, err := listen(question{iface: "v0", snap: MaxSnap, expression: "udp port 9"})
		if err != nil {
			t.Error(err)
			return
		}
		defer live.Close()
		for _, state := range []string{"down", "up", "down", "up"} {
			ns.IP(t, "link", "set", "v0", state)
			for range 5 { // what comes is an error or a timeout, and goes away
				_, _ = live.Next()
			}
		}
		conn := testbed.DialUDPAt(t, "10.99.0.2:9")
		for range 10 { // the first ones may wait for the neighbour, and be too many
			_, _ = conn.Write([]byte("x"))
			time.Sleep(10 * time.Millisecond)
		}
		if packets := take(t, live, 3, 5*time.Second); len(packets) != 3 {
			t.Errorf("want 3 packets from after the outages, got %d", len(packets))
		}
	})
}

// writeFile writes a capture file of packets that are a millisecond apart, of
// sizes from 60 to 9059 bytes, and returns its path and content.
func writeFile(t *testing.T, start time.Time, packets int) (path string, content []byte) {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(65536, layers.LinkTypeEthernet)
	for n := range packets {
		data := bytes.Repeat([]byte{byte(n)}, 60+n*37%9000)
		_ = w.WritePacket(gopacket.CaptureInfo{Timestamp: start.Add(time.Duration(n) * time.Millisecond),
			CaptureLength: len(data), Length: len(data) + n%2}, data)
	}
	path = filepath.Join(t.TempDir(), "in.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, file.Bytes()
}

// unlimited allows everything until the end.
func unlimited(end *atomic.Int64) *Quota {
	return &Quota{End: end, Packets: math.MaxInt64, Bytes: math.MaxInt64, Layout: RecordLayout()}
}

// TestCopyIsTheFile: what is copied in bulk, and one by one where that stops,
// is the file again, stamps and original lengths included.
func TestCopyIsTheFile(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	path, content := writeFile(t, start, 1500)
	for name, sizes := range map[string][]int{"room for all": {16 << 20}, "room for few": {20_000}, "room for none": {10},
		"no room": nil, "many rooms": {9000, 1, 7, 20_000, 15, 9000}, "more rooms than can be used": make([]int, 100),
		"room for all in two": {3 << 20, 16 << 20}} {
		live, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var end atomic.Int64
		end.Store(start.Add(time.Hour).UnixNano())
		got := bytes.Clone(content[:24])
		q := unlimited(&end)
		for err == nil {
			rooms := make([][]byte, len(sizes))
			for i, size := range sizes {
				rooms[i] = make([]byte, size)
			}
			q.Packets = q.Copied.Packets.Load() + 1000
			n := live.Copy(rooms, q)
			got = append(got, bytes.Join(rooms, nil)[:n]...)
			var p Packet
			if p, err = live.Next(); err == nil {
				got = binary.LittleEndian.AppendUint32(got, uint32(p.Timestamp.Unix()))
				got = binary.LittleEndian.AppendUint32(got, uint32(p.Timestamp.Nanosecond()/1000))
				got = binary.LittleEndian.AppendUint32(got, uint32(p.CaptureLength))
				got = binary.LittleEndian.AppendUint32(got, uint32(p.Length))
				got = append(got, p.Data...)
				q.Copied.Records.Add(int64(recordHeader + len(p.Data))) // as a capture counts it
			}
			if want, records := int64(len(got)-24), q.Copied.Records.Load(); want != records {
				t.Errorf("%s: want %d bytes of records counted, got %d", name, want, records)
				break
			}
		}
		live.Close()
		if !errors.Is(err, ErrEnd) || !bytes.Equal(content, got) {
			t.Errorf("%s: want the %d bytes of the file and its end, got %d, %v", name, len(content), len(got), err)
		}
	}
}

// TestCopyObeysLayout: as much is copied as the file may hold, whatever a
// packet takes in it, and not a packet less.
func TestCopyObeysLayout(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	path, _ := writeFile(t, start, 500)
	for _, layout := range []Layout{
		RecordLayout(), {PerPacket: 32, Align: 4}, {PerPacket: 0, Align: 1}, {PerPacket: 100, Align: 64},
	} {
		for _, limit := range []int64{0, 60, 76, 91, 92, 10_000, 100_000, 1_000_001} {
			live, err := OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var end atomic.Int64
			end.Store(start.Add(time.Hour).UnixNano())
			q := unlimited(&end)
			q.Layout, q.Bytes = layout, limit
			live.Copy([][]byte{make([]byte, 16<<20)}, q)
			var packets, size int64
			for ; packets < 500 && size+layout.Size(60+int(packets)*37%9000) <= limit; packets++ {
				size += layout.Size(60 + int(packets)*37%9000)
			}
			if p, s := q.Copied.Packets.Load(), q.Copied.Bytes.Load(); p != packets || s != size {
				t.Errorf("%+v, %d bytes: want %d packets of %d bytes, got %d of %d", layout, limit, packets, size, p, s)
			}
			live.Close()
		}
	}
}

// TestNanoseconds: records have the stamps that they are asked for.
func TestNanoseconds(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	for nanos, unit := range map[bool]time.Duration{true: time.Nanosecond, false: time.Microsecond} {
		answers := make(chan answer, 1)
		ask(question{iface: "lo", snap: MaxSnap, expression: stream.Filter()}, answers)
		began := time.Now().Truncate(time.Microsecond)
		live, err := Open(Options{Interface: "lo", Filter: (<-answers).filter, Snap: MaxSnap,
			BufferSize: 1 << 20, Nanos: nanos})
		if err != nil {
			t.Fatal(err)
		}
		var end atomic.Int64
		end.Store(began.Add(300 * time.Millisecond).UnixNano())
		room := make([]byte, 1<<20)
		size := live.Copy([][]byte{room}, unlimited(&end))
		live.Close()
		if size == 0 {
			t.Error("no packets")
		}
		for at := 0; at < size; {
			word := func(i int) int64 { return int64(binary.LittleEndian.Uint32(room[at+4*i:])) }
			stamp := time.Unix(word(0), word(1)*int64(unit))
			if stamp.Before(began) || stamp.After(time.Now()) || word(1)*int64(unit) >= int64(time.Second) {
				t.Fatalf("nanoseconds %v: want stamps of now, got %v at %v", nanos, stamp, began)
			}
			at += 16 + int(word(2))
		}
	}
}

// TestCopyWhenClockIsSetBack: a packet that seems to be older than the beginning
// is left out for a second. Later that is the work of a clock that was set back:
// it is wanted, and so are all that follow.
func TestCopyWhenClockIsSetBack(t *testing.T) {
	testbed.NeedRoot(t)
	t.Parallel()
	const wanted = 200
	stream := testbed.StartStream(t, time.Millisecond)
	live, err := listen(question{iface: "lo", snap: MaxSnap, expression: stream.Filter()})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	began := time.Now()
	live.begin(began.Add(5 * time.Minute))
	var end atomic.Int64
	end.Store(began.Add(time.Hour).UnixNano())
	defer time.AfterFunc(20*time.Second, func() { end.Store(began.UnixNano()) }).Stop() // or it would wait for ever
	room, q := make([]byte, 1<<20), unlimited(&end)
	copyTo := func(packets int64) []int {
		q.Packets = packets
		return numbersOf(parse(t, room[:live.Copy([][]byte{room}, q)]))
	}
	first := copyTo(1)
	if took := time.Since(began); len(first) != 1 || took < time.Second {
		t.Fatalf("want a packet when a second has passed, got %d after %v", len(first), took)
	}
	next, err := live.Next()
	if err != nil {
		t.Fatal(err)
	}
	numbers := slices.Concat(first, numbersOf([]Packet{next}), copyTo(wanted))
	if len(numbers) != wanted+1 {
		t.Errorf("want %d packets, got %d", wanted+1, len(numbers))
	}
	testbed.CheckNoGap(t, numbers)
}

// TestCopyWhenClockIsSetBackLater: when a packet from after the beginning has come, no
// older one is to be expected: what seems to be is wanted at once.
func TestCopyWhenClockIsSetBackLater(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(65536, layers.LinkTypeEthernet)
	for number, second := range []time.Duration{-2, -1, 0, -3, -2, 1} {
		data := fmt.Appendf(nil, "packet %08d", number)
		_ = w.WritePacket(gopacket.CaptureInfo{Timestamp: begin.Add(second * time.Second),
			CaptureLength: len(data), Length: len(data)}, data)
	}
	path := filepath.Join(t.TempDir(), "back.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	live.begin(begin)
	live.copying.settled = math.MaxInt64 // older ones are left out for as long as the test takes
	room := make([]byte, 1<<10)
	size := live.Copy([][]byte{room}, unlimited(never))
	if want, got := []int{2, 3, 4, 5}, numbersOf(parse(t, room[:size])); !slices.Equal(want, got) {
		t.Errorf("want packets %d, got %d", want, got)
	}
}

// TestPacketsAreFreed: the memory of a packet that was handed out goes when the next one is.
func TestPacketsAreFreed(t *testing.T) {
	const packets = 1500
	path, _ := writeFile(t, time.Unix(1_700_000_000, 0), packets)
	live, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	places := map[*byte]bool{}
	for range packets {
		p, err := live.Next()
		if err != nil {
			t.Fatal(err)
		}
		places[&p.Data[0]] = true
	}
	if len(places) > packets/2 { // what is not freed is never found at the same place
		t.Errorf("want the memory of packets used again, got %d places for %d", len(places), packets)
	}
}

// TestCopyWaits: one call copies all that comes until the end, which may be
// moved meanwhile; the packet that is not older waits for Next.
func TestCopyWaits(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	live, err := listen(question{iface: "lo", snap: MaxSnap, expression: stream.Filter()})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	var end atomic.Int64
	end.Store(time.Now().Add(time.Hour).UnixNano())
	start := time.Now()
	q := unlimited(&end)
	var seen atomic.Int64 // packets, while Copy goes on
	time.AfterFunc(500*time.Millisecond, func() {
		seen.Store(q.Copied.Packets.Load())
		end.Store(time.Now().UnixNano())
	})
	bytes := live.Copy([][]byte{make([]byte, 1<<20)}, q)
	packets := q.Copied.Packets.Load()
	took := time.Since(start)
	if packets < 400 || took < 500*time.Millisecond || took > 500*time.Millisecond+3*ReadTimeout {
		t.Errorf("want the packets of half a second at once, got %d after %v", packets, took)
	}
	if sofar := seen.Load(); sofar < 200 || sofar > packets {
		t.Errorf("want most of them seen on the way, got %d of %d", sofar, packets)
	}
	if want := packets * (16 + 42 + 15); int64(bytes) != want {
		t.Errorf("want %d bytes, got %d", want, bytes)
	}
	if p, err := live.Next(); err != nil || p.Timestamp.UnixNano() < end.Load() {
		t.Errorf("want the first packet that is not older than the end, got %v, %v", p.Timestamp, err)
	}
}

// TestCopyEndsOnQuietLink: no packet has to come for the end to be seen.
func TestCopyEndsOnQuietLink(t *testing.T) {
	ns := testbed.NewNamespace(t, "quiet")
	ns.IP(t, "link", "add", "d0", "type", "ifb")
	ns.IP(t, "link", "set", "d0", "up")
	ns.Do(t, func() {
		for _, state := range []string{"up", "down"} {
			live, err := listen(question{iface: "d0", snap: MaxSnap, expression: "udp"})
			if err != nil {
				t.Error(err)
				return
			}
			ns.IP(t, "link", "set", "d0", state)
			var end atomic.Int64
			end.Store(time.Now().Add(time.Hour).UnixNano())
			time.AfterFunc(time.Second, func() { end.Store(time.Now().UnixNano()) })
			start, before := time.Now(), threadTime(t)
			packets := live.Copy([][]byte{make([]byte, 1<<20)}, unlimited(&end))
			took, used := time.Since(start), threadTime(t)-before
			if _, err := live.Next(); packets != 0 || !errors.Is(err, ErrTimeout) {
				t.Errorf("%s: want no packets and %v, got %d and %v", state, ErrTimeout, packets, err)
			}
			if took < time.Second+2*ReadTimeout || took > time.Second+4*ReadTimeout {
				t.Errorf("%s: want it over two read timeouts after a second, took %v", state, took)
			}
			if used > 20*time.Millisecond {
				t.Errorf("%s: want next to no processor time while nothing comes, used %v", state, used)
			}
			live.Close()
		}
	})
}

// threadTime returns the processor time that this thread has used.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		t.Error(err)
	}
	return time.Duration(used.Nano())
}

// TestCopyStops: before the end, and after as many as are wanted.
func TestCopyStops(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	path, _ := writeFile(t, start, 1500)
	for name, test := range map[string]struct {
		until time.Duration
		most  int64
		want  int64
	}{
		"at the end":      {100 * time.Millisecond, 1000, 100},
		"as many":         {time.Hour, 50, 50},
		"none are wanted": {time.Hour, 0, 0},
		"end has passed":  {0, 1000, 0},
	} {
		live, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var end atomic.Int64
		end.Store(start.Add(test.until).UnixNano())
		q := unlimited(&end)
		q.Packets = test.most
		live.Copy([][]byte{make([]byte, 16<<20)}, q)
		if got := q.Copied.Packets.Load(); got != test.want {
			t.Errorf("%s: want %d packets, got %d", name, test.want, got)
		}
		if p, err := live.Next(); err != nil || !p.Timestamp.Equal(start.Add(time.Duration(test.want)*time.Millisecond)) {
			t.Errorf("%s: want the packet behind them, got %v, %v", name, p.Timestamp, err)
		}
		live.Close()
	}
}

// TestCopyEndsBehindWhatWaits: who comes late still gets all from before the end, however much of what
// waits is thrown away.
func TestCopyEndsBehindWhatWaits(t *testing.T) {
	t.Parallel()
	l := newLink(t)
	var live *Live
	var err error
	l.recorded.Do(t, func() { // the kernel cannot judge this, as it may loop
		live, err = listen(question{iface: "v0", snap: MaxSnap, expression: "udp dst port 9 or ip6 protochain 6"})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	frames := slices.Repeat([][]byte{udpFrame(60, 8)}, 3000)
	sendFrames(t, l.other, "v1", append(frames, udpFrame(60, 9)))
	var end atomic.Int64
	end.Store(time.Now().UnixNano())
	time.Sleep(3 * ReadTimeout)
	q := unlimited(&end)
	live.Copy([][]byte{make([]byte, 1<<20)}, q)
	if got := q.Copied.Packets.Load(); got != 1 {
		t.Errorf("want 1 packet, got %d", got)
	}
	if _, err := live.Next(); !errors.Is(err, ErrTimeout) {
		t.Errorf("want %v, got %v", ErrTimeout, err)
	}
}

// TestRenamed: packets of an interface that has parted from its name are not
// captured, those from before are, and what has become of it is said.
func TestRenamed(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "renamed"), testbed.NewNamespace(t, "renamedfar")
	e := newExchange(t, ns, far)
	ns.Do(t, func() {
		live, err := listen(question{iface: "v0", snap: MaxSnap, expression: "udp"})
		if err != nil {
			t.Error(err)
			return
		}
		defer live.Close()
		e.send(t, 5)
		ns.IP(t, "link", "set", "v0", "down")
		ns.IP(t, "link", "set", "v0", "name", newName)
		ns.IP(t, "link", "set", newName, "up")
		checkEndsAsRenamed(t, live, 5*time.Second)
		e.send(t, 5)
		if more, err := live.Next(); err == nil {
			t.Errorf("want no packets from after, got one of %v", more.Timestamp)
		}
	})
}

// TestWatchRefuses: what was opened by a name has to be what had the name, and has it still.
func TestWatchRefuses(t *testing.T) {
	l := newLink(t)
	l.recorded.Do(t, func() {
		live, err := Open(Options{Interface: "v0", Snap: MaxSnap, BufferSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()
		v0, err := findDevice("v0")
		if err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			device netDevice
			ok     bool
		}{
			"itself":                 {v0, true},
			"renamed meanwhile":      {netDevice{name: "v", index: v0.index}, false},
			"another one":            {netDevice{name: "v0", index: v0.index + 1}, false},
			"all, which are no link": {netDevice{name: AnyInterface}, true},
		} {
			if test.device.index != 0 {
				_ = unix.Close(int(live.copying.link.changes)) // of the time before
			}
			if err := live.watch(test.device); (err == nil) != test.ok {
				t.Errorf("%s: want it taken %v, got %v", name, test.ok, err)
			}
		}
	})
}

// newName is what v0 is renamed to. It begins as it was.
const newName = "v0private"

// checkEndsAsRenamed reads ten packets and then the new name, which has to be noticed in time.
// What the kernel still holds comes within a read timeout, after the first error, and later on
// a busy machine.
func checkEndsAsRenamed(t *testing.T, live *Live, patience time.Duration) {
	t.Helper()
	packets, lost := 0, time.Time{}
	var err error
	late := func() bool {
		return time.Since(lost) < 3*ReadTimeout || packets < 10 && time.Since(lost) < 10*time.Second
	}
	for began := time.Now(); lost.IsZero() && time.Since(began) < patience || late(); {
		if _, err = live.Next(); err == nil {
			packets++
		} else if lost.IsZero() && !errors.Is(err, ErrTimeout) {
			lost = time.Now()
		}
	}
	if packets != 10 || err == nil || !strings.Contains(err.Error(), "called "+newName) {
		t.Errorf("want 10 packets from before and the new name, got %d, %v", packets, err)
	}
}

// TestRenamedWhileUp: it is noticed when the kernel says so, or else by looking, and
// nothing that comes by the new name is captured.
func TestRenamedWhileUp(t *testing.T) {
	t.Parallel()
	for name, deafen := range map[string]func(*Live) (restore func()){
		"upsaid": func(l *Live) func() {
			l.copying.seen = 1 << 62 // it never looks by itself
			return func() {}
		},
		"uplook": func(l *Live) func() {
			changes := l.copying.link.changes
			l.copying.link.changes = -1
			return func() { l.copying.link.changes = changes }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, far := testbed.NewNamespace(t, name), testbed.NewNamespace(t, name+"far")
			e := newExchange(t, ns, far)
			ns.Do(t, func() {
				live, err := listen(question{iface: "v0", snap: MaxSnap, expression: "udp"})
				if err != nil {
					t.Error(err)
					return
				}
				defer live.Close()
				defer deafen(live)()
				e.send(t, 5)
				ns.IP(t, "link", "set", "v0", "name", newName)
				checkEndsAsRenamed(t, live, 10*time.Second)
				e.send(t, 5)
				for range 3 { // what the kernel holds back comes within a read timeout
					time.Sleep(ReadTimeout)
					if _, err := live.Next(); err == nil {
						t.Error("want no packets from after, got one")
					}
				}
			})
		})
	}
}

// TestNothingCountsBeforeTheBeginning: what the kernel dropped while it was being
// opened, before the filter was there, does not count.
func TestNothingCountsBeforeTheBeginning(t *testing.T) {
	ns := testbed.NewNamespace(t, "before")
	ns.Do(t, func() {
		o := Options{Interface: loopbackName, Snap: MaxSnap, BufferSize: 1 << 20}
		handle, err := activate(o)
		if err != nil {
			t.Error(err)
			return
		}
		live, err := newLive(handle, o)
		if err != nil {
			t.Error(err)
			return
		}
		defer live.Close()
		sendFrames(t, ns, loopbackName, slices.Repeat([][]byte{udpFrame(1400, 9)}, 2000))
		if err := live.judge(o); err != nil || live.before.Dropped == 0 {
			t.Errorf("want some dropped before, got %+v, %v", live.before, err)
		}
		if stats, err := live.Stats(); stats != (Stats{}) || err != nil {
			t.Errorf("want nothing counted, got %+v, %v", stats, err)
		}
	})
}

// TestRenamedWithManyPackets: all that the kernel holds from before is copied, in one go,
// before the interface is said to be lost.
func TestRenamedWithManyPackets(t *testing.T) {
	t.Parallel()
	l := newLink(t)
	l.recorded.Do(t, func() {
		live, err := Open(Options{Interface: "v0", Snap: 2000, BufferSize: 4 << 20, Nanos: true})
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()
		frames := mixedFrames(3000, taggings[:1])
		sendFrames(t, l.other, "v1", frames)
		time.Sleep(3 * ReadTimeout) // or the latest would still come later
		l.recorded.IP(t, "link", "set", "v0", "name", newName)
		live.copying.seen = 0 // so it is looked at
		var end atomic.Int64
		end.Store(time.Now().Add(time.Hour).UnixNano())
		room := make([]byte, 1<<20)
		size := live.Copy([][]byte{room}, unlimited(&end))
		if got := len(onlyNumbered(parse(t, room[:size]))); got != len(frames) {
			t.Errorf("want %d packets, got %d", len(frames), got)
		}
		if _, err := live.Next(); err == nil || !strings.Contains(err.Error(), newName) {
			t.Errorf("want the new name, got %v", err)
		}
	})
}

// TestPauseLeavesRoom: between two looks at packets that come fast they fill a quarter of
// the kernel's buffer at most, so that none is dropped when they come faster.
func TestPauseLeavesRoom(t *testing.T) { runC(t, "testdata/pause.c", "link.c", "-lpcap") }

// TestDropsAreTheKernels: packets for which there is no room count as dropped by the
// kernel, not by the interface as well.
func TestDropsAreTheKernels(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	o := recordV0()
	var live *Live
	var err error
	l.recorded.Do(t, func() { live, err = Open(Options{Interface: o.Interface, Snap: o.Snap, BufferSize: 1 << 20}) })
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	frames := make([][]byte, 3000)
	for i := range frames {
		frames[i] = udpFrame(1400, 9)
	}
	sendFrames(t, l.other, "v1", frames)
	stats, err := live.Stats()
	if err != nil || stats.Dropped < 100 || stats.IfDropped != 0 {
		t.Errorf("want drops of the kernel alone, got %+v, %v", stats, err)
	}
}
