package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/store"
)

// sharing is a bench whose equal requests share.
func sharing(t *testing.T) *bench {
	t.Helper()
	return newBench(t, func(c *config) { c.capacity.share = time.Second })
}

// TestShare: a storm of equal requests makes one capture, and each requester is told.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		for n := range 100 {
			b.ask(t, fmt.Sprintf(`{"node":"web1","interface":"x0","id":"%d","timeout":2,
				"customer":"c%d","tags":"t%d","alertid":%d}`, n, n, n, n))
		}
		time.Sleep(3 * time.Second)
		if n := b.upload.stored(); n != 1 {
			t.Errorf("want one upload, got %d", n)
		}
		told := map[string]string{}
		for _, r := range b.memo.all() {
			told[r.ID] += r.State + " "
			if want := map[bool]string{false: "0"}[r.ID == "0"]; r.Shared != want {
				t.Errorf("%s: want shared %q, got %q", r.ID, want, r.Shared)
			}
			if want := "c" + r.ID; r.Customer != want {
				t.Errorf("%s: want their own customer %s, got %s", r.ID, want, r.Customer)
			}
		}
		for n := range 100 {
			if got := told[fmt.Sprint(n)]; got != "started done " {
				t.Errorf("%d: want started and done, got %s", n, got)
			}
		}
	})
}

// TestShareOnlyEqual: whatever the host would do differently makes a capture of its own.
func TestShareOnlyEqual(t *testing.T) {
	const first = `{"node":"web1","interface":"x0","bpf":"udp","packets":10,"bytes":1000,"timeout":60,"snap":96,"id":"a"}`
	for request, want := range map[string]bool{
		first: true,
		`{"nodere":"^w","interface":"x0","bpf":"udp","packets":10,"bytes":1000,"timeout":60,"snap":96,
			"tags":"t","customer":"c","alertid":1,"by":"b","progress":1}`: true,
		`{"node":"web1","interface":"x1","bpf":"udp","packets":10,"bytes":1000,"timeout":60,"snap":96}`: false,
		`{"node":"web1","interface":"x0","bpf":"UDP","packets":10,"bytes":1000,"timeout":60,"snap":96}`: false,
		`{"node":"web1","interface":"x0","packets":10,"bytes":1000,"timeout":60,"snap":96}`:             false,
		`{"node":"web1","interface":"x0","bpf":"udp","packets":11,"bytes":1000,"timeout":60,"snap":96}`: false,
		`{"node":"web1","interface":"x0","bpf":"udp","packets":10,"bytes":1001,"timeout":60,"snap":96}`: false,
		`{"node":"web1","interface":"x0","bpf":"udp","packets":10,"bytes":1000,"timeout":61,"snap":96}`: false,
		`{"node":"web1","interface":"x0","bpf":"udp","packets":10,"bytes":1000,"timeout":60,"snap":97}`: false,
		`{"node":"web1","interface":"x0","bpf":"udp","packets":10,"bytes":1000,"snap":96}`:              true, // the default
	} {
		synctest.Test(t, func(t *testing.T) {
			b := sharing(t)
			b.ask(t, first)
			b.ask(t, request)
			if got := b.jobs.count() == 1; got != want {
				t.Errorf("%s: want shared %v, got %v", request, want, got)
			}
		})
	}
}

// TestShareWindow: it is counted from the first request, and ends with the capture.
func TestShareWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		ask := func(id, limits string) {
			b.ask(t, `{"node":"web1","interface":"x0","id":"`+id+`",`+limits+`}`)
		}
		ask("a", `"timeout":60`)
		time.Sleep(999 * time.Millisecond)
		ask("b", `"timeout":60`)
		time.Sleep(time.Millisecond)
		ask("late", `"timeout":60`)
		if n := b.jobs.count(); n != 2 {
			t.Errorf("want a capture of its own for who comes late, got %d in all", n)
		}
		b.ask(t, `{"node":"any","stop":"a"}`)
		b.ask(t, `{"node":"any","stop":"late"}`)
		time.Sleep(time.Second)
		ask("c", `"packets":5`)
		time.Sleep(100 * time.Millisecond)
		ask("d", `"packets":5`)
		time.Sleep(time.Second)
		var shared []string
		for _, r := range b.memo.all() {
			if r.State == result.Done && r.Shared != "" {
				shared = append(shared, r.ID)
			}
		}
		if want := []string{"b"}; !slices.Equal(want, shared) {
			t.Errorf("want %q to share, got %q", want, shared)
		}
	})
}

