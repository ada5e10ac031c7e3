package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"pcapdaemon/capfile"
	"pcapdaemon/encrypt"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/sharktest"
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
	open   atomic.Int64       // sources
}

// A fakeStore stores or fails as it is told, after a while.
type fakeStore struct {
	title string
	err   error
	takes time.Duration
	mu    sync.Mutex
	names []string
	began time.Time  // of the newest recording
	last  store.File // the newest one
}

// Name implements store.Destination.
func (f *fakeStore) Name() string { return f.title }

// Unused implements store.Archive.
func (f *fakeStore) Unused(name string) string { return name }

// Store implements store.Destination.
func (f *fakeStore) Store(ctx context.Context, r store.File) (store.Place, error) {
	f.mu.Lock()
	f.names, f.began, f.last = append(f.names, r.Name), time.Now(), r
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
	b.daemon = newTestDaemon(t, c, b.memo, quietLog())
	b.deliver(func(*store.Options) {})
	b.jobs.prepare = func(context.Context, wanted) (opener, error) { return b.opener(steady), nil }
	ctx, cancel := context.WithCancel(t.Context())
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	b.life, b.signal = life, cancel
	t.Cleanup(func() {
		cancel()
		end()
		b.jobs.working.Wait()
		if left := b.open.Load(); left != 0 {
			t.Errorf("want all sources closed, %d are open", left)
		}
	})
	return b
}

// newTestDaemon returns a daemon that must be at rest and have given back all that it
// has taken when the test ends.
func newTestDaemon(t *testing.T, c config, results outlet, log *logrus.Logger) *daemon {
	t.Helper()
	d, err := newDaemon(c, results, status.NewHealth(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		checkGivenBack(t, d)
		d.jobs.pool.Release()
	})
	return d
}

// checkGivenBack fails unless a daemon at rest has given back all that it has taken.
func checkGivenBack(t *testing.T, d *daemon) {
	t.Helper()
	for what, left := range map[string]int64{
		"bytes of memory": d.jobs.pool.Held(),
		"slots":           int64(d.jobs.count()),
		"held captures":   d.jobs.held,
		"running":         int64(len(d.jobs.running)),
		"to be shared":    int64(len(d.jobs.newest)),
		"roll calls":      int64(len(d.rollCalls)),
	} {
		if left != 0 {
			t.Errorf("want all given back, got %d %s", left, what)
		}
	}
	checkPlacesAreFree(t, d.compiler)
}

// checkPlacesAreFree fails unless libpcap is soon done with each filter, also with
// those that were given up.
func checkPlacesAreFree(t *testing.T, compiler *tap.Compiler) {
	t.Helper()
	testbed.Eventually(t, 5*time.Second, "all places for filters are free", func() bool { return compiler.Compiling() == 0 })
}

// opener returns a function that opens sources with a read function, and counts those that are not closed.
func (b *bench) opener(read func() func() (tap.Packet, error)) opener {
	return func(time.Time, time.Duration) (source, time.Time, error) {
		b.open.Add(1)
		return &fakeSource{read: read(), closed: func() { b.open.Add(-1) }}, time.Now(), nil
	}
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

// onePacket is a preparer whose interfaces bring a packet at once, and no more.
func (b *bench) onePacket(context.Context, wanted) (opener, error) {
	return b.opener(func() func() (tap.Packet, error) { return inTurn(at(time.Now(), 100)) }), nil
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
		granted := result.Limits{Packets: 5, Bytes: 1 << 20, Timeout: 60, Delivery: 306}
		if got := *b.memo.all()[0].Limits; got != granted {
			t.Errorf("want limits %+v, got %+v", granted, got)
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
					return func(asked time.Time, _ time.Duration) (source, time.Time, error) {
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

// TestRequestAlone: what takes somebody who listens, or who is answered through Redis, is not for -request.
func TestRequestAlone(t *testing.T) {
	for request, culprit := range map[string]string{
		`{"stop":"a"}`:                      "give the request to -publish",
		`{"rollcall":true,"id":"a"}`:        "give the request to -publish",
		`{"interface":"x0","return":true}`:  "return: -request prints where captures are",
		`{"interface":"x0","live":true}`:    "live: -request prints where captures are",
		`{"interface":"x0","packets":1001}`: "-maxpackets",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(c *config) { c.mode, c.limits.returned = requesting, 1000 })
			b.ask(t, request)
			if got := b.memo.last(); got.State != result.Refused || !strings.Contains(got.Error, culprit) {
				t.Errorf("%s: want it refused for %q, got %s, %s", request, culprit, got.State, got.Error)
			}
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

// TestEachInterface: one that is refused keeps no other one out, and what is wrong with all names none.
func TestEachInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.limits.interfaces = []string{"x0"} })
		b.ask(t, `{"node":"web1","interface":["y0","x0"],"id":"a","bytes":24}`)
		b.checkStates(t, "a refused", "a started")
		b.ask(t, `{"node":"web1","interface":["y0","x0"],"id":"b","packets":1001}`)
		if got := b.memo.last(); got.State != result.Refused || got.Interface != "" {
			t.Errorf("want all of it refused, got %+v", got)
		}
	})
}

// TestOrder: what a request leaves open is what the host grants.
func TestOrder(t *testing.T) {
	b := newBench(t, func(c *config) {
		c.limits.snap, c.capacity.buffer = 1000, 4096
		c.limits.aliases, c.limits.recorded = map[string]string{"wan": "x0"}, []string{"x0"}
	})
	for asked, want := range map[*request]wanted{
		{}:                        {iface: "x0", snap: 1000, buffer: 4096},
		{Snap: 96, Filter: "udp"}: {iface: "x0", snap: 96, buffer: 4096, filter: "udp"},
		{Lookback: 5}:             {iface: "x0", snap: 1000, buffer: 4096, lookback: 5 * time.Second},
	} {
		j, err := b.order(requester{*asked, "wan"}, bounds{bytes: 1000})
		if err != nil || j.want != want {
			t.Errorf("%+v: want %+v, got %+v, %v", asked, want, j, err)
		}
	}
}

