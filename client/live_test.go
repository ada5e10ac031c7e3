package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/capfile"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/store"
	"pcapdaemon/testbed"
)

// pcapStart returns the header of a pcap file with a snapshot length.
func pcapStart(snap uint32) []byte {
	b := []byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, snap), 1)
}

// pcapPacket returns a record with a stamp in seconds and some bytes.
func pcapPacket(second, size int) []byte {
	var b []byte
	for _, n := range []int{second, 0, size, size} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return append(b, make([]byte, size)...)
}

// join returns pieces as one.
func join(pieces ...[]byte) []byte { return bytes.Join(pieces, nil) }

// A liveHost is what a host that is asked for packets does.
type liveHost struct {
	node   string
	key    string // % is what the key of this request begins with; empty: as it should be
	pieces [][]byte
	after  time.Duration // from the start to the end
	bytes  int64         // that it says it has sent; 0: those of the pieces
	clock  time.Duration // by which its clock is ahead
	dies   bool
}

// start has the host wait for a request and serve it.
func (h liveHost) start(t *testing.T, r *testbed.Redis) {
	t.Helper()
	requests, done := r.Hear(t, "capture"), make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		var asked struct {
			ID   string
			Live bool
		}
		select {
		case message := <-requests:
			_ = json.Unmarshal(message, &asked)
		case <-t.Context().Done():
			return
		}
		if !asked.Live {
			t.Error("want a request for live packets")
		}
		prefix := "capture-results:" + asked.ID
		key := prefix + ":" + h.node + ":eth0:live"
		if h.key != "" {
			key = strings.ReplaceAll(h.key, "%", prefix)
		}
		said := result.Result{ID: asked.ID, Node: h.node, Interface: "eth0", State: result.Started, Key: key,
			Started: result.Stamp(time.Now().Add(h.clock)), Limits: &result.Limits{Bytes: 1 << 20, Timeout: 1}}
		size := h.bytes
		for _, piece := range h.pieces {
			r.Do(t, "RPUSH", key, piece)
			if h.bytes == 0 {
				size += int64(len(piece))
			}
		}
		r.Do(t, "PUBLISH", "capture-results", said.Encode())
		time.Sleep(h.after)
		if h.dies {
			return
		}
		said.State, said.Key, said.Limits = result.Done, "", nil
		said.Counts = &result.Counts{Packets: int64(len(h.pieces)), Bytes: size}
		said.Losses = &result.Losses{Received: int64(len(h.pieces)), Dropped: 2}
		r.Do(t, "PUBLISH", "capture-results", said.Encode())
	}()
}

// askLive asks any host for packets, and returns the file, what was said and the outcome.
func askLive(t *testing.T, r *testbed.Redis, dir string) (file, stdout, stderr string, outcome Outcome) {
	t.Helper()
	server, err := pubsub.ParseURL("redis://" + r.Address())
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "all.pcapng")
	packets, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	var out, errs bytes.Buffer
	outcome = Ask(Options{Server: server, Requests: "capture", Results: "capture-results", Dir: dir, Packets: packets,
		Application: "pcapdaemon test", Capture: time.Second, Delivery: time.Second, Judge: judgeJSON,
		Ends: []os.Signal{syscall.SIGTERM}}, []byte(`{"node":"any","interface":"eth0"}`), &out, &errs)
	return file, out.String(), errs.String(), outcome
}

// readStamps returns the stamps of all packets in a file, in seconds, and fails if it is not whole.
func readStamps(t *testing.T, name string) (stamps []int64) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, err := pcapgo.NewNgReader(file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		_, info, err := reader.ReadPacketData()
		if err == io.EOF {
			return stamps
		}
		if err != nil {
			t.Fatal(err)
		}
		stamps = append(stamps, info.Timestamp.Unix())
	}
}