// TestShareWithTheNewer: the end of a capture keeps nobody from sharing a newer one that is equal.
func TestShareWithTheNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		const ask = `{"node":"web1","interface":"x0","timeout":60,"id":"%s"}`
		b.ask(t, fmt.Sprintf(ask, "old"))
		time.Sleep(2 * time.Second)
		b.ask(t, fmt.Sprintf(ask, "new"))
		b.ask(t, `{"node":"any","stop":"old"}`)
		time.Sleep(500 * time.Millisecond) // the old one has ended
		b.ask(t, fmt.Sprintf(ask, "last"))
		b.checkStates(t, "old started", "new started", "old done", "last started")
		if got := b.memo.last().Shared; got != "new" {
			t.Errorf("want the newer capture shared, got %q", got)
		}
	})
}

// TestShareHasAnEnd: so many requests share a capture, and no more.
func TestShareHasAnEnd(t *testing.T) {
	j := newJob(requester{}, wanted{}, bounds{}, capfile.Header{})
	other := newJob(requester{}, wanted{}, bounds{}, capfile.Header{})
	for len(j.requesters) < maxRequesters {
		if !j.takes(other, time.Second) {
			t.Fatalf("want %d to share, got %d", maxRequesters, len(j.requesters))
		}
		j.add(requester{})
	}
	if j.takes(other, time.Second) {
		t.Errorf("want no more than %d to share", maxRequesters)
	}
	j.add(requester{request: request{Interfaces: []string{"x0"}, raw: []byte("{}")}})
	if r := j.requesters[maxRequesters].request; r.Interfaces != nil || r.raw != nil {
		t.Errorf("want as little as possible kept of so many, got %+v", r)
	}
}

// TestShareRefused: if the capture cannot start, each requester is refused.
func TestShareRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.jobs.prepare = slowlyRefused
		for n := range 3 {
			b.ask(t, fmt.Sprintf(`{"node":"web1","interface":"x0","id":"%d"}`, n))
		}
		time.Sleep(2 * time.Second)
		b.checkStates(t, "0 refused", "1 refused", "2 refused")
	})
}

// TestShareStop: any of the ids ends the capture, a shutdown too.
func TestShareStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"b"}`)
		time.Sleep(105 * time.Millisecond)
		if shared := b.jobs.overview()[0].Shared; shared.Count != 1 || shared.IDs[0] != "b" {
			t.Errorf("want b shown to share it, got %+v", shared)
		}
		b.ask(t, `{"node":"web1","stop":"b","by":"me@here"}`)
		time.Sleep(time.Second)
		b.checkStates(t, "a started", "b started", "a done", "b done")
		for _, r := range b.memo.all()[2:] {
			if r.Stop != stopRequest || r.StoppedBy != "me@here" || r.Packets != 10 {
				t.Errorf("want 10 packets, stopped by me, got %+v", r)
			}
		}
	})
}

// A countingContext counts the contexts that depend on it.
type countingContext struct {
	context.Context
	dependent *atomic.Int64
}

// Value hides that the context is one of the standard library, which would count for itself.
func (countingContext) Value(any) any { return nil }

// AfterFunc is what the standard library calls for each dependent context.
func (c countingContext) AfterFunc(f func()) func() bool {
	c.dependent.Add(1)
	stop := context.AfterFunc(c.Context, f)
	return func() bool {
		c.dependent.Add(-1)
		return stop()
	}
}

// TestEndedCaptureIsForgotten: however a capture ends, nothing of it waits for the daemon's end.
func TestEndedCaptureIsForgotten(t *testing.T) {
	for name, ended := range map[string]preparer{"refused": slowlyRefused, "done": nil} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, nil)
			life := countingContext{b.life.capturing, &atomic.Int64{}}
			b.life.capturing = life
			if ended != nil {
				b.jobs.prepare = ended
			}
			b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":2}`)
			if life.dependent.Load() == 0 {
				t.Errorf("%s: want a capture that ends with the daemon", name)
			}
			time.Sleep(10 * time.Second)
			if n := life.dependent.Load(); b.memo.last().State != name || n != 0 {
				t.Errorf("want it %s and nothing left, got %s and %d contexts", name, b.memo.last().State, n)
			}
		})
	}
}