// TestUploadsFromTheSpool: what has waited is tried once at a time, for the spool has pauses of its own.
func TestUploadsFromTheSpool(t *testing.T) {
	b := newBench(t, nil)
	o := b.jobs.deliveryOptions(config{delivery: deliveryConfig{upload: true}})
	if len(o.Remotes) != 1 {
		t.Fatalf("want CloudShark alone, got %v", o.Remotes)
	}
	for single, to := range map[bool]store.Destination{false: o.Remotes[0].Destination, true: o.Remotes[0].Once} {
		if got := to.(*cloudshark).tries.Single; got != single {
			t.Errorf("want one try %v, got %v", single, got)
		}
	}
}

// TestDownIsTold: a capture that has no packets says so if its interface is down.
func TestDownIsTold(t *testing.T) {
	ns := testbed.NewNamespace(t, "down")
	ns.IP(t, "link", "add", "va", "type", "veth", "peer", "name", "vb")
	ns.IP(t, "link", "set", "va", "up")
	b := newBench(t, nil)
	for iface, want := range map[string]string{"va": "", "vb": "the interface is down"} {
		a := requester{request{ID: "a"}, iface}
		ns.Do(t, func() {
			b.jobs.finish(b.life, newJob(a, wanted{iface: iface}, bounds{}, capfile.Header{}), []requester{a}, outcome{stop: stopTimeout})
		})
		if got := b.memo.last(); got.State != result.Done || got.Error != want {
			t.Errorf("%s: want it done with %q, got %+v", iface, want, got)
		}
	}
}

