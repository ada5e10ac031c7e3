package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// A packet of a capture file.
type packet struct {
	gopacket.CaptureInfo
	data []byte
}

// readPcap reads a capture file whole.
func readPcap(t testing.TB, file io.Reader) ([]packet, *pcapgo.Reader) {
	t.Helper()
	r, err := pcapgo.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var packets []packet
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			return packets, r
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, packet{info, data})
	}
}

// A fakeSource hands out what its function returns; the rest of it is Ethernet.
type fakeSource struct {
	read   func() (packet, error)
	link   layers.LinkType
	stats  error
	closed bool
}

func (f *fakeSource) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	p, err := f.read()
	return p.data, p.CaptureInfo, err
}

func (f *fakeSource) LinkType() layers.LinkType {
	if f.link == 0 {
		return layers.LinkTypeEthernet
	}
	return f.link
}

func (f *fakeSource) SnapLen() int { return 4242 }

func (f *fakeSource) Stats() (*pcap.Stats, error) {
	return &pcap.Stats{PacketsReceived: 9, PacketsDropped: 2, PacketsIfDropped: 1}, f.stats
}

func (f *fakeSource) Error() error { return errors.New("the interface disappeared") }
func (f *fakeSource) Close()       { f.closed = true }

// at returns a packet of so many bytes with a time stamp.
func at(stamp time.Time, size int) packet {
	return packet{gopacket.CaptureInfo{Timestamp: stamp, CaptureLength: size, Length: size}, make([]byte, size)}
}

// inTurn returns a read function that returns the packets one after the
// other, and after them nothing but read timeouts, which take their time.
func inTurn(packets ...packet) func() (packet, error) {
	return func() (packet, error) {
		if len(packets) == 0 {
			time.Sleep(readTimeout)
			return packet{}, pcap.NextErrorTimeoutExpired
		}
		next := packets[0]
		packets = packets[1:]
		return next, nil
	}
}

// recordAll records from a fake source with room for everything, and returns what is in the file.
func recordAll(t *testing.T, ctx context.Context, src source, b bounds) (outcome, []packet) {
	t.Helper()
	buf := newBuffer(newPool(16 * chunkSize))
	defer buf.free()
	out := record(ctx, src, time.Now(), b, buf)
	packets, r := readPcap(t, buf.reader())
	if int64(len(packets)) != out.Packets || buf.size != out.Bytes {
		t.Errorf("%d packets in %d bytes are in the file, %+v in the outcome", len(packets), buf.size, out.counts)
	}
	if r.Snaplen() != 4242 {
		t.Errorf("want the source's snapshot length in the file, got %d", r.Snaplen())
	}
	return out, packets
}

// unbounded lets a capture run for a second.
var unbounded = bounds{packets: math.MaxInt64, bytes: math.MaxInt64, timeout: time.Second}

func TestRecordEndsAtPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unbounded
		b.packets = 3
		now := time.Now()
		out, packets := recordAll(t, t.Context(), &fakeSource{read: inTurn(at(now, 1), at(now, 2), at(now, 3), at(now, 4))}, b)
		if out.stop != stopPackets || len(packets) != 3 || out.err != nil {
			t.Errorf("want 3 packets and stop %s, got %d, %+v", stopPackets, len(packets), out)
		}
		if want := (counts{Packets: 3, Bytes: 24 + 3*16 + 6, Received: 9, Dropped: 2, IfDropped: 1}); out.counts != want {
			t.Errorf("want %+v, got %+v", want, out.counts)
		}
	})
}

func TestRecordEndsAtBytes(t *testing.T) {
	for limit, want := range map[int64]int{24: 0, 24 + 116 - 1: 0, 24 + 116: 1, 24 + 2*116 - 1: 1, 24 + 2*116: 2} {
		t.Run(strconv.FormatInt(limit, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := unbounded
				b.bytes = limit
				now := time.Now()
				out, packets := recordAll(t, t.Context(), &fakeSource{read: inTurn(at(now, 100), at(now, 100), at(now, 100))}, b)
				if out.stop != stopBytes || len(packets) != want || out.Bytes > limit {
					t.Errorf("want %d packets and stop %s, got %d, %+v", want, stopBytes, len(packets), out)
				}
			})
		})
	}
}

func TestRecordEndsAtTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		source func(start time.Time) func() (packet, error)
		kept   int
		within time.Duration
	}{
		"a quiet link": {func(time.Time) func() (packet, error) { return inTurn() }, 0, 1300 * time.Millisecond},
		"a packet at the end is not in it": {func(start time.Time) func() (packet, error) {
			return inTurn(at(start.Add(time.Second-1), 1), at(start.Add(time.Second), 1), at(start, 1))
		}, 1, 0},
		"a packet from before the start of the window, as the filter lets through": {func(start time.Time) func() (packet, error) {
			return inTurn(at(start.Add(-time.Millisecond), 1))
		}, 1, 1300 * time.Millisecond},
		"the tail comes late": {func(start time.Time) func() (packet, error) {
			late := inTurn(at(start.Add(900*time.Millisecond), 1), at(start.Add(999*time.Millisecond), 1), at(start.Add(1001*time.Millisecond), 1))
			return func() (packet, error) {
				if time.Since(start) < 1050*time.Millisecond {
					time.Sleep(readTimeout)
					return packet{}, pcap.NextErrorTimeoutExpired
				}
				return late()
			}
		}, 2, 1300 * time.Millisecond},
		"a clock that was set back": {func(start time.Time) func() (packet, error) {
			return func() (packet, error) {
				time.Sleep(300 * time.Millisecond)
				return at(start.Add(-time.Hour), 1), nil
			}
		}, 6, 2100 * time.Millisecond},
		"a file that ends": {func(start time.Time) func() (packet, error) {
			packets := inTurn(at(start, 1), at(start, 1))
			n := 0
			return func() (packet, error) {
				if n++; n > 2 {
					return packet{}, io.EOF
				}
				return packets()
			}
		}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				out, packets := recordAll(t, t.Context(), &fakeSource{read: test.source(start)}, unbounded)
				if out.stop != stopTimeout || out.err != nil || len(packets) != test.kept {
					t.Errorf("want %d packets and stop %s, got %d, %+v", test.kept, stopTimeout, len(packets), out)
				}
				if !out.ended.Equal(start.Add(time.Second)) {
					t.Errorf("want the end of the window as end, got %v after the start", out.ended.Sub(start))
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("want it over within %v, took %v", test.within, took)
				}
			})
		})
	}
}

func TestRecordForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := unbounded
		b.timeout = 24 * time.Hour
		out, _ := recordAll(t, t.Context(), &fakeSource{read: inTurn()}, b)
		if took := time.Since(start); took < b.timeout || took > b.timeout+overrun || out.stop != stopTimeout {
			t.Errorf("want stop %s after a day, got %s after %v", stopTimeout, out.stop, took)
		}
	})
}

func TestRecordEndsAtShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		n := 0
		read := func() (packet, error) { // every packet is handed over 50 ms late
			time.Sleep(10 * time.Millisecond)
			n++
			return at(start.Add(time.Duration(n)*10*time.Millisecond-50*time.Millisecond), 1), nil
		}
		out, packets := recordAll(t, ctx, &fakeSource{read: read}, unbounded)
		if out.stop != stopShutdown || !out.ended.Equal(start.Add(300*time.Millisecond)) {
			t.Errorf("want stop %s at 300ms, got %s at %v", stopShutdown, out.stop, out.ended.Sub(start))
		}
		if last := packets[len(packets)-1].Timestamp; last.Sub(start) != 290*time.Millisecond {
			t.Errorf("want all until the signal, got the last one at %v", last.Sub(start))
		}
	})
}