// TestOldestFirst: the page shows captures in the order in which they were asked for.
func TestOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.capacity.captures, c.capacity.memory = 8, 8*capfile.ChunkSize })
		var want, got []string
		for n := range 8 {
			want = append(want, fmt.Sprint(n))
			b.ask(t, fmt.Sprintf(`{"node":"web1","interface":"x0","id":"%d"}`, n))
			time.Sleep(time.Millisecond)
		}
		for _, running := range b.jobs.overview() {
			got = append(got, running.Result.ID)
		}
		if !slices.Equal(want, got) {
			t.Errorf("want %q, got %q", want, got)
		}
	})
}

// TestStopUnknown: a host without such a capture says nothing.
func TestStopUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","packets":5}`)
		b.ask(t, `{"node":"web1","stop":"b"}`)
		time.Sleep(time.Second)
		b.ask(t, `{"node":"web1","stop":"a"}`)
		b.checkStates(t, "a started", "a done")
	})
}

// TestStopBeforeTheStart: the capture starts, and ends without packets.
func TestStopBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		good := b.jobs.prepare
		b.jobs.prepare = func(ctx context.Context, w wanted) (opener, error) {
			select {
			case <-time.After(time.Second):
				return good(ctx, w)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"a"}`)
		b.ask(t, `{"node":"web1","stop":"a","by":"me@here"}`)
		b.ask(t, `{"node":"web1","stop":"a"}`)
		time.Sleep(3 * time.Second)
		b.checkStates(t, "a started", "a done")
		if got := b.memo.last(); got.Stop != stopRequest || got.Packets != 0 || got.StoppedBy != "me@here" {
			t.Errorf("want no packets and stop %s by the first one, got %+v", stopRequest, got)
		}
	})
}

// TestShareNotAfterTheStop: what has been stopped before it could start is not shared.
func TestShareNotAfterTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.jobs.prepare = func(context.Context, wanted) (opener, error) {
			time.Sleep(500 * time.Millisecond)
			return b.opener(steady), nil
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","packets":5}`)
		b.ask(t, `{"node":"web1","stop":"a"}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"b","packets":5}`)
		time.Sleep(time.Second)
		if got := b.memo.last(); got.ID != "b" || got.Shared != "" || got.Packets != 5 {
			t.Errorf("want a capture of its own, got %+v", got)
		}
	})
}

// TestStopComesTooLate: a capture whose time is over has ended by its timeout, though
// its last packets are still on their way when somebody asks to stop it.
func TestStopComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.jobs.prepare = b.onePacket
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":2}`)
		time.Sleep(2*time.Second + tail/2)
		b.ask(t, `{"node":"web1","stop":"a","by":"me@here"}`)
		time.Sleep(time.Second)
		b.checkStates(t, "a started", "a done")
		if got := b.memo.last(); got.Stop != stopTimeout || got.StoppedBy != "" {
			t.Errorf("want stop %s, by nobody, got %s, by %q", stopTimeout, got.Stop, got.StoppedBy)
		}
	})
}