// TestBudget: recorders and visitors of the endpoint need descriptors too.
func TestBudget(t *testing.T) {
	b := newBench(t, nil)
	want := b.jobs.budget(config{})
	want.Always += 2 * perRecorder
	want.Passing += perVisitor * status.MaxConnections
	if got := b.jobs.budget(config{listen: ":9100", record: recordConfig{interfaces: []string{"x0", "x1"}}}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
}

// TestHeadingHasThePolicy: a file says all that its packets had to pass.
func TestHeadingHasThePolicy(t *testing.T) {
	b := newBench(t, func(c *config) { c.filter = "ip" })
	if want, got := "(ip) and (udp)", b.heading(request{Filter: "udp"}, "x0").Filter; want != got {
		t.Errorf("want %q, got %q", want, got)
	}
}

// TestAge: what is to come, after the clock was set back, has no age.
func TestAge(t *testing.T) {
	if got := age(time.Now().Add(time.Hour)); got != 0 {
		t.Errorf("want none, got %v", got)
	}
}

// TestSettledSaysNothingOfTheHost: a result that was kept holds what one of a capture does.
func TestSettledSaysNothingOfTheHost(t *testing.T) {
	b := newBench(t, nil)
	b.jobs.settle(finalResults{{ID: "a", State: result.Kept}}.encode(), store.Place{URL: "http://a"}, nil)
	if got := b.memo.last(); got.Presence != nil || got.URL != "http://a" {
		t.Errorf("want it without a presence, got %+v", got)
	}
}

// TestSettledForNobody: an upload from the spool whose note is damaged is told to nobody, and said in the log.
func TestSettledForNobody(t *testing.T) {
	b := newBench(t, nil)
	var log strings.Builder
	b.log.SetOutput(&log)
	for _, note := range []string{"", "{", "[]", `[{"id":7}]`} {
		log.Reset()
		b.jobs.settle([]byte(note), store.Place{URL: "http://a"}, nil)
		if got := b.memo.all(); len(got) > 0 || !strings.Contains(log.String(), `url="http://a"`) {
			t.Errorf("%s: want it in the log alone, got %v, %s", note, got, log.String())
		}
	}
}

// TestEncryptedSizes: bounds and results count the bytes of what is stored, where nothing is the bytes of the capture.
func TestEncryptedSizes(t *testing.T) {
	to, err := encrypt.ParseRecipients(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.deliver(func(o *store.Options) { o.Encrypt = to })
		const most, packet = 3000, capfile.RecordHeaderSize + 100
		b.ask(t, fmt.Sprintf(`{"node":"web1","interface":"x0","id":"a","bytes":%d}`, most))
		time.Sleep(time.Second)
		synctest.Wait()
		got, size := b.memo.last(), b.upload.last.Size
		if got.Stop != stopBytes || got.Bytes != size || size > most || size <= most-packet {
			t.Errorf("want %d bytes filled up, got %d stored: %+v", most, size, got)
		}
		b.jobs.prepare = func(context.Context, wanted) (opener, error) {
			return b.opener(func() func() (tap.Packet, error) { return inTurn() }), nil
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"b","timeout":1}`)
		time.Sleep(5 * time.Second)
		if got := b.memo.last(); got.State != result.Done || got.Bytes != capfile.HeaderSize {
			t.Errorf("want %d bytes of a capture that is stored nowhere, got %+v", capfile.HeaderSize, got)
		}
	})
}

// TestErrorsAreOneLine: whatever went wrong with a capture stands in its result, the first first.
func TestErrorsAreOneLine(t *testing.T) {
	b := newBench(t, nil)
	results := finalResults{{ID: "a", State: result.Done}}
	results.add("first")
	results.add("")
	b.jobs.conclude(results, store.Place{Why: "away\ntoo"}, errors.Join(errors.New("full"), errors.New("broken")))
	if got := b.memo.last(); got.State != result.Failed || got.Error != "first; away; too; full; broken" {
		t.Errorf("want it failed with all in one line, got %s, %q", got.State, got.Error)
	}
}

// TestStatisticsOfAFile: each count stands in its own place.
func TestStatisticsOfAFile(t *testing.T) {
	r := result.Result{Counts: &result.Counts{Packets: 1}, Losses: &result.Losses{Received: 2, Dropped: 3, IfDropped: 4}}
	got := finalResults{r}.statistics()
	if want := (tap.Stats{Received: 2, Dropped: 3, IfDropped: 4}); got.Packets != 1 || got.Stats != want {
		t.Errorf("want 1 packet and %+v, got %+v", want, got)
	}
}

// TestStopAsksForTime: systemd counts in microseconds.
func TestStopAsksForTime(t *testing.T) {
	heard := beSystemd(t)
	notifyStopping(2 * time.Second)
	extendStop(3 * time.Second)
	said := strings.Join(heard(), "\n")
	for _, want := range []string{"EXTEND_TIMEOUT_USEC=2000000", "EXTEND_TIMEOUT_USEC=3000000"} {
		if !strings.Contains(said, want) {
			t.Errorf("want %s, got %q", want, said)
		}
	}
}

// TestWatchdog: systemd hears twice as often as it asks for, or never.
func TestWatchdog(t *testing.T) {
	for period, want := range map[string]int{"4000000": 5, "": 0} {
		t.Setenv("WATCHDOG_USEC", period)
		synctest.Test(t, func(t *testing.T) {
			ticks, stop := watchdogTicker()
			defer stop()
			got := 0
			for over := time.After(11 * time.Second); ; {
				select {
				case <-ticks:
					got++
					continue
				case <-over:
				}
				break
			}
			if got != want {
				t.Errorf("%s µs: want %d times in 11 s, got %d", period, want, got)
			}
		})
	}
}

// TestResumeForgets: what systemd hands over and no recorder can go on with is closed, and systemd forgets
// what was kept for recorders. Its descriptors begin at 3, so that takes a process of its own.
func TestResumeForgets(t *testing.T) {
	const names = storedPrefix + "x0:" + storedPrefix + "gone:other"
	if os.Getenv("LISTEN_FDNAMES") != names {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		again := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "-test.run=^"+t.Name()+"$")
		again.Env = append(os.Environ(), "LISTEN_FDS=3", "LISTEN_FDNAMES="+names)
		again.ExtraFiles = []*os.File{null, null, null}
		if out, err := testbed.CombinedOutput(again); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	heard := beSystemd(t)
	s, err := newRecorders(config{record: recordConfig{[]string{"x0"}, leastRecord}}, tap.NewCompiler())
	if err != nil {
		t.Fatal(err)
	}
	if resumed := s.resume(quietLog()); len(resumed) > 0 {
		t.Errorf("want nothing resumed, got %v", resumed)
	}
	for fd := uintptr(3); fd < 6; fd++ {
		if _, err := unix.FcntlInt(fd, unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
			t.Errorf("want descriptor %d closed, got %v", fd, err)
		}
	}
	want := []string{"FDSTOREREMOVE=1\nFDNAME=ring-x0", "FDSTOREREMOVE=1\nFDNAME=ring-gone"}
	if said := heard(); !slices.Equal(want, said) {
		t.Errorf("want %q, got %q", want, said)
	}
}

// TestStoreDescriptors: what is kept replaces what was kept under that name, and stays if its interface goes down.
func TestStoreDescriptors(t *testing.T) {
	heard := beSystemd(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := storeDescriptors("ring-x0", []*os.File{null, null}); err != nil {
		t.Error(err)
	}
	want := []string{"FDSTOREREMOVE=1\nFDNAME=ring-x0", "FDSTORE=1\nFDPOLL=0\nFDNAME=ring-x0"}
	if said := heard(); !slices.Equal(want, said) {
		t.Errorf("want %q, got %q", want, said)
	}
}

// TestRecordersEndBeforeTheyBegin: nobody waits for an interface that is not tried any more.
func TestRecordersEndBeforeTheyBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.record = recordConfig{[]string{"x0"}, leastRecord} })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.recorders.run(ctx, b.log)()
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

// TestStopDelivers: what was captured until the signal is delivered, and the exit code says so of that alone.
func TestStopDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.upload.err = errors.New("away")
		b.ask(t, `{"node":"web1","interface":"x0","id":"before","packets":5}`)
		time.Sleep(time.Second)
		synctest.Wait()
		b.upload.err = nil
		b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
		time.Sleep(105 * time.Millisecond)
		b.signal()
		if code := b.stop(b.life); code != exitOK || b.jobs.failed.Load() != 1 {
			t.Errorf("want exit code %d, whatever failed before, got %d, %d failed", exitOK, code, b.jobs.failed.Load())
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

// beSystemd lets the test be what systemd is to a service. The function that it
// returns ends that, and returns what has been said.
func beSystemd(t *testing.T) (heard func() []string) {
	t.Helper()
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	socket, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", address.Name)
	const end = "that is all"
	said := make(chan []string, 1)
	go func() {
		defer socket.Close()
		var all []string
		for text := make([]byte, 4096); ; {
			n, err := socket.Read(text)
			if err != nil || string(text[:n]) == end {
				said <- all
				return
			}
			all = append(all, string(text[:n]))
		}
	}()
	return func() []string {
		notify(end)
		return <-said
	}
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
			heard := beSystemd(t)
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
			// Once for the drain, then as long as the disk is waited for.
			asked := strings.Count(strings.Join(heard(), " "), "EXTEND_TIMEOUT_USEC=")
			least := 1 + int((test.took-30*time.Second)/store.LateDelivery)
			if asked < least || asked > least+1 {
				t.Errorf("want systemd asked for time %d times, got %d", least, asked)
			}
		})
	}
}

// TestKeptIsNotEverything: a capture that waits in the spool, but is not where it was
// to be as well, counts as failed.
func TestKeptIsNotEverything(t *testing.T) {
	for name, test := range map[string]struct {
		disk   error
		failed int64
		code   int
	}{
		"written too":      {nil, 0, exitOK},
		"the disk is full": {syscall.ENOSPC, 1, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			spool := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				b.upload.err, b.local.err = errors.New("broken"), test.disk
				b.deliver(func(o *store.Options) {
					o.Always, o.Spool, o.SpoolSize, o.Remotes[0].Once = true, spool, 1<<20, b.upload
				})
				b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
				time.Sleep(time.Second)
				b.signal()
				if code := b.stop(b.life); code != test.code {
					t.Errorf("want exit code %d, got %d", test.code, code)
				}
				if got := b.memo.last(); got.State != result.Kept || b.jobs.failed.Load() != test.failed {
					t.Errorf("want it kept, and %d failed, got %d: %+v", test.failed, b.jobs.failed.Load(), got)
				}
			})
		})
	}
}

// TestCommentsOfAnUpload: they say what people need to know of the file.
func TestCommentsOfAnUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		for _, id := range []string{"a", "b"} {
			b.ask(t, `{"node":"web1","interface":"x0","id":"`+id+`","packets":5,"bpf":"udp"}`)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		const want = "filter: udp; stop: packets; packets: 5; dropped: 3; request: a; asked for 2 times"
		if got := b.upload.last.Comments; got != want {
			t.Errorf("want %q, got %q", want, got)
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"c","packets":5}`)
		time.Sleep(time.Second)
		synctest.Wait()
		if want, got := "filter: none; stop: packets; packets: 5; dropped: 3; request: c", b.upload.last.Comments; got != want {
			t.Errorf("of one request: want %q, got %q", want, got)
		}
	})
}

