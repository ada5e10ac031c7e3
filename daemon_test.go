package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/status"
	"pcapdaemon/store"
	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// A memo is an outlet that keeps what it is told.
type memo struct {
	mu      sync.Mutex
	results []result.Result
}

// Publish implements outlet.
func (m *memo) Publish(r result.Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.results = append(m.results, r)
}

// states returns what was told, as "id state", in order of time.
func (m *memo) states() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var states []string
	for _, r := range m.results {
		states = append(states, r.ID+" "+r.State)
	}
	return states
}

// all returns what was told, in order of time.
func (m *memo) all() []result.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results)
}

// last returns the newest result.
func (m *memo) last() result.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results[len(m.results)-1]
}

// A bench is a daemon without a system: interfaces and destinations are fakes, time is virtual.
type bench struct {
	*daemon
	memo   *memo
	upload *fakeStore
	local  *fakeStore
	life   lifetime
	signal context.CancelFunc // what SIGTERM does
}

// A fakeStore stores or fails as it is told, after a while.
type fakeStore struct {
	title string
	err   error
	takes time.Duration
	mu    sync.Mutex
	names []string
	began time.Time // of the newest recording
}

// Name implements store.Destination.
func (f *fakeStore) Name() string { return f.title }

// Unused implements store.Archive.
func (f *fakeStore) Unused(name string) string { return name }

// Store implements store.Destination.
func (f *fakeStore) Store(ctx context.Context, r store.File) (store.Place, error) {
	f.mu.Lock()
	f.names, f.began = append(f.names, r.Name), time.Now()
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return store.Place{}, ctx.Err()
	}
	if f.err != nil {
		return store.Place{}, f.err
	}
	if f.title == "local" {
		return store.Place{File: "/" + r.Name}, nil
	}
	return store.Place{URL: "http://" + r.Name}, nil
}

// stored returns how often something was to be stored; nil stores nothing.
func (f *fakeStore) stored() int {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.names)
}

// newBench returns a daemon whose interfaces bring a packet every 10 ms. It
// uploads, and keeps locally what it cannot upload.
func newBench(t *testing.T, change func(*config)) *bench {
	t.Helper()
	c := config{node: "web1",
		limits:   limits{snap: tap.MaxSnap, packets: 1000, bytes: 1 << 20, timeout: time.Hour, defaultTimeout: time.Minute},
		capacity: capacity{captures: 2, memory: 4 * capfile.ChunkSize},
		delivery: deliveryConfig{drainTimeout: 30 * time.Second, shark: sharkConfig{timeout: 5 * time.Minute}}}
	if change != nil {
		change(&c)
	}
	b := &bench{memo: &memo{}, upload: &fakeStore{}, local: &fakeStore{title: "local"}}
	var err error
	if b.daemon, err = newDaemon(c, b.memo, status.NewHealth(), quietLog()); err != nil {
		t.Fatal(err)
	}
	b.deliver(func(*store.Options) {})
	b.jobs.prepare = func(context.Context, wanted) (opener, error) {
		return func(time.Time) (source, time.Time, error) { return &fakeSource{read: steady()}, time.Now(), nil }, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	b.life, b.signal = life, cancel
	t.Cleanup(func() {
		cancel()
		end()
		b.jobs.working.Wait()
		b.jobs.pool.Release()
	})
	return b
}

// deliver changes where captures go.
func (b *bench) deliver(change func(*store.Options)) {
	o := b.jobs.deliveryOptions(b.config)
	o.Local = b.local
	if b.upload != nil {
		o.Remotes = []store.Remote{{Destination: b.upload}}
	}
	change(&o)
	b.jobs.delivery = store.New(o)
}

// slowlyRefused is a preparer that finds nothing good after a second.
func slowlyRefused(context.Context, wanted) (opener, error) {
	time.Sleep(time.Second)
	return nil, errors.New("interface: no such network interface")
}

// steady returns a read function that returns a packet every 10 ms.
func steady() func() (tap.Packet, error) {
	return func() (tap.Packet, error) {
		time.Sleep(10 * time.Millisecond)
		return at(time.Now(), 100), nil
	}
}

// quietLog is a log that nobody reads.
func quietLog() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// ask hands the daemon a request and lets it begin.
func (b *bench) ask(t *testing.T, request string) {
	t.Helper()
	if err := b.handle(b.life, received(request)); err != nil {
		t.Errorf("%s: %v", request, err)
	}
	synctest.Wait()
}

// checkStates compares all results up to now.
func (b *bench) checkStates(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := b.memo.states(); !slices.Equal(want, got) {
		t.Errorf("want %q, got %q", want, got)
	}
}

func TestDaemonCaptures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","packets":5}`)
		time.Sleep(time.Second)
		b.checkStates(t, "a started", "a done")
		if got, want := b.memo.all()[0].Limits, (result.Limits{Packets: 5, Bytes: 1 << 20, Timeout: 60, Delivery: 306}); *got != want {
			t.Errorf("want limits %+v, got %+v", want, *got)
		}
		got := b.memo.last()
		if got.Packets != 5 || got.Stop != stopPackets || !strings.HasPrefix(got.URL, "http://web1-x0-") {
			t.Errorf("want 5 packets uploaded, got %+v", got)
		}
		if n := b.jobs.pool.Held(); n != 0 {
			t.Errorf("want all memory given back, got %d bytes held", n)
		}
	})
}