// TestShareNotAfterTheEnd: what has ended is not shared, though its last packets
// are still on their way.
func TestShareNotAfterTheEnd(t *testing.T) {
	for name, end := range map[string]string{"stopped": `{"node":"web1","stop":"a"}`, "timeout": ""} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(c *config) { c.capacity.share = time.Minute })
			b.jobs.prepare = b.onePacket
			b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":1}`)
			if end != "" {
				b.ask(t, end)
			} else {
				time.Sleep(time.Second)
			}
			time.Sleep(tail / 2)
			b.ask(t, `{"node":"web1","interface":"x0","id":"b","timeout":1}`)
			time.Sleep(3 * time.Second)
			if got := b.memo.last(); got.ID != "b" || got.Shared != "" || got.Stop != stopTimeout || got.Packets == 0 {
				t.Errorf("%s: want a capture of its own, got %+v", name, got)
			}
		})
	}
}

// TestProgress: who asked for it is told how far the capture is, and nothing after the end.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","timeout":5,"progress":2}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"b","timeout":5}`)
		time.Sleep(10 * time.Second)
		b.checkStates(t, "a started", "b started", "a running", "a running", "a done", "b done")
		if got := b.memo.all()[2].Packets; got < 190 || got > 200 {
			t.Errorf("want about 200 packets after 2 s, got %d", got)
		}
	})
}

// A slowMemo takes its time with how far captures are.
type slowMemo struct{ memo }

// Publish implements outlet.
func (m *slowMemo) Publish(r result.Result) {
	if r.State == result.Running {
		time.Sleep(100 * time.Millisecond)
	}
	m.memo.Publish(r)
}

// TestProgressIsNotLate: nothing comes after the last result, though the capture
// ends while its requester is told how far it is.
func TestProgressIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		var told slowMemo
		b.jobs.results = &told
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","packets":102,"progress":1}`) // 1.02 s
		time.Sleep(5 * time.Second)
		if want, got := []string{"a started", "a running", "a done"}, told.states(); !slices.Equal(want, got) {
			t.Errorf("want %q, got %q", want, got)
		}
	})
}

// TestDeviceIsNamed: whoever asks for an interface by a second name is told its own.
func TestDeviceIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) { c.limits.aliases = map[string]string{"wan": "x0"} })
		b.ask(t, `{"node":"web1","interface":["wan","x0"],"id":"a","packets":5}`)
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Contains(b.upload.last.Tags, "interface:x0") {
			t.Errorf("want it tagged by its own name, got %q", b.upload.last.Tags)
		}
		for _, r := range b.memo.all() {
			if want := map[string]string{"wan": "x0"}[r.Interface]; r.Device != want {
				t.Errorf("%s %s: want device %q, got %q", r.Interface, r.State, want, r.Device)
			}
		}
		b.checkStates(t, "a started", "a started", "a done", "a done")
	})
}

// TestRollCall: answers within half a second, and not for ever many of them.
func TestRollCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sharing(t)
		for n := range maxRollCalls + 1 {
			b.ask(t, fmt.Sprintf(`{"node":"web1","rollcall":true,"id":"%d"}`, n))
		}
		time.Sleep(rollCallSpread)
		synctest.Wait()
		states := strings.Join(b.memo.states(), ",")
		if want, got := maxRollCalls, strings.Count(states, result.Present); want != got {
			t.Errorf("want %d answers, got %d", want, got)
		}
		if want := fmt.Sprint(maxRollCalls, " ", result.Refused); !strings.HasPrefix(states, want) {
			t.Errorf("want %q first, got %s", want, states)
		}
		if got := b.memo.last(); got.Presence == nil || got.Version != version || got.Limits.Captures != 2 || got.Limits.Timeout != 3600 {
			t.Errorf("want version and limits, got %+v", got)
		}
	})
}

// A fakeKeeper is a server that keeps nothing.
type fakeKeeper struct {
	mu   sync.Mutex
	keys []string
}