// TestNothingToDeliver: a capture without packets is done, and goes nowhere.
func TestNothingToDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.jobs.prepare = func(context.Context, wanted) (opener, error) {
			return b.opener(func() func() (tap.Packet, error) { return inTurn() }), nil
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":1}`)
		time.Sleep(5 * time.Second)
		b.checkStates(t, "a started", "a done")
		if n := b.upload.stored() + b.local.stored(); n != 0 || b.memo.last().Packets != 0 {
			t.Errorf("want nothing delivered, got %d, %+v", n, b.memo.last())
		}
	})
}

// A fakePast is a source with a past that begins at a time.
type fakePast struct {
	fakeSource
	since time.Time
}

// Since implements pastSource.
func (f *fakePast) Since() time.Time { return f.since }

// Gap implements pastSource.
func (*fakePast) Gap() error { return errors.New("it was away") }

// TestPastIsTold: who asks for the past is told from when on it is whole, and what is missing; others are not.
func TestPastIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.limits.recorded = []string{"x0"} })
		since := time.Now().Add(-5 * time.Second)
		b.jobs.prepare = func(context.Context, wanted) (opener, error) {
			return func(asked time.Time, _ time.Duration) (source, time.Time, error) {
				return &fakePast{fakeSource{read: inTurn(at(time.Now(), 100))}, since}, asked, nil
			}, nil
		}
		for id, lookback := range map[string]int{"with": 10, "without": 0} {
			b.ask(t, fmt.Sprintf(`{"node":"web1","interface":"x0","id":%q,"timeout":1,"lookback":%d}`, id, lookback))
			time.Sleep(3 * time.Second)
			synctest.Wait()
			got := b.memo.last()
			told := time.Time(got.Since).Equal(since) && got.Error == "it was away"
			if want := lookback > 0; told != want || !want && (!got.Since.IsZero() || got.Error != "") {
				t.Errorf("%s the past: want it told %v, got since %v, %q", id, want, time.Time(got.Since), got.Error)
			}
		}
	})
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
	if code := printVersion(full, io.Discard); code != exitFailed {
		t.Errorf("the version: want exit code %d, got %d", exitFailed, code)
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

// TestStatusIsNew: systemd is told how many captures run when one starts or ends, and
// what is recorded again and again.
func TestStatusIsNew(t *testing.T) {
	heard := beSystemd(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.config.redis.server = &pubsub.Server{Addresses: []string{"redis.example:6379"}}
		receiving, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.receive(lifetime{receiving, receiving}, nil)
		}()
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":2}`)
		time.Sleep(time.Second)
		synctest.Wait()
		b.health.SetRequests(nil)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		end()
		<-done
	})
	var running []string
	for _, said := range heard() {
		if _, count, found := strings.Cut(said, "; "); found {
			running = append(running, count)
		}
	}
	want := []string{"1 capture running", "1 capture running", "0 captures running"}
	if !slices.Equal(want, running) {
		t.Errorf("want %q, got %q", want, running)
	}
}

// TestStatusOfRecorders: what is recorded reaches further back by the second, and systemd is told now and then.
func TestStatusOfRecorders(t *testing.T) {
	heard := beSystemd(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.record = recordConfig{[]string{"x0"}, leastRecord} })
		b.config.redis.server = &pubsub.Server{Addresses: []string{"redis.example:6379"}}
		receiving, end := context.WithTimeout(t.Context(), 2*statusPeriod+time.Second)
		defer end()
		b.receive(lifetime{receiving, receiving}, nil)
	})
	said := heard()
	if len(said) != 2 || !strings.HasSuffix(said[1], "; recorded: x0 not yet") {
		t.Errorf("want the status twice, with what is recorded, got %q", said)
	}
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
		began := time.Now()
		if q.flush(); time.Since(began) != lastLines {
			t.Errorf("want it given up after %v, took %v", lastLines, time.Since(began))
		}
		close(to.let)
		<-q.done
		if got := strings.Join(to.lines, ""); got != "x" {
			t.Errorf("want the line in the end, got %q", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		to := &slowWriter{let: make(chan struct{})}
		q := newLogQueue(to, func(int64) {})
		for range maxLines + 2 { // not even the word that it is over finds room
			fmt.Fprint(q, "x")
		}
		began := time.Now()
		if q.flush(); time.Since(began) != lastLines {
			t.Errorf("want a full queue given up after %v, took %v", lastLines, time.Since(began))
		}
		close(to.let)
		q.flush()
		<-q.done
	})
}