func TestDaemonRefuses(t *testing.T) {
	for name, test := range map[string]struct{ request, culprit string }{
		"field of its own":  {`{"node":"web1","interface":"x0","id":"a","bfp":1}`, "bfp"},
		"above a limit":     {`{"node":"web1","interface":"x0","id":"a","packets":1001}`, "-maxpackets"},
		"interface":         {`{"node":"web1","interface":"y0","id":"a"}`, "-interfaces"},
		"nothing to open":   {`{"node":"web1","interface":"broken","id":"a"}`, "no such device"},
		"no interface":      {`{"node":"web1","id":"a"}`, "interface"},
		"less than a file":  {`{"node":"web1","interface":"x0","id":"a","bytes":23}`, "bytes: 23 is less than the 24"},
		"two ways of names": {`{"node":"web1","nodere":"x","interface":"x0","id":"a"}`, "node and nodere"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(c *config) { c.limits.interfaces = []string{"x0", "broken"} })
				b.jobs.prepare = func(context.Context, wanted) (opener, error) {
					return func(asked time.Time) (source, time.Time, error) {
						return nil, asked, errors.New("open broken: no such device")
					}, nil
				}
				b.ask(t, test.request)
				b.checkStates(t, "a refused")
				if got := b.memo.last(); !strings.Contains(got.Error, test.culprit) {
					t.Errorf("want %q in the error, got %q", test.culprit, got.Error)
				}
				if n := b.jobs.count(); n != 0 {
					t.Errorf("want no slot taken, got %d", n)
				}
			})
		})
	}
}

func TestDaemonKeepsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		for request, want := range map[string]error{`{"node":"web2"}`: errOtherNode, `{`: errMalformed} {
			if err := b.handle(b.life, received(request)); !errors.Is(err, want) {
				t.Errorf("%s: want %v, got %v", request, want, err)
			}
		}
		b.checkStates(t)
	})
}

// TestSlots: a slot is free when its capture ends, even if the upload hangs.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.upload.takes = 10 * time.Second
		for _, id := range []string{"a", "b", "c"} {
			b.ask(t, `{"node":"web1","interface":"x0","packets":5,"id":"`+id+`"}`)
		}
		time.Sleep(time.Second)
		b.ask(t, `{"node":"web1","interface":"x0","packets":5,"id":"d"}`)
		b.checkStates(t, "a started", "b started", "c refused", "d started")
		time.Sleep(10 * time.Second)
	})
}

// TestMemoryIsHeld: memory is free when the delivery has ended, not before.
func TestMemoryIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.capacity.memory = capfile.ChunkSize })
		b.upload.takes = 10 * time.Second
		b.ask(t, `{"node":"web1","interface":"x0","packets":5,"id":"a"}`)
		time.Sleep(time.Second)
		b.ask(t, `{"node":"web1","interface":"x0","packets":5,"id":"b"}`)
		if got := b.memo.last(); got.State != result.Refused || !strings.Contains(got.Error, "-maxmemory") {
			t.Errorf("want it refused for -maxmemory, got %+v", got)
		}
		time.Sleep(10 * time.Second)
		b.upload.takes = 0
		b.ask(t, `{"node":"web1","interface":"x0","packets":5,"id":"c"}`)
		time.Sleep(time.Second)
		b.checkStates(t, "a started", "b refused", "a done", "c started", "c done")
	})
}

