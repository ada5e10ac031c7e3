package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// A link is a veth pair: v0, which is recorded, and v1, each in its own namespace.
type link struct{ recorded, other testbed.Namespace }

// newLink returns a link that goes with the test.
func newLink(t testing.TB) link {
	t.Helper()
	l := link{testbed.NewNamespace(t, "recorded"), testbed.NewNamespace(t, "other")}
	l.recorded.Pair(t, l.other)
	return l
}

// A run is a recorder that records, and what it said.
type run struct {
	*Recorder
	said chan string
	stop func()
}

// startRecorder records an interface of a namespace until the test ends.
func startRecorder(t testing.TB, ns testbed.Namespace, o Options, size int64) run {
	t.Helper()
	recorder, err := NewRecorder(o, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, ended := run{Recorder: recorder, said: make(chan string, 100)}, make(chan struct{})
	go func() {
		defer close(ended)
		ns.Do(t, func() { recorder.Run(ctx, func(err error) { r.said <- fmt.Sprint(err) }) })
	}()
	r.stop = func() { cancel(); <-ended }
	t.Cleanup(r.stop)
	return r
}

// awaitUp waits until the recorder says that it records.
func (r run) awaitUp(t testing.TB) {
	t.Helper()
	select {
	case said := <-r.said:
		if said != "<nil>" {
			t.Fatal(said)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the recorder does not begin")
	}
}

// recordV0 are the options for the recorded end of a link.
func recordV0() Options { return Options{Interface: "v0", Snap: MaxSnap, BufferSize: 4 << 20} }

// read returns a reader of a recorder, with a filter.
func (r run) read(t testing.TB, filter string, o ReaderOptions) *Reader {
	t.Helper()
	var err error
	if o.Filter, err = newCompiler(t).CompileRecorded(t.Context(), r.Recorder, filter); err != nil {
		t.Fatal(err)
	}
	if o.Snap == 0 {
		o.Snap = MaxSnap
	}
	reader, err := r.Read(o)
	if err != nil {
		t.Fatal(err)
	}
	return reader
}

// readPast returns the packets that a recorder holds and that pass a filter.
func (r run) readPast(t testing.TB, filter string) []Packet {
	t.Helper()
	reader := r.read(t, filter, ReaderOptions{From: time.Unix(0, 0), Past: true, Nanos: true})
	room := make([]byte, 64<<20)
	size := reader.Copy([][]byte{room}, unlimited(never))
	return parse(t, room[:size])
}

// sendFrames sends frames as they are through an interface of a namespace.
func sendFrames(t testing.TB, ns testbed.Namespace, name string, frames [][]byte) {
	t.Helper()
	ns.Do(t, func() {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			t.Error(err)
			return
		}
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(socket)
		for _, frame := range frames {
			if err := unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
				t.Error(err)
			}
		}
	})
}

// liveFilters are filters that mean something else without an open interface,
// beside deadFilters.
var liveFilters = []string{
	"", "vlan", "not vlan", "vlan 7", "vlan 7 and udp", "vlan 8 or udp", "not vlan 7 and udp", "udp or vlan 7 and tcp",
	"vlan 7 and vlan 9", "vlan and vlan", "vlan 0", "vlan and less 100", "vlan and ip broadcast",
	"vlan and ether broadcast", "ip broadcast", "not ip broadcast", "ether[12:2] = 0x8100", "ether[14:2] = 7",
	"vlan and ip[8] > 3", "vlan 7 and port 53",
}

// taggings are the ways in which a frame may have VLAN tags.
var taggings = []string{"", "", "\x81\x00\x00\x07", "\x81\x00\xe0\x08", "\x81\x00\x00\x00", "\x88\xa8\x00\x07",
	"\x81\x00\x00\x07\x81\x00\x00\x09", "\x88\xa8\x00\x08\x81\x00\x00\x07"}

