package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/pubsub"
	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// A fakeList keeps pieces. As long as stuck is set, its reader takes nothing.
type fakeList struct {
	mu     sync.Mutex
	pieces [][]byte
	times  []time.Time
	pushes []int  // pieces that were pushed at a time
	last   []byte // the memory of the latest one
	spoilt bool   // the latest one was changed before another one was pushed
	looks  int
	ended  bool
	closed bool
	stuck  bool
	err    error           // of all that is pushed from now on
	ctx    context.Context // of the latest call
}

// Key implements List.
func (f *fakeList) Key() string { return "a:live" }

// Push implements List.
func (f *fakeList) Push(ctx context.Context, pieces ...[]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx = ctx
	if f.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.last != nil && !bytes.Equal(f.last, f.pieces[len(f.pieces)-1]) {
		f.spoilt = true
	}
	f.pushes, f.last = append(f.pushes, len(pieces)), pieces[len(pieces)-1]
	for _, piece := range pieces {
		if f.err == nil {
			f.pieces, f.times = append(f.pieces, bytes.Clone(piece)), append(f.times, time.Now())
		}
	}
	return f.err
}

// Look implements List.
func (f *fakeList) Look(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.err
}

// Finish implements List.
func (f *fakeList) Finish(ctx context.Context) error {
	f.ended, f.ctx = true, ctx
	return f.err
}

// Close implements List.
func (f *fakeList) Close() { f.closed = true }

// A liveBench is a capture that is sent to a fakeList.
type liveBench struct {
	*Live
	list     *fakeList
	observer *countingObserver
	buffer   *capfile.Buffer
	copied   tap.Tally
}

// startLive begins to send a capture of at most 1 MiB, whose list is made or not.
func startLive(t *testing.T, ctx context.Context, open OpenList) *liveBench {
	t.Helper()
	pool := capfile.NewPool(4 * capfile.ChunkSize)
	b := &liveBench{list: &fakeList{}, observer: &countingObserver{}, buffer: capfile.NewBuffer(pool)}
	if open == nil {
		open = func(_ context.Context, _ string, first []byte) (List, error) {
			b.list.pieces = append(b.list.pieces, bytes.Clone(first))
			return b.list, nil
		}
	}
	d := New(Options{List: open, Live: b.observer, Observer: b.observer})
	b.Live = d.Send(ctx, "a", 1<<20, capfile.Follow(capfile.PcapFormat{}, capfile.Header{}, b.buffer, &b.copied))
	t.Cleanup(func() {
		b.buffer.Free()
		pool.Release()
	})
	return b
}

// capture captures so many bytes.
func (b *liveBench) capture(size int) []byte {
	content := testbed.RandomBytes(size)
	_, _ = b.buffer.Write(content) // there is room
	b.copied.Records.Add(int64(size))
	return content
}

// check compares what became of the sending.
func (b *liveBench) check(t *testing.T, says string, givenUp int) {
	t.Helper()
	b.End(capfile.Statistics{Ended: time.Now()})
	err := b.Wait()
	if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("want %q in the error, got %v", says, err)
	}
	if b.observer.givenUp != givenUp || b.observer.deliveries != 1 {
		t.Errorf("want %d given up of one, got %d of %d", givenUp, b.observer.givenUp, b.observer.deliveries)
	}
	synctest.Wait()
	if b.list.ended != (err == nil) || !b.list.closed {
		t.Errorf("want the list ended or left, and closed, got %+v", b.list)
	}
	if b.list.ctx != nil && b.list.ctx.Err() == nil { // else the daemon's context would keep it
		t.Error("want the context of the sending ended")
	}
}

// TestLive: pieces come soon, are no larger than allowed, and are all of the file.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLive(t, t.Context(), nil)
		if key, err := b.Key(); key != "a:live" || err != nil {
			t.Errorf("want a key, got %q, %v", key, err)
		}
		var want []byte
		var captured []time.Time
		for n := range 40 {
			time.Sleep(70 * time.Millisecond)
			captured = append(captured, time.Now())
			want = append(want, b.capture(1000+n*1000)...)
		}
		want = append(want, b.capture(pubsub.MaxPiece*2)...)
		b.check(t, "", 0)
		got := bytes.Join(b.list.pieces, nil)
		if len(b.list.pieces[0]) != capfile.HeaderSize || !bytes.Equal(want, got[capfile.HeaderSize:]) {
			t.Errorf("want a header and %d bytes, got %d", len(want), len(got))
		}
		sent := 0
		for i, piece := range b.list.pieces {
			if len(piece) == 0 || len(piece) > pubsub.MaxPiece {
				t.Errorf("want pieces of 1 byte to 256 KiB, got %d", len(piece))
			}
			sent += b.observer.sent[i]
		}
		if sent != len(got) {
			t.Errorf("want %d bytes counted, got %d", len(got), sent)
		}
		for i, at := range captured {
			if late := b.list.times[i].Sub(at); late > 2*livePeriod {
				t.Errorf("want packets sent within %v, got %v", 2*livePeriod, late)
			}
		}
	})
}