// TestLive: the packets of two hosts become one file, in order, and a file for each of them.
func TestLive(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	a := liveHost{node: "a", pieces: [][]byte{pcapStart(96), join(pcapPacket(1, 10), pcapPacket(3, 10)), pcapPacket(5, 10), nil}}
	b := liveHost{node: "b", pieces: [][]byte{pcapStart(96), pcapPacket(2, 10), pcapPacket(4, 10), nil}}
	a.start(t, r)
	b.start(t, r)
	dir := t.TempDir()
	file, out, errs, code := askLive(t, r, dir)
	if got, want := readStamps(t, file), []int64{1, 2, 3, 4, 5}; !slices.Equal(got, want) || code != Done {
		t.Errorf("want %v and outcome %d, got %v, %d, %s", want, Done, got, code, errs)
	}
	if names, _ := filepath.Glob(dir + "/*.pcap"); len(names) != 2 || strings.Count(out, `"fetched"`) != 2 {
		t.Errorf("want two files, got %v, %s", names, out)
	}
	if keys := r.Do(t, "KEYS", "*").([]any); len(keys) > 0 {
		t.Errorf("want no keys left, got %s", keys)
	}
}

// TestLiveHostile: whatever one host sends, the file is a valid one with the packets of the other, and
// the culprit is named once.
func TestLiveHostile(t *testing.T) {
	t.Parallel()
	flood := bytes.Repeat(pcapPacket(1, 10_000), 20)
	for name, test := range map[string]struct {
		host    liveHost
		says    string
		packets int // in the file, those of the good host included; -1: any number
		code    Outcome
	}{
		"no capture file":          {liveHost{pieces: [][]byte{[]byte("rubbish"), nil}}, "no capture file", 2, Failed},
		"snapshot length of 4 GiB": {liveHost{pieces: [][]byte{pcapStart(1<<32 - 1), nil}}, "snapshot length", 2, Failed},
		"packet of 4 GiB": {liveHost{pieces: [][]byte{pcapStart(96), {0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0}, nil}},
			"a packet of 4294967295 bytes", 2, Failed},
		"endless": {liveHost{pieces: slices.Concat([][]byte{pcapStart(96 << 10)}, slices.Repeat([][]byte{flood}, 10))},
			"more than 1048576 bytes", -1, Failed},
		"pieces after the last":  {liveHost{pieces: [][]byte{pcapStart(96), nil, pcapPacket(1, 10)}, bytes: 24}, "", 2, Done},
		"fewer than it says":     {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1, 10), nil}, bytes: 1000}, "50 of 1000 bytes", 3, Failed},
		"more than it says":      {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1, 10), nil}, bytes: 24}, "50 of 24 bytes", 3, Failed},
		"without an end":         {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1, 10)}, bytes: 1000}, "50 of 1000 bytes", 3, Failed},
		"cut within a packet":    {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1, 10)[:20], nil}}, "", 2, Done},
		"packets of 1970":        {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1, 10), nil}}, "", 3, Done},
		"packets of 2106":        {liveHost{pieces: [][]byte{pcapStart(96), pcapPacket(1<<32-1, 10), nil}}, "", 3, Done},
		"the key of another":     {liveHost{key: "%:good:eth0:live"}, "is another node's", 2, Failed},
		"a key of something":     {liveHost{key: "secret:live"}, "is not of this request", 2, Failed},
		"a key that is no list":  {liveHost{key: "%:bad:eth0"}, "is not of this request", 2, Failed},
		"no key":                 {liveHost{key: " "}, "", 2, Failed},
		"a clock that is ahead":  {liveHost{clock: 5 * time.Second, pieces: [][]byte{pcapStart(96), nil}}, " ahead of this machine's", 2, Done},
		"a clock that is behind": {liveHost{clock: -5 * time.Second, pieces: [][]byte{pcapStart(96), nil}}, " behind this machine's", 2, Done},
		"another length":         {liveHost{pieces: [][]byte{pcapStart(1500), nil}}, "tcpdump cannot", 2, Done},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			r.Do(t, "SET", "secret:live", "secret")
			now := int(time.Now().Unix())
			liveHost{node: "good", pieces: [][]byte{pcapStart(96), pcapPacket(now, 10), pcapPacket(now, 10), nil}}.start(t, r)
			test.host.node = "bad"
			test.host.start(t, r)
			file, _, errs, code := askLive(t, r, "")
			stamps := readStamps(t, file)
			if test.packets >= 0 && len(stamps) != test.packets || code != test.code {
				t.Errorf("want %d packets and outcome %d, got %d, %d, %s", test.packets, test.code, len(stamps), code, errs)
			}
			if test.says != "" && strings.Count(errs, test.says) != 1 {
				t.Errorf("want %q once, got %s", test.says, errs)
			}
			if culprit := "bad eth0"; test.code == Failed && strings.Count(errs, culprit) != 1 {
				t.Errorf("want %q once, got %s", culprit, errs)
			}
		})
	}
}