// mixedFrames returns frames with tags in turn, each with its number at the end.
func mixedFrames(n int, taggings []string) [][]byte {
	random := newRandom(7)
	frames := make([][]byte, n)
	for i := range frames {
		frame, _ := randomFrame(random)
		for len(frame) < 34 || frame[12] == 0x81 {
			frame, _ = randomFrame(random)
		}
		frame = slices.Insert(frame, 12, []byte(taggings[i%len(taggings)])...)
		frames[i] = append(frame, fmt.Sprintf("frame %05d", i)...)
	}
	return frames
}

// anyFilters are filters for the pseudo-interface for all of them.
var anyFilters = []string{"", "udp", "not udp", "ip", "arp", "ip6", "port 53", "less 100", "greater 100", "len = 77",
	"host 10.0.0.1", "ip broadcast", "ip multicast", "inbound", "outbound", "link[10] = 3", "ip[8] < 64 and inbound",
	"ifindex 1", "not ifindex 1 and udp", "link[8:2] = 1", "link[0:2] = 0x806"}

// TestRecorderJudgesAsTheKernel: what an open interface with a filter gets, the
// recorder's memory yields for the same filter, packets that came in as well as
// those that went out, tagged by the kernel or by who sent them.
func TestRecorderJudgesAsTheKernel(t *testing.T) {
	l := newLink(t)
	vlan := "v0.7" // frames that are sent through it have their tag beside them
	add := fmt.Sprintf("ip link add link v0 name %s type vlan id 7 && ip link set %s up", vlan, vlan)
	if out, err := l.recorded.Command("sh", "-c", add).CombinedOutput(); err != nil {
		t.Logf("no VLAN interface: %s", out)
		vlan = "v0"
	}
	for name, filters := range map[string][]string{
		"v0": slices.Concat(liveFilters, deadFilters), AnyInterface: anyFilters,
	} {
		t.Run(name, func(t *testing.T) {
			o := recordV0()
			o.Interface = name
			opened := openAll(t, l.recorded, o, filters)
			r := startRecorder(t, l.recorded, o, 8<<20)
			r.awaitUp(t)
			frames := mixedFrames(600, taggings)
			if name == AnyInterface {
				// Of a tag that a packet has in it, the kernel tells something else than what filters see.
				frames = append(mixedFrames(500, taggings[:6]), mixedFrames(600, taggings[:1])[500:]...)
				sendFrames(t, l.other, "v1", frames[:500])
				sendFrames(t, l.recorded, "v0", frames[500:])
			} else {
				sendFrames(t, l.other, "v1", frames[:300])
				sendFrames(t, l.recorded, "v0", frames[300:450])
				sendFrames(t, l.recorded, vlan, frames[450:])
			}
			time.Sleep(3 * ReadTimeout)
			kept := takeAll(opened)
			for i, filter := range filters {
				want, got := onlyNumbered(kept[i]), onlyNumbered(r.readPast(t, filter))
				if !reflect.DeepEqual(want, got) {
					t.Errorf("%q: the kernel keeps %d packets, the recorder %d, or they differ", filter, len(want), len(got))
				}
				if filter == "" && len(want) < len(frames) {
					t.Errorf("want %d packets, got %d", len(frames), len(want))
				}
			}
		})
	}
}

// TestRecorderKnowsDirections: direction and interface of each packet are
// recorded, in both halves of the ring.
func TestRecorderKnowsDirections(t *testing.T) {
	l := newLink(t)
	for _, name := range []string{"v0", AnyInterface} {
		o := recordV0()
		o.Interface = name
		r := startRecorder(t, l.recorded, o, 4<<20)
		r.awaitUp(t)
		frames := mixedFrames(400, taggings[:4])
		sendFrames(t, l.other, "v1", frames[:100])
		sendFrames(t, l.recorded, "v0", frames[100:])
		time.Sleep(3 * ReadTimeout)
		var index int
		l.recorded.Do(t, func() { index, _ = interfaceIndex("v0") })
		for filter, want := range map[string]int{
			"inbound": 100, "outbound": 300, "not inbound": 300,
			fmt.Sprintf("ifindex %d", index): 400, fmt.Sprintf("inbound and ifindex %d", index): 100,
			fmt.Sprintf("not ifindex %d", index): 0, "ifindex 1": 0,
		} {
			if got := len(onlyNumbered(r.readPast(t, filter))); got != want {
				t.Errorf("%s, %s: want %d packets, got %d", name, filter, want, got)
			}
		}
		r.stop()
	}
}