// TestStopDelivers: what was captured until the signal is delivered, and the exit code says so.
func TestStopDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
		time.Sleep(105 * time.Millisecond)
		b.signal()
		if code := b.stop(b.life); code != exitOK {
			t.Errorf("want exit code %d, got %d", exitOK, code)
		}
		if got := b.memo.last(); got.State != result.Done || got.Stop != stopShutdown || got.Packets != 10 {
			t.Errorf("want 10 packets until the signal, got %+v", got)
		}
	})
}

// TestStopWhileUploadHangs: at the end of the drain the capture is kept here.
func TestStopWhileUploadHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.upload.takes = time.Hour
		b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
		time.Sleep(time.Second)
		b.signal()
		began := time.Now()
		if code := b.stop(b.life); code != exitFailed {
			t.Errorf("want exit code %d, got %d", exitFailed, code)
		}
		drain := b.config.delivery.drainTimeout
		if took := time.Since(began); took < drain || took > drain+store.LateDelivery {
			t.Errorf("want the stop to take -draintimeout, took %v", took)
		}
		if got := b.memo.last(); got.State != result.Failed || got.File == "" {
			t.Errorf("want it kept locally, got %+v", got)
		}
	})
}

// TestStopWithSlowDisk: a local copy begins with the signal, and has the time
// that it needs as long as it makes progress.
func TestStopWithSlowDisk(t *testing.T) {
	for name, test := range map[string]struct {
		progress bool
		code     int
		took     time.Duration
	}{
		"makes progress": {true, exitFailed, 2 * time.Minute},
		"hangs":          {false, exitFailed, 35 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				b.upload.takes, b.local.takes = time.Hour, 2*time.Minute
				b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
				time.Sleep(time.Second)
				b.signal()
				began := time.Now()
				if test.progress {
					b.written = func() int64 { return int64(min(time.Since(began), 2*time.Minute) / time.Second) }
				}
				if code := b.stop(b.life); code != test.code {
					t.Errorf("want exit code %d, got %d", test.code, code)
				}
				if took := time.Since(began); took.Round(time.Second) != test.took {
					t.Errorf("want a stop of %v, took %v", test.took, took)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if late := b.local.began.Sub(began); late > time.Second {
					t.Errorf("want the local copy to begin at the signal, began %v later", late)
				}
			})
		})
	}
}

// TestRequestIsLoggedOnce: a request that is none is one line in the log, and one result.
func TestRequestIsLoggedOnce(t *testing.T) {
	var log, out strings.Builder
	logger := logrus.New()
	logger.SetOutput(&log)
	c := config{node: "web1", mode: requesting, request: "capture", capacity: capacity{captures: 1, memory: capfile.ChunkSize}}
	if code := runOnce(c, logger, nil, &out); code != exitFailed {
		t.Errorf("want exit code %d, got %d", exitFailed, code)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("want one line in the log, got %d: %s", n, log.String())
	}
	if r, err := result.Decode([]byte(out.String())); err != nil || r.State != result.Refused {
		t.Errorf("want it refused, got %s, %v", out.String(), err)
	}
}

// TestResultsAreNotPrinted: a result that nobody gets is a failure.
func TestResultsAreNotPrinted(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	out := &printer{to: full}
	out.Publish(result.Result{ID: "a", State: result.Done})
	if !errors.Is(out.err, syscall.ENOSPC) {
		t.Errorf("want %v, got %v", syscall.ENOSPC, out.err)
	}
}