func TestRecordEndsWhenMemoryDoes(t *testing.T) {
	p := newPool(2 * chunkSize)
	buf := newBuffer(p)
	now := time.Now()
	out := record(t.Context(), &fakeSource{read: func() (packet, error) { return at(now, 4000), nil }}, now, unbounded, buf)
	if want := int64(2*chunkSize-24) / 4016; out.stop != stopMemory || out.Packets != want || out.err != nil {
		t.Errorf("want %d packets and stop %s, got %+v", want, stopMemory, out)
	}
	if packets, _ := readPcap(t, buf.reader()); int64(len(packets)) != out.Packets {
		t.Errorf("want %d whole packets in the file, got %d", out.Packets, len(packets))
	}
}

func TestRecordEndsWithItsInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := 0
		read := func() (packet, error) { // an error, then what is left in the ring, then errors for ever
			if n++; n == 2 || n > 5 {
				return packet{}, pcap.NextErrorReadError
			}
			return at(start, n), nil
		}
		out, packets := recordAll(t, t.Context(), &fakeSource{read: read}, unbounded)
		if out.stop != stopInterface || out.err == nil || !strings.Contains(out.err.Error(), "disappeared") || len(packets) != 4 {
			t.Errorf("want 4 packets, stop %s and the cause, got %d, %+v", stopInterface, len(packets), out)
		}
		if took := time.Since(start); took > tail+100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestRecordWithoutStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, _ := recordAll(t, t.Context(), &fakeSource{read: inTurn(), stats: errors.New("gone")}, unbounded)
		if out.err == nil || !strings.Contains(out.err.Error(), "gone") {
			t.Errorf("want the cause, got %v", out.err)
		}
	})
}

func TestRecordLinkType(t *testing.T) {
	for handle, file := range map[layers.LinkType]layers.LinkType{layers.LinkTypeEthernet: layers.LinkTypeEthernet,
		layers.LinkTypeLinuxSLL: layers.LinkTypeLinuxSLL, 12: layers.LinkTypeRaw} {
		buf := newBuffer(newPool(chunkSize))
		record(t.Context(), &fakeSource{link: handle, read: func() (packet, error) { return packet{}, io.EOF }}, time.Now(), unbounded, buf)
		if _, r := readPcap(t, buf.reader()); r.LinkType() != file {
			t.Errorf("DLT %d: want LINKTYPE %d, got %d", handle, file, r.LinkType())
		}
	}
}

// TestRecordReplaysFile takes a real libpcap handle on a file as the source.
func TestRecordReplaysFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in.pcap")
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(1000, layers.LinkTypeEthernet)
	start := time.Unix(1_700_000_000, 0)
	for n := range 1500 { // a millisecond apart
		p := at(start.Add(time.Duration(n)*time.Millisecond), 60+n%900)
		_ = w.WritePacket(p.CaptureInfo, p.data)
	}
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	handle, err := pcap.OpenOffline(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	buf := newBuffer(newPool(16 * chunkSize))
	out := record(t.Context(), handle, start, unbounded, buf)
	if out.Packets != 1000 || out.stop != stopTimeout {
		t.Errorf("want the 1000 packets of one second, got %+v", out)
	}
	got, _ := io.ReadAll(buf.reader())
	if !bytes.Equal(file.Bytes()[:len(got)], got) {
		t.Error("the recording differs from the beginning of the file")
	}
}

// live opens an interface and records from it.
func live(t *testing.T, where tap, b bounds) (outcome, []packet, *pcapgo.Reader) {
	t.Helper()
	src, err := where.open()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	buf := newBuffer(newPool(64 * chunkSize))
	defer buf.free()
	out := record(t.Context(), src, time.Now(), b, buf)
	packets, r := readPcap(t, buf.reader())
	return out, packets, r
}

// loopback is a tap on the loopback interface.
func loopback(filter string) tap {
	return tap{iface: "lo", filter: filter, snap: maxSnap, bufferSize: 4 << 20}
}