// openAll opens an interface once for each filter.
func openAll(t testing.TB, ns testbed.Namespace, o Options, filters []string) []*Live {
	t.Helper()
	opened := make([]*Live, len(filters))
	each := func(f func(i int)) {
		var openers sync.WaitGroup
		for i := range filters {
			openers.Go(func() { ns.Do(t, func() { f(i) }) })
		}
		openers.Wait()
	}
	each(func(i int) {
		var err error
		opened[i], err = listen(question{iface: o.Interface, snap: o.Snap, expression: filters[i]})
		if err != nil {
			t.Errorf("%s: %v", filters[i], err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { each(func(i int) { opened[i].Close() }) })
	return opened
}

// onlyNumbered returns the data of those packets that mixedFrames made, by number.
func onlyNumbered(packets []Packet) [][]byte {
	var found [][]byte
	for _, p := range packets {
		var number int
		at := max(0, len(p.Data)-len("frame 00000"))
		if _, err := fmt.Sscanf(string(p.Data[at:]), "frame %05d", &number); err == nil {
			found = append(found, p.Data)
		}
	}
	return found
}

// takeAll returns all packets that each of many interfaces has now.
func takeAll(opened []*Live) [][]Packet {
	found := make([][]Packet, len(opened))
	var takers sync.WaitGroup
	for i, live := range opened {
		takers.Go(func() {
			for {
				p, err := live.Next()
				if err != nil {
					return
				}
				p.Data = bytes.Clone(p.Data)
				found[i] = append(found[i], p)
			}
		})
	}
	takers.Wait()
	return found
}

// TestRecorderRefusesFilters: what is not recorded cannot be asked for.
func TestRecorderRefusesFilters(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), 4<<20)
	r.awaitUp(t)
	for filter, words := range map[string]string{
		"ip6 protochain 6":        "a loop (protochain) cannot be judged with lookback",
		"ether[0xfffff014:4] = 1": "not recorded",
		"nonsense":                "syntax error",
		"udp) or (tcp":            "syntax error",
		"tcp and udp and not ip":  "rejects all",
		"host nowhere.invalid.":   "nowhere.invalid",
	} {
		_, err := newCompiler(t).CompileRecorded(t.Context(), r.Recorder, filter)
		if got := fmt.Sprint(err); !strings.HasPrefix(got, "bpf: ") || !strings.Contains(got, words) {
			t.Errorf("%s: want %q, got %v", filter, words, err)
		}
	}
}

// A sender sends frames that say their number, each third of them in VLAN 7, to
// UDP port 4000 if the number is even, or 4001.
type sender struct {
	sent atomic.Int64
	stop func()
}

// startSender sends a frame of so many bytes every interval; 0: as fast as it can.
func startSender(t testing.TB, ns testbed.Namespace, name string, interval time.Duration, size int) *sender {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	s := &sender{}
	s.stop = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(s.stop)
	go func() {
		defer close(ended)
		ns.Do(t, func() {
			send, err := frameSender(name)
			if err != nil {
				t.Error(err)
				return
			}
			defer send(nil)
			for began := time.Now(); ; {
				select {
				case <-done:
					return
				case <-time.After(time.Until(began.Add(time.Duration(s.sent.Load()) * interval))):
				}
				for burst := true; burst; burst = interval == 0 && s.sent.Load()%100 != 0 {
					send(numberedFrame(int(s.sent.Load()), size))
					s.sent.Add(1)
				}
			}
		})
	}()
	return s
}

// frameSender returns a function that sends a frame as it is; nil: no more.
func frameSender(name string) (func(frame []byte), error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	return func(frame []byte) {
		if frame == nil {
			unix.Close(socket)
			return
		}
		for unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}) == unix.ENOBUFS {
		}
	}, nil
}