// TestStartIsAudited: the log says of a start who asked for what, in one line that nothing can forge.
func TestStartIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		var log strings.Builder
		b.log.SetOutput(&log)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","packets":5,"bytes":4096,"timeout":90,"snap":96,
			"bpf":"udp port 53","tags":"dns,\nlevel=error","customer":"ACME \u202e\u009b","alertid":4711,"by":"me@here"}`)
		time.Sleep(time.Second)
		synctest.Wait()
		line, _, _ := strings.Cut(log.String(), "\n")
		for _, want := range []string{
			"request=a", "interface=x0", `bpf="udp port 53"`, "packets=5", "bytes=4096", "timeout=1m30s", "snap=96",
			`tags="dns,\nlevel=error"`, `customer="ACME \u202e\u009b"`, "alertid=4711", "by=me@here",
		} {
			if !strings.Contains(line, want) {
				t.Errorf("want %s in the log, got %s", want, line)
			}
		}
	})
}

// TestRefusedTakesNoSlot: what is wrong anyway does not keep the good one out.
func TestRefusedTakesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		good := b.jobs.prepare
		b.jobs.prepare = func(ctx context.Context, w wanted) (opener, error) {
			if w.iface != "lo" {
				return slowlyRefused(ctx, w)
			}
			return good(ctx, w)
		}
		b.ask(t, `{"node":"web1","interface":["a1","a2","a3","a4","a5","a6","lo"],"packets":5,"id":"a"}`)
		time.Sleep(500 * time.Millisecond)
		b.checkStates(t, "a started", "a done")
		time.Sleep(time.Second)
		if n := b.jobs.refused.Load(); n != 6 {
			t.Errorf("want 6 refused, got %d", n)
		}
	})
}

// A slowWriter takes a line only when it is let.
type slowWriter struct {
	let   chan struct{}
	lines []string
}

// Write implements io.Writer.
func (w *slowWriter) Write(line []byte) (int, error) {
	<-w.let
	w.lines = append(w.lines, string(line))
	return len(line), nil
}

// TestLogNeverBlocks: lines that nobody takes are dropped and counted, the others come in order.
func TestLogNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slowWriter{let: make(chan struct{})}
		var dropped int64
		q := newLogQueue(to, func(n int64) { dropped += n })
		const lines = maxLines + 500
		for n := range lines {
			fmt.Fprint(q, n)
			synctest.Wait()
		}
		close(to.let)
		q.flush()
		if want, got := int64(lines-len(to.lines)), dropped; want != got || want < 490 {
			t.Errorf("want %d lines said to be dropped, got %d", want, got)
		}
		for n, line := range to.lines {
			if line != fmt.Sprint(n) {
				t.Fatalf("want line %d, got %s", n, line)
			}
		}
	})
}

// TestLogGivesUp: a log that nobody reads does not hold up the end.
func TestLogGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slowWriter{let: make(chan struct{})}
		q := newLogQueue(to, func(int64) {})
		fmt.Fprint(q, "x")
		q.flush()
		close(to.let)
		<-q.done
		if got := strings.Join(to.lines, ""); got != "x" {
			t.Errorf("want the line in the end, got %q", got)
		}
	})
}

// The tests that run in parallel wait for clients, servers and hosts to lose patience.
func TestMain(m *testing.M) {
	testbed.RunAtOnce(8)
	os.Exit(m.Run())
}

// TestPolicyOfEachInterface: where -filter does not compile, the log says so once,
// though other interfaces can be captured on.
func TestPolicyOfEachInterface(t *testing.T) {
	ns := testbed.NewNamespace(t, "policy")
	ns.IP(t, "tuntap", "add", "tun7", "mode", "tun")
	ns.IP(t, "link", "set", "tun7", "up")
	var lines strings.Builder
	c := config{node: "web1", filter: "not ether src 02:00:00:00:00:01", limits: limits{snap: 1500},
		capacity: capacity{captures: 1, memory: capfile.ChunkSize}}
	log := logrus.New()
	log.SetOutput(&lines)
	d, err := newDaemon(c, discard{}, status.NewHealth(), log)
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { d.watchCapture(t.Context()) })
	if got := strings.Count(lines.String(), "nothing can be captured"); got != 1 || !strings.Contains(lines.String(), "interface=tun7") {
		t.Errorf("want one line on tun7, got %s", lines.String())
	}
	if err := d.health.Capture(); err != nil {
		t.Errorf("want a host that can capture, got %v", err)
	}
}

// TestRememberedHandsOn: what the page remembers is published all the same.
func TestRememberedHandsOn(t *testing.T) {
	var next memo
	past := &status.History{}
	out := remembered{&next, past}
	out.Publish(result.Result{ID: "a", State: result.Started})
	out.Publish(result.Result{ID: "a", State: result.Done})
	if got, want := next.states(), []string{"a started", "a done"}; !slices.Equal(want, got) {
		t.Errorf("want %q handed on, got %q", want, got)
	}
	if got := len(past.Recent()); got != 1 {
		t.Errorf("want the last result remembered, got %d", got)
	}
}