// Store implements keeper.
func (f *fakeKeeper) Store(_ context.Context, key string, _ int64, content func() io.Reader) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, key)
	return key + "-2", nil
}

// TestReturn: a capture that is to be returned is put where its requester finds
// it, is no larger than that allows, and is shared with nobody.
func TestReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) {
			c.capacity.share, c.limits.returned, c.redis.results = time.Second, 1000, "results"
		})
		server := &fakeKeeper{}
		b.deliver(func(o *store.Options) { o.Redis = server })
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","return":true}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"b","return":true,"bytes":1001}`)
		time.Sleep(time.Minute)
		b.checkStates(t, "a started", "b refused", "a done")
		if got := b.memo.all()[1].Error; !strings.Contains(got, "-maxreturn") {
			t.Errorf("want it refused for -maxreturn, got %s", got)
		}
		got := b.memo.last()
		named := got.Key == "results:a:web1:x0-2" && strings.HasPrefix(got.Name, "web1-x0-")
		if !named || got.Bytes > 1000 || got.Stop != stopBytes {
			t.Errorf("want it returned within its bounds, got %+v", got)
		}
		b.ask(t, `{"node":"web1","interface":"x0","id":"c","packets":5,"return":true}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"d","packets":5,"return":true}`)
		time.Sleep(time.Second)
		b.ask(t, `{"node":"web1","interface":"x0","id":"e","packets":5,"bytes":900,"return":true}`)
		b.ask(t, `{"node":"web1","interface":"x0","id":"f","packets":5,"bytes":900}`)
		if got := b.memo.last(); got.ID != "f" || got.Shared != "" {
			t.Errorf("want nobody to share what is returned to another one, got %+v", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		slices.Sort(server.keys) // c and d end at the same moment
		if want := []string{"results:a:web1:x0", "results:c:web1:x0", "results:d:web1:x0", "results:e:web1:x0"}; !slices.Equal(want, server.keys) {
			t.Errorf("want the keys %q, got %q", want, server.keys)
		}
	})
}

// TestOnlyReturnsComesLast: what is wrong with a request is said before a host that keeps nothing
// says how its captures can be had.
func TestOnlyReturnsComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *config) {
			c.limits.onlyReturns, c.limits.returned, c.limits.interfaces = true, 1000, []string{"x0"}
		})
		for request, want := range map[string]string{
			`"interface":"x0"`:               "give -publish -destdir or -w",
			`"interface":"x0","timeout":1e9`: "timeout",
			`"interface":"x0","snap":262145`: "-maxsnap",
			`"interface":"x1"`:               `"x1" is not in -interfaces; those that may be captured on: x0`,
			`"interface":[]`:                 "interface: required",
		} {
			b.ask(t, `{"node":"web1",`+request+`}`)
			synctest.Wait()
			if got := b.memo.last(); got.State != result.Refused || !strings.Contains(got.Error, want) {
				t.Errorf("%s: want %q, got %s, %s", request, want, got.State, got.Error)
			}
		}
		b.jobs.prepare = func(context.Context, wanted) (opener, error) { return nil, errors.New("bpf: wrong") }
		b.ask(t, `{"node":"web1","interface":"x0","bpf":"x"}`)
		synctest.Wait()
		if got := b.memo.last(); got.Error != "bpf: wrong" {
			t.Errorf("want what is wrong with the filter, got %s", got.Error)
		}
	})
}