// numberedFrame returns a frame of a sender.
func numberedFrame(number, size int) []byte {
	frame := make([]byte, 0, size)
	frame = append(frame, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"...)
	if number%3 == 0 {
		frame = append(frame, "\x81\x00\x00\x07"...)
	}
	frame = append(frame, "\x08\x00\x45\x00\x00\x00\x00\x00\x00\x00\x40\x11\x00\x00\x0a\x63\x00\x02\x0a\x63\x00\x01"...)
	frame = binary.BigEndian.AppendUint16(frame, 4242)
	frame = binary.BigEndian.AppendUint16(frame, uint16(4000+number%2))
	frame = append(frame, 0, 0, 0, 0)
	frame = fmt.Appendf(frame, "packet %08d", number)
	return frame[:max(size, len(frame))]
}

// numbersOf returns the numbers of a sender's frames.
func numbersOf(packets []Packet) []int {
	var numbers []int
	for _, p := range packets {
		var number int
		if i := bytes.Index(p.Data, []byte("packet ")); i >= 0 {
			if _, err := fmt.Sscanf(string(p.Data[i:]), "packet %08d", &number); err == nil {
				numbers = append(numbers, number)
			}
		}
	}
	return numbers
}

// drain reads until a time, as a capture does.
func drain(t testing.TB, reader *Reader, until time.Time) []Packet {
	t.Helper()
	var end atomic.Int64
	end.Store(until.UnixNano())
	return drainTo(t, reader, &end)
}

// drainTo reads until a Unix time in nanoseconds, which may be moved meanwhile.
func drainTo(t testing.TB, reader *Reader, end *atomic.Int64) []Packet {
	t.Helper()
	var found []Packet
	room := make([]byte, 1<<20)
	for {
		size := reader.Copy([][]byte{room}, unlimited(end))
		found = append(found, parse(t, room[:size])...)
		p, err := reader.Next()
		switch until := time.Unix(0, end.Load()); {
		case err == nil && !p.Timestamp.Before(until), err != nil && err != ErrTimeout,
			err == ErrTimeout && time.Now().After(until.Add(2*ReadTimeout)):
			return found
		case err == nil:
			p.Data = bytes.Clone(p.Data)
			found = append(found, p)
		}
	}
}

// TestReaderSeam: over the seam between past and live no packet is missing and
// none comes twice, for whoever reads and whatever is in its way.
func TestReaderSeam(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	// Of readers that wait for a busy machine for seconds nothing is overwritten.
	r := startRecorder(t, l.recorded, recordV0(), 64<<20)
	r.awaitUp(t)
	began := time.Now()
	s := startSender(t, l.other, "v1", 200*time.Microsecond, 200)
	awaitMore := func() {
		t.Helper()
		enough := s.sent.Load() + 2500
		testbed.Eventually(t, 20*time.Second, "packets", func() bool { return s.sent.Load() > enough })
	}
	awaitMore()
	var end atomic.Int64
	end.Store(began.Add(time.Hour).UnixNano())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer func() { end.Store(time.Now().UnixNano()) }()
	for name, test := range map[string]struct {
		lookback time.Duration
		filter   string
		step     int
	}{
		"no lookback":         {0, "", 1},
		"a short one":         {100 * time.Millisecond, "", 1},
		"as long as there is": {time.Since(began), "", 1},
		"longer":              {time.Hour, "", 1},
		"even numbers":        {300 * time.Millisecond, "udp port 4000", 2},
		"odd ones":            {300 * time.Millisecond, "udp dst port 4001", 2},
		"tagged ones":         {300 * time.Millisecond, "vlan 7 and udp", 3},
	} {
		from := time.Now().Add(-test.lookback)
		reader := r.read(t, test.filter, ReaderOptions{From: from, Past: test.lookback > 0, Nanos: true})
		readers.Go(func() {
			packets := drainTo(t, reader, &end)
			numbers := numbersOf(packets)
			if len(numbers) < 100 {
				t.Errorf("%s: only %d packets", name, len(numbers))
				return
			}
			for i, number := range numbers[1:] {
				if number != numbers[i]+test.step {
					t.Errorf("%s: %d comes after %d", name, number, numbers[i])
				}
			}
			if first := packets[0].Timestamp; first.Before(reader.Since()) || reader.Since().Before(from) {
				t.Errorf("%s: wants %v, is whole since %v, begins with %v", name, from, reader.Since(), first)
			}
			if test.lookback == time.Hour && numbers[0] != 0 {
				t.Errorf("%s: want the first packet there was, got %d", name, numbers[0])
			}
			if stats, _ := reader.Stats(); stats != (Stats{Received: int64(len(packets))}) {
				t.Errorf("%s: want %d received, got %+v", name, len(packets), stats)
			}
		})
	}
	awaitMore()
}

// TestReaderFlood: under a flood that overwrites the ring, what a reader gets
// and what it says that it missed are everything.
func TestReaderFlood(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), 4<<20)
	r.awaitUp(t)
	began := time.Now()
	s := startSender(t, l.other, "v1", 0, 1400)
	testbed.Eventually(t, 10*time.Second, "the ring is full", func() bool {
		return r.Status().Whole.After(began.Add(time.Second))
	})

	until := time.Now().Add(1500 * time.Millisecond)
	var readers sync.WaitGroup
	for name, test := range map[string]struct {
		filter string
		slow   bool
		step   int64
	}{
		"everything": {"", false, 1}, "even numbers": {"udp port 4000", false, 2},
		"slow": {"", true, 1},
	} {
		reader := r.read(t, test.filter, ReaderOptions{From: began, Past: true, Nanos: true})
		if since := reader.Since(); !since.After(began) || since.After(time.Now()) {
			t.Errorf("%s: want whole since the oldest packet, got %v", name, since)
		}
		readers.Go(func() {
			if test.slow {
				time.Sleep(700 * time.Millisecond)
			}
			packets := drain(t, reader, until)
			numbers := numbersOf(packets)
			if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
				t.Errorf("%s: packets out of order or twice", name)
			}
			stats, _ := reader.Stats()
			all := s.sent.Load()
			missing := (all-int64(numbers[0]))/test.step - int64(len(numbers))
			if missing > stats.Dropped || stats.Dropped > all {
				t.Errorf("%s: %d are missing, %d were said to be", name, missing, stats.Dropped)
			}
			if test.slow && stats.Dropped == 0 {
				t.Errorf("%s: was not overtaken", name)
			}
			if want := int64(len(packets)) + stats.Dropped; stats.Received != want {
				t.Errorf("%s: want %d received, got %d", name, want, stats.Received)
			}
			t.Logf("%s: %d of %d packets, %+v", name, len(numbers), all-int64(numbers[0]), stats)
		})
	}
	time.Sleep(time.Second)
	s.stop()
	readers.Wait()
	const noise = 100 // packets that the kernel sends on its own account
	status := r.Status()
	t.Logf("%+v", status)
	if all, sent := status.Packets+status.Dropped, s.sent.Load(); all < sent || all > sent+noise {
		t.Errorf("%d were sent, %d recorded and %d dropped", sent, status.Packets, status.Dropped)
	}
}