// TestWarnings: what libraries log by lines are warnings in the format of the log.
func TestWarnings(t *testing.T) {
	var out strings.Builder
	log := logrus.New()
	log.SetOutput(&out)
	log.SetFormatter(&logrus.JSONFormatter{DisableTimestamp: true})
	stdlog.New(warnings{log}, "", 0).Printf("http: Accept error: %v", syscall.EMFILE)
	if want, got := `{"level":"warning","msg":"http: Accept error: too many open files"}`+"\n", out.String(); want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}

// The tests that run in parallel wait for clients, servers and hosts to lose patience.
func TestMain(m *testing.M) {
	testbed.RunAtOnce(8)
	os.Exit(testbed.RunTidy(m))
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
	d := newTestDaemon(t, c, discard{}, log)
	ns.Do(t, func() { d.watchCapture(t.Context()) })
	if got := strings.Count(lines.String(), "nothing can be captured"); got != 1 || !strings.Contains(lines.String(), "interface=tun7") {
		t.Errorf("want one line on tun7, got %s", lines.String())
	}
	if err := d.health.Capture(); err != nil {
		t.Errorf("want a host that can capture, got %v", err)
	}
}

// TestCaptureIsPossibleAgain: that nothing can be captured is said once, and so is that it is over.
func TestCaptureIsPossibleAgain(t *testing.T) {
	ns := testbed.NewNamespace(t, "again")
	var lines strings.Builder
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.limits.interfaces = []string{"tun7"} })
		b.log.SetOutput(&lines)
		began := time.Now()
		time.AfterFunc(3*statusPeriod-time.Second, func() {
			if b.health.Capture() == nil {
				t.Error("want nothing to capture while there is no interface")
			}
			ns.IP(t, "tuntap", "add", "tun7", "mode", "tun")
		})
		ns.Do(t, func() { b.watchCapture(t.Context()) })
		if took := time.Since(began); took != 3*statusPeriod || b.health.Capture() != nil {
			t.Errorf("want captures possible after %v, got %v after %v", 3*statusPeriod, b.health.Capture(), took)
		}
	})
	for _, want := range []string{"nothing can be captured", "captures are possible again"} {
		if strings.Count(lines.String(), want) != 1 || strings.Count(lines.String(), "\n") != 2 {
			t.Errorf("want %q once, got %s", want, lines.String())
		}
	}
}

// TestRollCallSaysWhatIsUp: an interface that was taken up is up, whether it has a carrier or not.
func TestRollCallSaysWhatIsUp(t *testing.T) {
	ns := testbed.NewNamespace(t, "up")
	ns.IP(t, "tuntap", "add", "tun7", "mode", "tun")
	ns.IP(t, "tuntap", "add", "tun8", "mode", "tun")
	ns.IP(t, "link", "set", "tun7", "up") // and nobody holds its other end
	b := newBench(t, func(c *config) { c.limits.interfaces = []string{"any", "lo", "tun7", "tun8"} })
	up := map[string]bool{}
	ns.Do(t, func() {
		for _, i := range b.present(request{}).Interfaces {
			up[i.Name] = i.Up
		}
	})
	if want := map[string]bool{"any": true, "lo": true, "tun7": true, "tun8": false}; !maps.Equal(want, up) {
		t.Errorf("want %v, got %v", want, up)
	}
}

// A heardLine is called with each line that is written.
type heardLine func(line string)

// Write implements io.Writer.
func (h heardLine) Write(line []byte) (int, error) {
	h(string(line))
	return len(line), nil
}

// TestTroubleChanges: the log says why nothing can be captured, and again when that is another reason.
func TestTroubleChanges(t *testing.T) {
	testbed.NeedRoot(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.limits.interfaces = []string{"nosuch0"} })
		most := b.jobs.most
		b.jobs.most = 0
		var said []string
		b.log.SetOutput(heardLine(func(line string) {
			switch said = append(said, line); len(said) {
			case 1:
				b.jobs.most = most
			case 2:
				b.daemon.config.limits.interfaces = []string{"lo"}
			}
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 5*statusPeriod)
		defer cancel()
		b.watchCapture(ctx)
		for n, want := range []string{"limit of open files", "no interface of -interfaces", "captures are possible again"} {
			if len(said) != 3 || !strings.Contains(said[n], want) {
				t.Fatalf("want %s in line %d of 3, got %q", want, n+1, said)
			}
		}
	})
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

// TestSpoolIsWaitedFor: an upload from the spool that is under way at a stop is finished,
// and its capture does not come once more after the next start.
func TestSpoolIsWaitedFor(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	shark := sharktest.Start(t, func(http.ResponseWriter, *http.Request, int) bool {
		close(began)
		time.Sleep(300 * time.Millisecond)
		return false
	})
	c := config{node: "web1", limits: limits{snap: tap.MaxSnap}, capacity: capacity{captures: 1, memory: capfile.ChunkSize},
		redis: redisConfig{server: &pubsub.Server{Addresses: []string{testbed.DeadAddress(t)}}, requests: "capture"},
		delivery: deliveryConfig{upload: true, spool: t.TempDir(), spoolSize: 1 << 20, drainTimeout: 10 * time.Second,
			shark: sharkConfig{scheme: "http", host: shark.Address(), token: sharktest.Token, timeout: time.Minute}}}
	away := &fakeStore{title: "cloudshark", err: errors.New("away")}
	file, _ := newCaptureFile(1000)
	file.Note = finalResults{{ID: "a", State: result.Done}}.encode()
	before := store.New(store.Options{Node: c.node, Remotes: []store.Remote{{Destination: away, Once: away}}, Spool: c.delivery.spool,
		SpoolSize: c.delivery.spoolSize, Observer: &retryObserver{}})
	syscall.ForkLock.RLock() // or a process that another test begins would hold a lock of the spool until it runs
	place, err := before.Deliver(t.Context(), nil, file)
	syscall.ForkLock.RUnlock()
	if err != nil || !place.Kept {
		t.Fatalf("want it kept, got %+v, %v", place, err)
	}
	ctx, signal := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- serve(ctx, c, quietLog()) }()
	<-began
	signal()
	if got := <-code; got != exitOK {
		t.Errorf("want exit code %d, got %d", exitOK, got)
	}
	if left, err := os.ReadDir(c.delivery.spool); err != nil || len(left) > 0 || len(shark.Received()) != 1 {
		t.Errorf("want it uploaded once and nothing left, got %v, %v, %d uploads", left, err, len(shark.Received()))
	}
}