// TestChoice: how an error names the interfaces that may be captured on.
func TestChoice(t *testing.T) {
	const begins = "those that may be captured on: "
	var many []string
	for n := range 13 {
		many = append(many, fmt.Sprint("x", n))
	}
	for want, l := range map[string]limits{
		"x0":      {interfaces: []string{"x0"}},
		"wan, x1": {interfaces: []string{"x0", "x1"}, aliases: map[string]string{"wan": "x0"}},
		"lan, x1": {interfaces: []string{"x0", "x1"}, aliases: map[string]string{"wan": "x0", "lan": "x0"}},
		`x\x1b`:   {interfaces: []string{"x\x1b"}},
		strings.Join(many[:10], ", ") + " and 3 more": {interfaces: many},
	} {
		if got := l.choice(); got != begins+want {
			t.Errorf("want %s, got %s", begins+want, got)
		}
	}
	if got := (limits{}).choice(); !strings.Contains(got, "lo") {
		t.Errorf("want the interfaces of this host, got %s", got)
	}
}

// TestOnlyReturns: what a host that keeps nothing grants.
func TestOnlyReturns(t *testing.T) {
	l := limits{packets: 1, bytes: 1000, returned: 100, timeout: time.Minute, onlyReturns: true}
	got, err := l.bounds(request{Interfaces: []string{"lo"}, Return: true})
	if err != nil || got.bytes != 100 {
		t.Errorf("want at most 100 bytes, got %d, %v", got.bytes, err)
	}
	l.returned = 2000
	if got, err := l.bounds(request{Interfaces: []string{"lo"}, Return: true}); err != nil || got.bytes != 1000 {
		t.Errorf("want at most the 1000 bytes of any capture, got %d, %v", got.bytes, err)
	}
	l.returned = 0
	if _, err := l.bounds(request{Interfaces: []string{"lo"}, Return: true}); !mentions(err, "-maxreturn") {
		t.Errorf("want -maxreturn in the error, got %v", err)
	}
}

// A heldList takes the pieces of a live capture, for a test.
type heldList struct {
	key    string
	mu     sync.Mutex
	pieces []byte
	ended  bool
}

// Key implements store.List.
func (h *heldList) Key() string { return h.key }

// Push implements store.List.
func (h *heldList) Push(_ context.Context, pieces ...[]byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pieces = append(h.pieces, slices.Concat(pieces...)...)
	return nil
}

// Look implements store.List.
func (h *heldList) Look(context.Context) error { return nil }

// Finish implements store.List.
func (h *heldList) Finish(context.Context) error {
	h.ended = true
	return nil
}

// Close implements store.List.
func (h *heldList) Close() {}

// sendingLive is a bench whose lists take a while to be made, and then are kept by their names.
func sendingLive(t *testing.T, takes time.Duration) (*bench, map[string]*heldList) {
	t.Helper()
	b := newBench(t, func(c *config) {
		c.capacity.share, c.limits.returned, c.redis.results = time.Second, 5000, "results"
	})
	lists := map[string]*heldList{}
	var mu sync.Mutex
	b.deliver(func(o *store.Options) {
		o.List = func(ctx context.Context, key string, first []byte) (store.List, error) {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			lists[key] = &heldList{key: key + ":live", pieces: slices.Clone(first)}
			return lists[key], nil
		}
	})
	return b, lists
}

// TestLive: a capture goes to its requester while it is made, is no larger than that
// allows, and is shared with nobody. No packet waits for the list.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, lists := sendingLive(t, 1500*time.Millisecond)
		for _, id := range []string{"a", "b"} {
			b.ask(t, `{"node":"web1","interface":"x0","id":"`+id+`","live":true,"timeout":10,"progress":1}`)
		}
		time.Sleep(time.Minute)
		for _, id := range []string{"a", "b"} {
			var states []string
			var last result.Result
			for _, r := range b.memo.all() {
				if r.ID != id {
					continue
				}
				if last = r; r.State != result.Running {
					states = append(states, r.State)
				}
				key := map[string]string{result.Started: "results:" + id + ":web1:x0:live"}[r.State]
				if r.Key != key || (r.Name != "") != (key != "") || r.Error != "" {
					t.Errorf("want the key %q, got %+v", key, r)
				}
			}
			if want := []string{result.Started, result.Done}; !slices.Equal(want, states) || last.Stop != stopBytes {
				t.Errorf("%s: want %q by bytes, got %q by %s", id, want, states, last.Stop)
			}
			if took := time.Time(last.Ended).Sub(time.Time(last.Started)); took > 500*time.Millisecond {
				t.Errorf("%s: want packets from the beginning on, got the bound reached after %v", id, took)
			}
			list := lists["results:"+id+":web1:x0"]
			if list == nil || int64(len(list.pieces)) != last.Bytes || !list.ended {
				t.Errorf("%s: want %d bytes and an end, got %+v", id, last.Bytes, list)
			}
		}
		if n := b.jobs.pool.Held(); n != 0 {
			t.Errorf("want all memory given back, got %d bytes held", n)
		}
	})
}