// TestLiveMuchAtOnce: what has come meanwhile is pushed a few pieces at a time, and the latest piece is left alone.
func TestLiveMuchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLive(t, t.Context(), nil)
		time.Sleep(time.Second)
		var want []byte
		for _, size := range []int{10*pubsub.MaxPiece + 1000, 1000, 2 * pubsub.MaxPiece, 3000} {
			want = append(want, b.capture(size)...)
			time.Sleep(time.Second)
		}
		b.check(t, "", 0)
		if got := bytes.Join(b.list.pieces, nil)[capfile.HeaderSize:]; !bytes.Equal(want, got) {
			t.Errorf("want %d bytes, got %d others", len(want), len(got))
		}
		if want := []int{8, 2, 1, 1, 2, 1}; !slices.Equal(want, b.list.pushes) || b.list.spoilt {
			t.Errorf("want %v pieces at a time, left as they are, got %v, spoilt: %v", want, b.list.pushes, b.list.spoilt)
		}
	})
}

// TestLiveNothing: a capture without packets is a header and an end. Whether its reader is there is looked at.
func TestLiveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLive(t, t.Context(), nil)
		time.Sleep(10 * time.Second)
		b.check(t, "", 0)
		if len(b.list.pieces) != 1 || b.list.looks < 10 || b.list.looks > 25 {
			t.Errorf("want one piece and a look now and then, got %d, %d", len(b.list.pieces), b.list.looks)
		}
	})
}

// TestLiveFails: whatever happens to the list, the capture goes on, and its end says what.
func TestLiveFails(t *testing.T) {
	stalled := fmt.Errorf("push to a:live: %w", pubsub.ErrStalled)
	for name, test := range map[string]struct {
		err     error // of the list
		stuck   bool
		stopped bool          // the daemon, after 2 s
		idle    time.Duration // until more is captured
		says    string
		givenUp int
		within  time.Duration // of the end
	}{
		"a reader that is gone":   {stalled, false, false, 0, "live: push to a:live: nothing was taken for 30s", 1, 0},
		"… while nothing comes":   {stalled, false, false, time.Second, "nothing was taken", 1, 0},
		"a server that is away":   {errors.New("away"), false, false, 0, "live: away", 0, 0},
		"a reader that is slow":   {nil, true, false, 0, "live: the rest was not read in time", 1, 31 * time.Second},
		"a stop that cannot wait": {nil, true, true, 0, "live: the daemon has stopped", 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				b := startLive(t, ctx, nil)
				b.capture(1000)
				time.Sleep(time.Second)
				b.list.mu.Lock()
				b.list.err, b.list.stuck = test.err, test.stuck
				b.list.mu.Unlock()
				time.Sleep(test.idle)
				b.capture(1000)
				if test.stopped {
					time.AfterFunc(2*time.Second, stop)
				}
				began := time.Now()
				b.check(t, test.says, test.givenUp)
				if took := time.Since(began); took > test.within {
					t.Errorf("want the end after %v, got %v", test.within, took)
				}
			})
		})
	}
}

// TestLiveUnopened: a list that cannot be made, or not soon, is done without.
func TestLiveUnopened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := func(ctx context.Context, _ string, _ []byte) (List, error) {
			<-ctx.Done()
			return (*fakeList)(nil), ctx.Err()
		}
		b := startLive(t, t.Context(), hanging)
		b.list.closed = true // there is none
		began := time.Now()
		key, err := b.Key()
		if took := time.Since(began); key != "" || !errors.Is(err, context.DeadlineExceeded) || took != liveOpening {
			t.Errorf("want no key after %v, got %q, %v after %v", liveOpening, key, err, took)
		}
		b.capture(1000)
		b.check(t, "live: context deadline", 0)
	})
}

// A trailing is a format that has something behind the packets.
type trailing struct{ capfile.PcapFormat }

// Tail implements capfile.Format.
func (trailing) Tail(c capfile.Statistics) []byte { return c.Ended.AppendFormat(nil, time.RFC3339Nano) }

// TestLiveEnds: what a format has behind the packets is sent as well.
func TestLiveEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := capfile.NewPool(capfile.ChunkSize)
		b := &liveBench{list: &fakeList{}, observer: &countingObserver{}, buffer: capfile.NewBuffer(pool)}
		defer pool.Release()
		defer b.buffer.Free()
		format := trailing{}
		d := New(Options{Live: b.observer, Observer: b.observer, List: func(context.Context, string, []byte) (List, error) {
			return b.list, nil
		}})
		b.Live = d.Send(t.Context(), "a", 1<<20, capfile.Follow(format, capfile.Header{}, b.buffer, &b.copied))
		if _, err := b.Key(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		ended := time.Now()
		b.check(t, "", 0)
		want := format.Tail(capfile.Statistics{Ended: ended})
		if got := bytes.Join(b.list.pieces, nil); len(want) == 0 || !bytes.HasSuffix(got, want) {
			t.Errorf("want %d bytes of statistics at the end, got %x", len(want), got)
		}
	})
}