// TestResultsAreReadyFirst: requests are subscribed to when results can be published, so that no
// capture holds a password of that connection.
func TestResultsAreReadyFirst(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	reached, answer, subscribed := make(chan struct{}, 8), make(chan struct{}), make(chan struct{}, 8)
	go func() { // a server that answers the publisher when it is let
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			go func() {
				defer conn.Close()
				for said := make([]byte, 1024); ; {
					n, err := conn.Read(said)
					switch {
					case err != nil:
						return
					case bytes.Contains(said[:n], []byte("SUBSCRIBE")):
						subscribed <- struct{}{}
					case bytes.Contains(said[:n], []byte("PING")):
						<-answer
						_, _ = io.WriteString(conn, "+PONG\r\n")
					}
				}
			}()
		}
	}()
	c := config{node: "web1", limits: limits{snap: tap.MaxSnap}, capacity: capacity{captures: 1, memory: capfile.ChunkSize},
		redis: redisConfig{server: &pubsub.Server{Addresses: []string{listener.Addr().String()}}, requests: "capture", results: "results"}}
	ctx, signal := context.WithCancel(t.Context())
	ended := make(chan int)
	began := time.Now()
	go func() { ended <- serve(ctx, c, quietLog()) }()
	<-reached
	<-reached // both
	select {
	case <-subscribed:
		if took := time.Since(began); took < time.Second { // longer, nobody waits for results
			t.Errorf("want results ready first, subscribed to requests after %v", took)
		}
		close(answer)
	case <-time.After(50 * time.Millisecond):
		close(answer)
		<-subscribed
	}
	signal()
	<-ended
}

// fillPipe writes to a pipe until it takes nothing more, and returns how many bytes it took.
func fillPipe(t *testing.T, in *os.File) (size int) {
	t.Helper()
	conn, err := in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var full error
	err = conn.Write(func(fd uintptr) bool {
		for full == nil {
			var n int
			n, full = unix.Write(int(fd), make([]byte, 1<<20))
			size += max(n, 0)
		}
		return true
	})
	if err != nil || size == 0 || !errors.Is(full, unix.EAGAIN) {
		t.Fatalf("want a full pipe, got %d bytes, %v, %v", size, err, full)
	}
	return size
}

// TestLastLinesAreLogged: the program does not end before its log is written, if somebody takes it.
func TestLastLinesAreLogged(t *testing.T) {
	t.Parallel()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	filler := fillPipe(t, in)
	printed, log := make(chan []byte, 1), make(chan string)
	go func() {
		<-printed // the result, which the log says next
		time.Sleep(50 * time.Millisecond)
		all, _ := io.ReadAll(out)
		log <- string(all[filler:])
	}()
	code := run([]string{"-writelocal", "-destdir", t.TempDir(), "-node", "web1", "-request", `{"node":"web1"}`},
		nil, chanWriter(printed), in)
	in.Close() // as the end of the program does
	if got := <-log; code != exitFailed || !strings.Contains(got, "interface: required") {
		t.Errorf("want exit code %d and the refusal in the log, got %d, %q", exitFailed, code, got)
	}
}

// A chanWriter sends what is written to it.
type chanWriter chan<- []byte

// Write implements io.Writer.
func (w chanWriter) Write(p []byte) (int, error) {
	w <- bytes.Clone(p)
	return len(p), nil
}

// TestGivenUpOnce: a filter that takes too long for the recorder is not tried once more without it.
func TestGivenUpOnce(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	if !testbed.Inside(t, "givenup", "nameserver 127.0.0.1\noptions timeout:30\n") {
		return
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:53") // a name server that answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	compiler := tap.NewCompiler()
	s, err := newRecorders(config{limits: limits{snap: tap.MaxSnap},
		record: recordConfig{[]string{"lo"}, leastRecord}}, compiler)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer s.run(ctx, quietLog())()
	defer cancel()
	began := time.Now()
	_, err = system{compiler, s, limits{}}.prepare(ctx, wanted{iface: "lo", filter: "host name.example", snap: tap.MaxSnap})
	if took := time.Since(began); !errors.Is(err, tap.ErrGivenUp) || took > 8*time.Second {
		t.Errorf("want it given up once, after 5 s, got %v after %v", err, took)
	}
}

// seriesOf returns what Prometheus would read of a daemon, by name and labels. Of a
// histogram it is the count, and the sum under a name of its own.
func seriesOf(t *testing.T, d *daemon) map[string]float64 {
	t.Helper()
	families, err := d.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), "pcapdaemon_")
		if !ours || name == "build_info" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := ""
			for _, label := range m.GetLabel() {
				labels += " " + label.GetValue()
			}
			if h := m.GetHistogram(); h != nil {
				series[name+"_count"+labels], series[name+"_sum"+labels] = float64(h.GetSampleCount()), h.GetSampleSum()
				continue
			}
			series[name+labels] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them is nil
		}
	}
	return series
}