// TestLiveBeforeTheStart: while its list is being made, nothing is said of a live capture, not even how far it is.
func TestLiveBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := sendingLive(t, 1500*time.Millisecond)
		b.config.limits.returned = 1 << 20
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","live":true,"packets":250,"progress":1}`) // 2.5 s
		time.Sleep(1400 * time.Millisecond)
		b.checkStates(t)
		time.Sleep(time.Minute)
		b.checkStates(t, "a started", "a running", "a done")
	})
}

// TestLiveTakes: a requester waits for a capture as long as the slowest way of its delivery may take.
func TestLiveTakes(t *testing.T) {
	for upload, want := range map[time.Duration]int64{time.Minute: 66, time.Second: 31} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(c *config) {
				c.limits.returned, c.redis.results, c.delivery.shark.timeout = 5000, "results", upload
			})
			b.deliver(func(o *store.Options) {
				o.List = func(_ context.Context, key string, _ []byte) (store.List, error) { return &heldList{key: key}, nil }
			})
			b.ask(t, `{"node":"web1","interface":"x0","id":"a","live":true,"packets":5}`)
			if got := b.memo.all()[0].Limits.Delivery; want != got {
				t.Errorf("upload for %v: want %d s, got %d", upload, want, got)
			}
		})
	}
}

// TestLiveWithoutList: a capture whose list cannot be made says so at once, goes on, and is delivered.
func TestLiveWithoutList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := sendingLive(t, time.Hour)
		b.ask(t, `{"node":"web1","interface":"x0","id":"a","live":true,"timeout":10,"bytes":5000}`)
		time.Sleep(time.Minute)
		b.checkStates(t, "a started", "a failed")
		for _, r := range b.memo.all() {
			if r.Key != "" || !strings.HasPrefix(r.Error, "live: ") {
				t.Errorf("want no key and the reason, got %+v", r)
			}
		}
		if got := b.memo.last(); got.URL == "" || got.Packets == 0 {
			t.Errorf("want it uploaded, got %+v", got)
		}
	})
}

// TestLiveRefused: what cannot be had is refused in words that help.
func TestLiveRefused(t *testing.T) {
	lo := []string{"lo"}
	for name, test := range map[string]struct {
		request  request
		returned int64
		culprit  string
	}{
		"not here":    {request{Interfaces: lo, Live: true}, 0, "live: nothing is returned here, -maxreturn is 0"},
		"too large":   {request{Interfaces: lo, Live: true, Bytes: 101}, 100, "bytes: 101 is above -maxreturn 100"},
		"with return": {request{Interfaces: lo, Live: true, Return: true}, 100, "return and live"},
	} {
		l := limits{packets: 1, bytes: 1000, returned: test.returned, timeout: time.Minute, onlyReturns: true}
		if _, err := l.bounds(test.request); !mentions(err, test.culprit) {
			t.Errorf("%s: want %q, got %v", name, test.culprit, err)
		}
	}
	l := limits{packets: 1, bytes: 1000, returned: 100, timeout: time.Minute, onlyReturns: true}
	if got, err := l.bounds(request{Interfaces: lo, Live: true}); err != nil || got.bytes != 100 {
		t.Errorf("want at most 100 bytes, got %d, %v", got.bytes, err)
	}
}