// TestRecorderOutlivesItsInterface: what was recorded can be had while the
// interface is away and when it is back; what was away is told.
func TestRecorderOutlivesItsInterface(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), 4<<20)
	r.awaitUp(t)
	began := time.Now()
	startSender(t, l.other, "v1", time.Millisecond, 200)
	time.Sleep(300 * time.Millisecond)
	live := r.read(t, "udp", ReaderOptions{From: time.Now()})
	deleted := time.Now()
	l.recorded.IP(t, "link", "del", "v0")

	if said := <-r.said; !strings.Contains(said, "disappeared") {
		t.Errorf("want that it disappeared, was told %q", said)
	}
	drain(t, live, time.Now().Add(time.Hour))
	if _, err := live.Next(); err == nil || !strings.Contains(err.Error(), "disappeared") {
		t.Errorf("a reader: want that it disappeared, got %v", err)
	}
	if status := r.Status(); r.Up() || status.Up || status.Err == nil || status.Bytes == 0 {
		t.Errorf("away: %+v", status)
	}
	before := numbersOf(r.readPast(t, "udp"))
	testbed.CheckNoGap(t, before)
	away := r.read(t, "", ReaderOptions{From: began, Past: true})
	if got := numbersOf(drain(t, away, time.Now().Add(time.Hour))); !slices.Equal(before, got) {
		t.Errorf("want what the ring holds, %d packets, got %d", len(before), len(got))
	}

	l.recorded.Pair(t, l.other)
	r.awaitUp(t)
	back := time.Now()
	time.Sleep(ReadTimeout)
	startSender(t, l.other, "v1", time.Millisecond, 200)
	time.Sleep(4 * ReadTimeout)
	for name, test := range map[string]struct {
		from time.Time
		gap  bool
	}{
		"before":            {began, true},
		"while it was away": {deleted.Add(500 * time.Millisecond), true},
		"since then":        {back, false},
	} {
		reader := r.read(t, "", ReaderOptions{From: test.from, Past: true})
		if !reader.Since().Equal(test.from) {
			t.Errorf("%s: want whole since %v, got %v", name, test.from, reader.Since())
		}
		if gap := reader.Gap(); (gap != nil) != test.gap {
			t.Errorf("%s: want a gap to be told %v, got %v", name, test.gap, gap)
		} else {
			t.Logf("%s: %v", name, gap)
		}
	}
	if got := numbersOf(r.readPast(t, "")); len(got) <= len(before) {
		t.Errorf("want more than the %d packets from before, got %d", len(before), len(got))
	}
}