func TestLiveWindowIsWhole(t *testing.T) {
	needRoot(t)
	stream := startStream(t, time.Second/1500)
	out, packets, _ := live(t, loopback(stream.filter()), unbounded)
	if out.stop != stopTimeout || out.Dropped > 0 {
		t.Errorf("want stop %s and no drops, got %+v", stopTimeout, out)
	}
	if covered := packets[len(packets)-1].Timestamp.Sub(packets[0].Timestamp); covered < 970*time.Millisecond || covered > time.Second {
		t.Errorf("want 0.97 to 1 s covered, got %v", covered)
	}
	var file bytes.Buffer
	for _, p := range packets {
		file.Write(p.data)
	}
	var found []int
	for _, part := range strings.Split(file.String(), "packet ")[1:] {
		n, _ := strconv.Atoi(part[:8])
		found = append(found, n)
	}
	if len(found) != len(packets) {
		t.Errorf("want %d packets of the stream, got %d", len(packets), len(found))
	}
	checkNoGap(t, found)
}

func TestLiveQuietLink(t *testing.T) {
	needRoot(t)
	began := time.Now()
	out, packets, _ := live(t, loopback("ether proto 0x9999"), unbounded)
	if took := time.Since(began); out.stop != stopTimeout || len(packets) > 0 || took > 3*time.Second {
		t.Errorf("want nothing after a second, got %d packets, %+v after %v", len(packets), out, took)
	}
}

func TestLiveSnapshotLength(t *testing.T) {
	needRoot(t)
	stream := startStream(t, time.Millisecond)
	where := loopback(stream.filter())
	where.snap = 50
	b := unbounded
	b.packets = 3
	_, packets, r := live(t, where, b)
	if r.Snaplen() != 50 || packets[0].CaptureLength != 50 || packets[0].Length != 42+15 {
		t.Errorf("want 50 of 57 bytes, got %+v, snapshot length %d", packets[0].CaptureInfo, r.Snaplen())
	}
}

func TestLiveLinkTypes(t *testing.T) {
	needRoot(t)
	stream := startStream(t, time.Millisecond)
	b := unbounded
	b.packets = 5
	for iface, want := range map[string]layers.LinkType{"lo": layers.LinkTypeEthernet, "any": layers.LinkTypeLinuxSLL} {
		where := loopback(stream.filter())
		where.iface = iface
		if out, packets, r := live(t, where, b); r.LinkType() != want || len(packets) != 5 {
			t.Errorf("%s: want 5 packets of %v, got %d of %v, %+v", iface, want, len(packets), r.LinkType(), out)
		}
	}
}

func TestLiveTunIsRawIP(t *testing.T) {
	ns := newNamespace(t, "tun")
	ns.do(t, func() {
		device, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		if err != nil {
			lack(t, "/dev/net/tun")
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
		ns.ip(t, "addr", "add", "10.98.0.1/24", "dev", "tun0")
		ns.ip(t, "link", "set", "tun0", "up")
		conn, err := net.Dial("udp", "10.98.0.2:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					fmt.Fprintf(conn, "packet %08d", n)
				}
			}
		}()
		where := loopback("udp port 9")
		where.iface = "tun0"
		b := unbounded
		b.packets = 5
		out, packets, r := live(t, where, b)
		if r.LinkType() != layers.LinkTypeRaw || len(packets) != 5 || packets[0].data[0] != 0x45 {
			t.Errorf("want 5 packets of raw IP, got %d of %v, %+v", len(packets), r.LinkType(), out)
		}
	})
}