// TestLiveClosedPipe: whoever closes the pipe ends the captures, packets or not.
func TestLiveClosedPipe(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	liveHost{node: "a", pieces: [][]byte{pcapStart(96)}, after: 2 * time.Second, dies: true}.start(t, r)
	heard := r.Hear(t, "capture")
	server, _ := pubsub.ParseURL("redis://" + r.Address())
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	began := time.Now()
	done := make(chan Outcome)
	var errs bytes.Buffer
	go func() {
		done <- Ask(Options{Server: server, Requests: "capture", Results: "capture-results", Packets: writer,
			Grace: 300 * time.Millisecond, Capture: time.Minute, Delivery: time.Second, Judge: judgeJSON,
			Ends: []os.Signal{syscall.SIGTERM}}, []byte(`{"node":"any","interface":"eth0"}`), io.Discard, &errs)
	}()
	first := make([]byte, 4)
	if _, err := io.ReadFull(reader, first); err != nil || string(first) != "\x0a\x0d\x0d\x0a" {
		t.Errorf("want a section header at once, got %x, %v", first, err)
	}
	if request := string(<-heard); !strings.Contains(request, `"live":true`) {
		t.Errorf("want a request for live packets, got %s", request)
	}
	reader.Close()
	if stop := string(<-heard); !strings.Contains(stop, `"stop"`) {
		t.Errorf("want the captures ended, got %s", stop)
	}
	if code := <-done; code != Done || time.Since(began) > 2*time.Second {
		t.Errorf("want outcome %d soon, got %d after %v, %s", Done, code, time.Since(began), errs.String())
	}
}

// TestLiveRequest: what cannot be read while it is captured is refused before anybody is asked.
func TestLiveRequest(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		`{"node":"a","interface":"lo"}`:                         "",
		`{"node":"a","interface":"lo","live":true}`:             "",
		`{"node":"a","interface":"lo","live":false}`:            "live: -w takes",
		`{"node":"a","interface":"lo","return":true}`:           "return: -w takes",
		`{"node":"a","stop":"x"}`:                               "captures nothing",
		`{"node":"a","rollcall":true}`:                          "captures nothing",
		`{"node":"a","interface":"lo","live":true,"id":"mine"}`: "",
	} {
		q, err := newRequest([]byte(text), judgeJSON, asker{by: "me@here", live: true, fetches: true})
		if (err == nil) != (says == "") || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("%s: want %q, got %v", text, says, err)
		}
		if err == nil && (!strings.Contains(string(q.message), `"live":true`) || strings.Contains(string(q.message), "return")) {
			t.Errorf("%s: want live and no return, got %s", text, q.message)
		}
	}
}

// TestStatistics: the file says of a capture what its host does.
func TestStatistics(t *testing.T) {
	got := statistics(say(t, `"ended":"2026-01-02T03:05:05Z","received":7,"dropped":2,"ifdropped":3`))
	want := capfile.Statistics{Started: time.Date(2026, 1, 2, 3, 4, 5, 1, time.UTC), Ended: time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC)}
	want.Stats.Received, want.Stats.Dropped, want.Stats.IfDropped = 7, 2, 3
	if *got != want {
		t.Errorf("want %+v, got %+v", want, *got)
	}
}