// TestRecorderWaitsForItsInterface: one that is not there is said once, and
// recorded as soon as it is; another link type empties the ring.
func TestRecorderWaitsForItsInterface(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	o := recordV0()
	o.Interface = "late"
	r := startRecorder(t, l.recorded, o, 4<<20)
	if said := <-r.said; !strings.Contains(said, `"late": no such network interface`) {
		t.Errorf("want no such network interface, was told %q", said)
	}
	_, compileErr := newCompiler(t).CompileRecorded(t.Context(), r.Recorder, "udp")
	_, readErr := r.Read(ReaderOptions{Snap: 100})
	for _, err := range []error{compileErr, readErr, r.Status().Err} {
		if err == nil || !strings.Contains(err.Error(), "no such network interface") {
			t.Errorf("want no such network interface, got %v", err)
		}
	}
	time.Sleep(recorderRetry + recorderRetry/2)
	if len(r.said) > 0 {
		t.Errorf("said twice: %s", <-r.said)
	}

	l.recorded.IP(t, "tuntap", "add", "dev", "late", "mode", "tun")
	l.recorded.IP(t, "link", "set", "late", "up")
	r.awaitUp(t)
	if got := r.read(t, "udp", ReaderOptions{}).LinkType(); got != 101 {
		t.Errorf("want link type 101, got %d", got)
	}
	filter, err := newCompiler(t).CompileRecorded(t.Context(), r.Recorder, "udp")
	if err != nil {
		t.Fatal(err)
	}
	began := r.Status().Whole
	l.recorded.IP(t, "link", "del", "late")
	<-r.said
	l.recorded.IP(t, "link", "add", "late", "type", "veth")
	l.recorded.IP(t, "link", "set", "late", "up")
	r.awaitUp(t)
	if status := r.Status(); status.Link != ethernet || !status.Whole.After(began) {
		t.Errorf("want an empty ring for Ethernet, got %+v", status)
	}
	_, err = r.Read(ReaderOptions{Filter: filter, Snap: 100})
	if err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("a filter for another link type: got %v", err)
	}
}

// TestRecorderWakesReaders: whoever waits for packets is woken when some have come.
func TestRecorderWakesReaders(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), MinRecorder)
	r.awaitUp(t)
	turns := func() uint32 { return atomic.LoadUint32((*uint32)(&r.ring.c.turns)) }
	before := turns()
	sendFrames(t, l.other, "v1", [][]byte{numberedFrame(1, 100)})
	testbed.Eventually(t, 5*time.Second, "a turn", func() bool { return turns() != before })
}