// TestLiveVLANFilter needs the filter to be compiled for the open interface:
// the kernel keeps the tag beside the packet.
func TestLiveVLANFilter(t *testing.T) {
	ns, far := newNamespace(t, "vlan"), newNamespace(t, "vlanfar")
	ns.pair(t, far)
	frame := append(bytes.Repeat([]byte{0xff}, 12), 0x81, 0, 0, 5, 0x99, 0x99)
	frame = append(frame, make([]byte, 50)...)
	var sender *pcap.Handle
	far.do(t, func() { sender, _ = pcap.OpenLive("v1", 100, false, time.Second) })
	if sender == nil {
		t.Fatal("no handle to send with")
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				_ = sender.WritePacketData(frame)
			}
		}
	}()
	defer func() { close(stop); <-stopped; sender.Close() }()
	ns.do(t, func() {
		for filter, want := range map[string]int{"vlan 5": 3, "vlan 6": 0, "vlan 5 and ether proto 0x9999": 3} {
			where := loopback(filter)
			where.iface = "v0"
			b := unbounded
			b.packets = 3
			if out, packets, _ := live(t, where, b); len(packets) != want {
				t.Errorf("%s: want %d packets, got %d, %+v", filter, want, len(packets), out)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	needRoot(t)
	ns := newNamespace(t, "open")
	ns.ip(t, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ns.do(t, func() {
		for name, test := range map[string]struct {
			tap     tap
			culprit string
		}{
			"unknown interface":            {tap{iface: "eth9"}, `interface: "eth9"`},
			"libpcap's other devices":      {tap{iface: "nflog"}, "interface"},
			"an address as interface":      {tap{iface: "rpcap://127.0.0.1/lo"}, "interface"},
			"interface is down":            {tap{iface: "d0"}, "down"},
			"filter that does not compile": {tap{iface: "lo", filter: "udp porrt 53"}, "bpf: compile filter"},
			"filter for another link type": {tap{iface: "lo", filter: "type mgt"}, "bpf"},
			"filter with a name":           {tap{iface: "lo", filter: "host no-such-host.invalid"}, "no-such-host.invalid"},
		} {
			test.tap.snap, test.tap.bufferSize = maxSnap, 1<<20
			source, err := test.tap.open()
			if err == nil {
				source.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.culprit) {
				t.Errorf("%s: want %q in the error, got %v", name, test.culprit, err)
			}
		}
	})
}

func TestLiveInterfaceGoesDownAndUp(t *testing.T) {
	ns, far := newNamespace(t, "down"), newNamespace(t, "downfar")
	ns.pair(t, far)
	ns.do(t, func() {
		where := loopback("udp port 9")
		where.iface = "v0"
		time.AfterFunc(200*time.Millisecond, func() { ns.ip(t, "link", "set", "v0", "down") })
		time.AfterFunc(500*time.Millisecond, func() { ns.ip(t, "link", "set", "v0", "up") })
		send := ns.command("sh", "-c", "sleep 1; for i in 1 2 3; do echo x > /dev/udp/10.99.0.2/9; done")
		send.Args[len(send.Args)-3] = "bash"
		if err := send.Start(); err != nil {
			t.Error(err)
			return
		}
		b := unbounded
		b.timeout, b.packets = 10*time.Second, 3
		out, packets, _ := live(t, where, b)
		_ = send.Wait()
		if out.stop != stopPackets || len(packets) != 3 || out.err != nil {
			t.Errorf("want 3 packets from after the outage, got %d, %+v", len(packets), out)
		}
	})
}

// TestFilesAreReadable has other programs read a recording.
func TestFilesAreReadable(t *testing.T) {
	needTools(t, "tcpdump", "capinfos")
	buf := newBuffer(newPool(chunkSize))
	now := time.Now()
	record(t.Context(), &fakeSource{read: inTurn(at(now, 60), at(now, 60))}, now, bounds{packets: 2, bytes: 1 << 20, timeout: time.Second}, buf)
	path := filepath.Join(t.TempDir(), "out.pcap")
	content, _ := io.ReadAll(buf.reader())
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tcpdump", "-nr", path).Output(); err != nil || len(readLines(string(out))) != 2 {
		t.Errorf("tcpdump: want 2 lines, got %q, %v", out, err)
	}
	out, err := exec.Command("capinfos", "-cT", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2") {
		t.Errorf("capinfos: want 2 packets, got %q, %v", out, err)
	}
}