// TestMetricsSayWhatTheyMean: every series shows its own value, and that of no other one.
func TestMetricsSayWhatTheyMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.capacity.share, c.limits.interfaces = time.Second, []string{"x0"} })
		ask := func(times int, request string) {
			for range times {
				_ = b.handle(b.life, received(request))
				synctest.Wait()
			}
		}
		atFirst := len(seriesOf(t, b.daemon))
		observer := deliveryObserver{b.metrics, b.log}
		b.deliver(func(o *store.Options) { o.Observer = &retryObserver{} }) // what it counts is counted below
		ask(1, `{"node":"web1","interface":"x0","packets":50}`)
		ask(1, `{"node":"web1","interface":"x0","packets":51}`)
		time.Sleep(2 * time.Second)
		b.jobs.prepare = func(context.Context, wanted) (opener, error) {
			time.Sleep(100 * time.Millisecond)
			return b.opener(steady), nil
		}
		const shared = `{"node":"web1","interface":"x0","timeout":60}`
		ask(1+3, shared) // while it is opened
		time.Sleep(200 * time.Millisecond)
		ask(1, shared)
		ask(6, `{"node":"web1","interface":"x1"}`)
		ask(7, `{"node":"web2","interface":"x0"}`)
		ask(8, `{`)
		observer.Removed(make([]string, 9), 0)
		for range 30 {
			observer.Sent(10)
		}
		for range 31 {
			observer.GivenUp()
		}
		b.metrics.watchMessages(func() int64 { return 32 }, func() int64 { return 33 })
		n := 10
		want := map[string]float64{}
		for _, destination := range append(store.Names(), "cloudshark", "store") {
			want["delivery_seconds_count "+destination] = float64(2*n + 1)
			want["delivery_seconds_sum "+destination] = float64((2*n + 1) * n)
			for outcome, err := range map[string]error{"error": errors.New("broken"), "ok": nil} {
				times := map[string]int{"error": n, "ok": n + 1}[outcome]
				want["deliveries_total "+destination+" "+outcome] = float64(times)
				for range times {
					observer.Delivered(destination, time.Duration(n)*time.Second, err)
				}
			}
			n += 2
		}
		b.health.SetRequests(nil)
		b.health.SetResults(errors.New("no"))
		b.health.SetCapture(errors.New("no"))
		maps.Copy(want, map[string]float64{
			"requests_total accepted": 3, "requests_total shared": 4, "requests_total refused": 6,
			"requests_total other_node": 7, "requests_total malformed": 8, "removed_captures_total": 9,
			"live_pieces_total": 30, "live_bytes_total": 300, "live_given_up_total": 31,
			"results_lost_total": 32, "messages_too_long_total": 33,
			"captured_packets_total": 101, "captured_bytes_total": 2*24 + 101*116, "dropped_packets_total": 2 * 3,
			"captures_running": 1, "memory_held_bytes": capfile.ChunkSize,
			"subscribed": 1, "connected requests": 1, "connected results": 0, "trouble": 1,
		})
		got := seriesOf(t, b.daemon)
		for name, value := range got {
			if expected, known := want[name]; !known || value != expected {
				t.Errorf("%s: want %v, got %v", name, expected, value)
			}
		}
		if len(got) != len(want) || len(got) != atFirst+2 { // of watchMessages
			t.Errorf("want %d series, all of them from the start, got %d, and %d at first", len(want), len(got), atFirst)
		}
		b.health.SetRequests(errors.New("no"))
		b.health.SetResults(nil)
		b.health.SetCapture(nil)
		for name, want := range map[string]float64{"subscribed": 0, "connected requests": 0, "connected results": 1, "trouble": 0} {
			if got := seriesOf(t, b.daemon)[name]; got != want {
				t.Errorf("%s: want %v, got %v", name, want, got)
			}
		}
	})
}

// TestRemovedAreLogged: ten old captures that are removed at once are named, more than that are a sum.
func TestRemovedAreLogged(t *testing.T) {
	for removed, want := range map[int]string{1: "old capture removed", 10: "old capture removed",
		11: "old captures removed", 12: "old captures removed"} {
		var lines strings.Builder
		log := logrus.New()
		log.SetOutput(&lines)
		names := make([]string, removed)
		for n := range names {
			names[n] = fmt.Sprintf("%d.pcap", n)
		}
		deliveryObserver{newMetrics("test"), log}.Removed(names, 4711)
		got, wanted := lines.String(), removed
		if removed > 10 {
			wanted = 1
		}
		sum := strings.Contains(got, fmt.Sprintf("bytes=4711 captures=%d", removed))
		if n := strings.Count(got, want); n != wanted || strings.Count(got, "\n") != wanted || sum != (removed > 10) {
			t.Errorf("%d removed: want %q %d times, got %s", removed, want, wanted, got)
		}
	}
}

// TestTroubleIsLogged: what is wrong with a directory is an error in the log.
func TestTroubleIsLogged(t *testing.T) {
	var lines strings.Builder
	log := logrus.New()
	log.SetOutput(&lines)
	deliveryObserver{newMetrics("test"), log}.Troubled(syscall.EROFS)
	if got := lines.String(); !strings.Contains(got, "level=error") || !strings.Contains(got, syscall.EROFS.Error()) {
		t.Errorf("want %v as an error, got %s", syscall.EROFS, got)
	}
}