// TestRecorderIgnoresDown: an interface that goes down is waited for, without asking
// for it all the time.
func TestRecorderIgnoresDown(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), 4<<20)
	r.awaitUp(t)
	s := startSender(t, l.other, "v1", time.Millisecond, 100)
	time.Sleep(200 * time.Millisecond)
	l.recorded.IP(t, "link", "set", "v0", "down")
	testbed.Eventually(t, 5*time.Second, "nothing more is said by the socket", func() bool {
		socket := []unix.PollFd{{Fd: int32(r.Files()[0].Fd()), Events: unix.POLLIN}}
		said, err := unix.Poll(socket, 0)
		return said == 0 && err == nil
	})
	l.recorded.IP(t, "link", "set", "v0", "up")
	up := int(s.sent.Load())
	testbed.Eventually(t, 5*time.Second, "packets from after it", func() bool {
		numbers := numbersOf(r.readPast(t, ""))
		return len(numbers) > 100 && numbers[0] < 10 && numbers[len(numbers)-1] > up+100
	})
	if len(r.said) > 0 || !r.Up() {
		t.Error("the recorder has given up")
	}
}

// TestRecorderCuts: a recorder keeps of a packet what it is asked to, and of
// that a reader what it is asked to; loopback has each packet once.
func TestRecorderCuts(t *testing.T) {
	testbed.NeedRoot(t)
	ns := testbed.NewNamespace(t, "cut")
	filter, err := newCompiler(t).Compile(t.Context(), "lo", 60, "udp port 4000")
	if err != nil {
		t.Fatal(err)
	}
	r := startRecorder(t, ns, Options{Interface: "lo", Snap: 60, BufferSize: 1 << 20, Filter: filter}, 4<<20)
	r.awaitUp(t)
	s := startSender(t, ns, "lo", time.Millisecond, 100)
	time.Sleep(300 * time.Millisecond)
	s.stop()
	time.Sleep(2 * ReadTimeout)
	if held, want := r.Status().Bytes, (s.sent.Load()+1)/2*(60+recordHeader); held > want+want/10 {
		t.Errorf("want packets cut when they are recorded, %d bytes, got %d", want, held)
	}
	for snap, want := range map[int]int{MaxSnap: 60, 60: 60, 44: 44, 1: 1} {
		reader := r.read(t, "", ReaderOptions{From: time.Unix(0, 0), Past: true, Snap: snap})
		if got := reader.SnapLen(); got != want {
			t.Errorf("want snapshot length %d, got %d", want, got)
		}
		packets := drain(t, reader, time.Now())
		if want := (s.sent.Load() + 1) / 2; int64(len(packets)) != want {
			t.Errorf("want %d packets, got %d", want, len(packets))
		}
		for _, p := range packets {
			if len(p.Data) != want || p.Length != 100 {
				t.Fatalf("want %d of 100 bytes, got %d of %d", want, len(p.Data), p.Length)
			}
		}
	}
}

// TestNoVLANFilterWhereLibpcapHasNone: a filter for another link type than the
// packets' is not taken.
func TestNoVLANFilterWhereLibpcapHasNone(t *testing.T) {
	testbed.NeedRoot(t)
	r := newStill(t)
	r.link = linuxSLL2
	if f, err := r.compile("vlan 7"); err == nil {
		t.Errorf("want no filter for VLANs on all interfaces, got one of %d instructions", len(f.code))
	}
}

// TestRecorderWithoutMemory: where there is none for the compact ring, the kernel's goes, too.
func TestRecorderWithoutMemory(t *testing.T) {
	ns := testbed.NewNamespace(t, "nomemory")
	ns.Do(t, func() {
		r, err := NewRecorder(Options{Interface: loopbackName, Snap: MaxSnap}, MinRecorder, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.geometry.segments = 1 << 40
		if err := r.takeMemory(false); err == nil || !strings.Contains(err.Error(), "bytes for a ring") {
			t.Errorf("want no memory for a ring, got %v", err)
		}
		if left := packetSockets(t); left != 0 {
			t.Errorf("want nothing left open, got %d packet sockets", left)
		}
	})
}