// TestStreamMissing: what is missing is said, also if it is the end alone.
func TestStreamMissing(t *testing.T) {
	for received, want := range map[int64]string{3: "3 of 5 bytes have come", 5: "all bytes have come, but not that they are all"} {
		s := &stream{received: received, capture: &progress{Result: result.Result{Counts: &result.Counts{Bytes: 5}}}}
		if got := s.missing().Error(); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

// TestSinkCutsWhatFailed: a disk that is full leaves a file that ends with the last whole write.
func TestSinkCutsWhatFailed(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	dir := t.TempDir()
	testbed.MountTmpfs(t, dir, "size=64k")
	file, err := os.Create(filepath.Join(dir, "all"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := newSink(file)
	wrote := 0
	for range 10 {
		n, err := s.Write(make([]byte, 10_000))
		if err != nil {
			if !strings.HasSuffix(err.Error(), "all: no space left on device") {
				t.Errorf("want the kernel's words, got %v", err)
			}
			break
		}
		wrote += n
	}
	if info, err := file.Stat(); err != nil || info.Size() != int64(wrote) || wrote == 0 || wrote == 100_000 {
		t.Errorf("want %d bytes, got %v, %v", wrote, info, err)
	}
}

// A fakeList has no pieces and ends at once.
type fakeList struct{}

// ReadList implements lists.
func (fakeList) ReadList(context.Context, string, func([]byte) error) error { return nil }

// newTestLive returns what writes packets into a file.
func newTestLive(t *testing.T) *live {
	t.Helper()
	packets, err := os.Create(filepath.Join(t.TempDir(), "all.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLive(Options{Packets: packets, Results: "capture-results"}, "r1", 0)
	l.lists = fakeList{}
	t.Cleanup(func() {
		_, _ = l.close(context.Background())
		packets.Close()
	})
	return l
}

// TestLiveOneReader: a list is read once, whoever claims it.
func TestLiveOneReader(t *testing.T) {
	l := newTestLive(t)
	for n, want := range []string{"", "is another capture's", "is another capture's"} {
		capture := &progress{Result: result.Result{Node: "a", Interface: fmt.Sprint("eth", n), Key: "capture-results:r1:a:eth0:live"}}
		if err := l.heard(capture); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("eth%d: want %q, got %v", n, want, err)
		}
	}
}

// TestLiveOfAnEnd: a capture of which the end is the first that is heard is read as well, and over then.
func TestLiveOfAnEnd(t *testing.T) {
	l := newTestLive(t)
	capture := &progress{Result: say(t, `"node":"a","interface":"eth0","state":"done","key":"capture-results:r1:a:eth0:live"`)}
	if err := l.heard(capture); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-l.finished():
		if s.err != nil {
			t.Errorf("want nothing missed, got %v", s.err)
		}
	case <-time.After(5 * time.Second):
		t.Error("want it over")
	}
}

// TestLiveIsBounded: what was asked for and what a host has granted bound how much is read of it.
func TestLiveIsBounded(t *testing.T) {
	for _, test := range []struct{ asked, granted, want int64 }{
		{0, 0, maxStream}, {1000, 0, 1000}, {0, 1000, 1000}, {1000, 2000, 1000}, {2000, 1000, 1000},
		{2 * maxStream, 2 * maxStream, maxStream}, {0, -1, maxStream},
	} {
		l := newTestLive(t)
		l.most = test.asked
		capture := &progress{Result: result.Result{Node: "a", Key: "capture-results:r1:a:eth0:live",
			Limits: &result.Limits{Bytes: test.granted}}}
		if err := l.heard(capture); err != nil {
			t.Fatal(err)
		}
		if got := l.streams[capture].most; got != test.want {
			t.Errorf("asked %d, granted %d: want %d bytes, got %d", test.asked, test.granted, test.want, got)
		}
	}
}

// TestLiveIsNamedOnce: a capture that was given up is not blamed again for what it has at its end.
func TestLiveIsNamedOnce(t *testing.T) {
	e := newFakeExchange(1)
	var errs bytes.Buffer
	c := newTestClient(e, jsonLines{io.Discard, &errs})
	c.live, c.request.asked.Bytes = newTestLive(t), 1000
	if err := c.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.take(t.Context(), say(t, `"node":"a","interface":"eth0","state":"started","key":"capture-results:r1:a:eth0:live"`).Encode())
	errs.Reset()
	s := c.live.streams[c.session.captures[0]]
	s.err = errors.New("more than 1000 bytes")
	c.streamed(s)
	c.take(t.Context(), say(t, `"node":"a","interface":"eth0","state":"done","packets":1,"bytes":2000`).Encode())
	if got := errs.String(); got != "more than 1000 bytes\n" || !c.failed {
		t.Errorf("want it said once, got %q", got)
	}
}

// TestLiveClockIsNamedOnce: of a host, however many captures it makes.
func TestLiveClockIsNamedOnce(t *testing.T) {
	l, now := newTestLive(t), time.Now()
	for n, want := range []string{"a: its clock is 5s ahead of this machine's", "", "b: its clock is 5s ahead of this machine's"} {
		r := result.Result{Node: []string{"a", "a", "b"}[n], Started: result.Stamp(now.Add(5 * time.Second))}
		if got := l.compareClock(r, now, now); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// TestLiveStalled: a capture that has ended is waited for as long as its pieces come, or Redis is away.
func TestLiveStalled(t *testing.T) {
	for name, test := range map[string]struct {
		told  time.Duration // before now
		piece time.Duration // before now; 0: none has come
		lost  bool
		want  bool
	}{
		"just ended":            {time.Second, 0, false, false},
		"nothing has come":      {2 * stallTime, 0, false, true},
		"a piece has just come": {2 * stallTime, time.Second, false, false},
		"a piece came long ago": {3 * stallTime, 2 * stallTime, false, true},
		"Redis is away":         {2 * stallTime, 0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newTestLive(t)
				capture := &progress{Result: result.Result{Node: "a", Counts: &result.Counts{}}}
				gone := false
				s := &stream{live: l, capture: capture, most: 1000, input: l.merger.Open(capfile.Header{Node: "a"}),
					cancel: func(error) { gone = true }}
				l.streams[capture] = s
				began := time.Now()
				if test.piece > 0 {
					if err := s.take(pcapStart(96)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(test.piece)
				}
				now := time.Now()
				s.told = now.Add(-test.told)
				f, _ := followed(t, 1, "eth0", "")
				if f.answered = now; test.lost {
					f.lost = now
				}
				if l.look(f, now); gone != test.want {
					t.Errorf("want given up: %v, got %v after %v", test.want, gone, now.Sub(began))
				}
				s.input.Close(nil)
			})
		})
	}
}

// TestCopyFileIsWhole: of a capture that is not whole there is no file.
func TestCopyFileIsWhole(t *testing.T) {
	for _, cut := range []error{nil, errors.New("cut")} {
		dir := t.TempDir()
		c := newCopyFile(store.NewDirectory(dir), result.Result{Node: "a", Interface: "eth0"}, pcapStart(96))
		c.write(pcapStart(96))
		c.write(pcapPacket(1, 10))
		file, err := c.end(cut)
		names, _ := filepath.Glob(dir + "/*")
		if !errors.Is(err, cut) || (file == "") != (cut != nil) || (len(names) == 0) != (cut != nil) {
			t.Errorf("%v: got %q, %v and %q in the directory", cut, file, err, names)
		}
	}
	c := newCopyFile(store.NewDirectory(t.TempDir()+"/gone"), result.Result{Node: "a", Interface: "eth0"}, pcapStart(96))
	heldUp := time.AfterFunc(10*time.Second, func() { c.to.CloseWithError(io.ErrClosedPipe) })
	c.write(pcapStart(96))
	if file, err := c.end(nil); !errors.Is(err, os.ErrNotExist) || file != "" || !heldUp.Stop() {
		t.Errorf("want no file in a directory that is gone, and nobody held up, got %q, %v", file, err)
	}
}

// TestSinkHurries: who leaves has a moment for what is left to be written.
func TestSinkHurries(t *testing.T) {
	s, began := &sink{}, time.Now()
	s.hurry()
	if got := time.Unix(0, s.deadline.Load()); got.Before(began.Add(lastWrite)) || got.After(time.Now().Add(lastWrite)) {
		t.Errorf("want %v from now, got %v", lastWrite, got.Sub(began))
	}
}

// TestSinkIsGone: a pipe that nobody reads any more is known to be one before anything is written.
func TestSinkIsGone(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	s := newSink(writer)
	if s.isGone() {
		t.Error("want a reader")
	}
	if reader.Close(); !s.isGone() {
		t.Error("want it gone")
	}
}