// TestMetricsOfDisks: what lies in the spool and what is free beside it.
func TestMetricsOfDisks(t *testing.T) {
	c := config{node: "web1", limits: limits{snap: tap.MaxSnap}, capacity: capacity{captures: 1, memory: capfile.ChunkSize},
		delivery: deliveryConfig{upload: true, dir: t.TempDir(), spool: t.TempDir(), spoolSize: 1 << 20,
			shark: sharkConfig{scheme: "http", host: testbed.DeadAddress(t), token: sharktest.Token, timeout: time.Nanosecond}}}
	d := newTestDaemon(t, c, discard{}, quietLog())
	for name, want := range map[string]float64{"spool_captures": 0, "spool_bytes": 0, "spool_oldest_seconds": 0} {
		if got := seriesOf(t, d)[name]; got != want {
			t.Errorf("%s: want %v of an empty spool, got %v", name, want, got)
		}
	}
	began := time.Now()
	for range 3 {
		file, _ := newCaptureFile(1000)
		if place, err := d.jobs.delivery.Deliver(t.Context(), nil, file); err != nil || !place.Kept {
			t.Fatalf("want it kept, got %+v, %v", place, err)
		}
	}
	files, bytes := 0, 0.0
	entries, err := os.ReadDir(c.delivery.spool)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			files, bytes = files+1, bytes+float64(info.Size())
		}
	}
	time.Sleep(20 * time.Millisecond)
	got := seriesOf(t, d)
	if err != nil || got["spool_captures"] != 3 || files != 6 || got["spool_bytes"] != bytes {
		t.Errorf("want 3 captures in %d files of %v bytes, got %v, %v", files, bytes, got, err)
	}
	oldest := got["spool_oldest_seconds"]
	if most := time.Since(began).Seconds(); oldest < 0.02 || oldest > most {
		t.Errorf("want the oldest there since %v s at most, got %v", most, oldest)
	}
	var here unix.Statfs_t
	if err := unix.Statfs(c.delivery.dir, &here); err != nil {
		t.Fatal(err)
	}
	free := float64(here.Bavail) * float64(here.Bsize)
	if got := got["destdir_free_bytes"]; got < 0.9*free || got > 1.1*free {
		t.Errorf("want about %v bytes free, got %v", free, got)
	}
}

// TestMetricsOfRecorders: what a recorder holds, each number under its name.
func TestMetricsOfRecorders(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	c := config{node: "web1", limits: limits{snap: tap.MaxSnap}, capacity: capacity{captures: 1, memory: capfile.ChunkSize},
		filter: stream.Filter(), record: recordConfig{[]string{"lo", "nosuch0"}, leastRecord}}
	d := newTestDaemon(t, c, discard{}, quietLog())
	ctx, cancel := context.WithCancel(t.Context())
	defer d.recorders.run(ctx, quietLog())()
	defer cancel()
	began := time.Now()
	testbed.Eventually(t, 10*time.Second, "packets are recorded", func() bool {
		return seriesOf(t, d)["recorder_packets_total lo"] >= 200
	})
	got, most := seriesOf(t, d), time.Since(began).Seconds()+1
	if packets, bytes := got["recorder_packets_total lo"], got["recorder_bytes lo"]; bytes < 40*packets || bytes > 120*packets {
		t.Errorf("want some 73 bytes for each of %v packets, got %v", packets, bytes)
	}
	if seconds := got["recorder_seconds lo"]; seconds < 0.15 || seconds > most {
		t.Errorf("want the oldest packet from within %v s, got %v", most, seconds)
	}
	for name, want := range map[string]float64{"recorder_up lo": 1, "recorder_dropped_total lo": 0, "recorder_up nosuch0": 0,
		"recorder_packets_total nosuch0": 0, "recorder_bytes nosuch0": 0, "recorder_seconds nosuch0": 0} {
		if got, there := got[name]; got != want || !there {
			t.Errorf("%s: want %v, got %v", name, want, got)
		}
	}
	want := regexp.MustCompile(`^; recorded: lo for \d+s, nosuch0 not yet$`)
	if got := d.recorders.status(); !want.MatchString(got) {
		t.Errorf("want the status %s, got %s", want, got)
	}
	for i, r := range d.recorders.overview() {
		name, up := d.recorders.names[i], i == 0
		reach := *d.recorders.reach(name)
		want, got := fmt.Sprint(name, up, up, up), fmt.Sprint(r.Name, r.Trouble == nil, r.Reach > 0, reach > 0)
		if want != got {
			t.Errorf("want %s, got %s: %+v", want, got, r)
		}
	}
}

// TestReachOfAQuietInterface: what is recorded reaches back to the beginning, though no packet came.
func TestReachOfAQuietInterface(t *testing.T) {
	testbed.NeedRoot(t)
	c := config{node: "web1", limits: limits{snap: tap.MaxSnap}, capacity: capacity{captures: 1, memory: capfile.ChunkSize},
		filter: "ether proto 0x88b5", record: recordConfig{[]string{"lo"}, leastRecord}}
	d := newTestDaemon(t, c, discard{}, quietLog())
	ctx, cancel := context.WithCancel(t.Context())
	defer d.recorders.run(ctx, quietLog())()
	defer cancel()
	time.Sleep(time.Millisecond)
	if page, told := d.recorders.overview()[0].Reach, *d.recorders.reach("lo"); page <= 0 || told <= 0 {
		t.Errorf("want some time, got %v on the page, %v s told", page, told)
	}
}

// TestDaemonCompiles: whatever becomes of a request's filter, its place is free afterwards.
func TestDaemonCompiles(t *testing.T) {
	testbed.NeedRoot(t)
	b := newBench(t, nil)
	b.jobs.prepare = system{b.compiler, b.recorders, b.daemon.config.limits}.prepare
	long := "port 1" + strings.Repeat(" or port 3", 200) // libpcap is busy for a second or so
	for filter, state := range map[string]string{"udp port 9": result.Done, "udp porrt 9": result.Refused,
		"host no-such-host.invalid": result.Refused, long: result.Refused} {
		ctx, cancel := context.WithCancel(t.Context())
		request := fmt.Sprintf(`{"node":"web1","interface":"lo","timeout":1,"bpf":%q}`, filter)
		if err := b.handle(lifetime{ctx, b.life.delivering}, received(request)); err != nil {
			t.Errorf("%s: %v", filter, err)
		}
		if filter == long {
			testbed.Eventually(t, 5*time.Second, "it is being compiled", func() bool { return b.compiler.Compiling() > 0 })
			cancel()
		}
		b.jobs.working.Wait()
		cancel()
		if got := b.memo.last(); got.State != state {
			t.Errorf("%.30s: want %s, got %+v", filter, state, got)
		}
	}
}
