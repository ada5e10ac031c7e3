package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/capfile"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/store"
	"pcapdaemon/text"
)

const (
	// maxStreams is how many captures are followed live.
	maxStreams = 1024
	// maxStream is how many bytes a live capture may have: no host can be set to more.
	maxStream = 512 << 20
	// clockDifference is from when on a clock is worth a word.
	clockDifference = time.Second
)

// A lists is where hosts leave the pieces of captures that are live.
type lists interface {
	// ReadList calls take with each piece, and returns after the last one.
	ReadList(ctx context.Context, key string, take func(piece []byte) error) error
}

// A live writes the packets of all hosts into one file while they are captured. It is used
// from one goroutine.
type live struct {
	lists  lists
	dir    *store.Directory // for a file of each capture; nil: none is made
	prefix string           // of all keys that are ours
	most   int64            // bytes that were asked for; 0: what hosts grant
	sink   *sink
	merger *capfile.Merger

	streams map[*progress]*stream
	seen    map[string]bool // keys
	clocks  map[string]bool // nodes whose clock was named
	mixed   bool            // it was said that link types differ
	ended   chan *stream    // until the context ends
	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup
}

// newLive begins the file of Options.Packets.
func newLive(o Options, id string, most int64) *live {
	l := &live{lists: o.Server, prefix: o.Results + ":" + id + ":", most: most, sink: newSink(o.Packets),
		streams: map[*progress]*stream{}, seen: map[string]bool{}, clocks: map[string]bool{}, ended: make(chan *stream)}
	if o.Dir != "" {
		l.dir = store.NewDirectory(o.Dir)
	}
	l.merger = capfile.NewMerger(l.sink, o.Application)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// finished returns the captures that have been read, or cannot be.
func (l *live) finished() <-chan *stream {
	if l == nil {
		return nil
	}
	return l.ended
}

// failed returns a channel that is closed when the file cannot be written any more.
func (l *live) failed() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.merger.Failed()
}

// isUnread reports whether nobody reads any more what is written.
func (l *live) isUnread() bool { return l.sink.isGone() }

// watchReader calls gone when nobody reads any more what is written, until stop is called:
// a server that hangs does not keep anybody who has left.
func (l *live) watchReader(gone func()) (stop func()) {
	if l == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(l.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if l.isUnread() {
					gone()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// heard takes news of a capture: it begins to read it, or learns how it has ended. An error
// means that it cannot be read.
func (l *live) heard(t *progress) error {
	s := l.streams[t]
	switch {
	case s == nil && t.Key != "":
		return l.start(t)
	case s == nil && t.Over():
		l.streams[t] = &stream{capture: t, over: true}
		return fmt.Errorf("%s %s: no packets were sent live", t.Node, t.Interface)
	case s != nil && t.Over() && !s.over && s.told.IsZero():
		s.conclude()
	}
	return nil
}

// start begins to read a capture.
func (l *live) start(t *progress) error {
	s := &stream{live: l, capture: t, first: t.Result, final: make(chan result.Result, 1)}
	l.streams[t] = s
	if err := l.judge(t.Result); err != nil {
		s.over = true
		return fmt.Errorf("%s %s: %w", t.Node, t.Interface, err)
	}
	l.seen[t.Key] = true
	if t.Over() { // its beginning was not heard
		s.conclude()
	}
	s.most = maxStream
	for _, bound := range []int64{l.most, t.limit()} {
		if bound > 0 {
			s.most = min(s.most, bound)
		}
	}
	name := t.Interface
	if t.Device != "" {
		name = t.Device
	}
	s.input = l.merger.Open(capfile.Header{Node: t.Node, Interface: name, Filter: t.Filter})
	var ctx context.Context
	ctx, s.cancel = context.WithCancelCause(l.ctx)
	l.working.Go(func() {
		defer s.cancel(nil)
		s.file, s.err = s.follow(ctx)
		select {
		case l.ended <- s:
		case <-l.ctx.Done():
		}
	})
	return nil
}

// judge refuses a key that is none of this request, and of this node.
func (l *live) judge(r result.Result) error {
	if err := checkKey(l.prefix, r); err != nil {
		return err
	}
	switch {
	case !strings.HasSuffix(r.Key, pubsub.ListSuffix):
		return fmt.Errorf("key %s is not of this request", r.Key)
	case l.seen[r.Key]:
		return fmt.Errorf("key %s is another capture's", r.Key)
	case len(l.seen) == maxStreams:
		return fmt.Errorf("no more than %d captures can be read at a time", maxStreams)
	}
	return nil
}

// holds reports whether a capture is still being read.
func (l *live) holds(t *progress) bool {
	if l == nil {
		return false
	}
	s := l.streams[t]
	return s != nil && !s.over
}

// busy reports whether something of a capture is still to be read that has ended.
func (l *live) busy() bool {
	if l == nil {
		return false
	}
	for t, s := range l.streams {
		if t.Over() && !s.over {
			return true
		}
	}
	return false
}

// look looks how everything stands, and gives up what does not come.
func (l *live) look(s *session, now time.Time) {
	l.merger.Expect(!s.gathered(now))
	for _, stream := range l.streams {
		if s.lost.IsZero() && stream.isStalled(now) {
			stream.cancel(stream.missing())
		}
	}
}

// describeMixed says once when some readers cannot take the file; else it returns an empty text.
func (l *live) describeMixed() string {
	if l.mixed || !l.merger.IsMixed() {
		return ""
	}
	l.mixed = true
	return "link types or snapshot lengths differ: Wireshark and tshark can read the file, tcpdump cannot"
}

// compareClock returns what there is to say of the clock of a host whose capture has started after the
// request was published, and before its first result has come; empty: nothing. How long the
// result took does not count.
func (l *live) compareClock(r result.Result, published, heard time.Time) string {
	started := time.Time(r.Started)
	off, direction := started.Sub(heard), "ahead of"
	if behind := published.Sub(started); behind > 0 {
		off, direction = behind, "behind"
	}
	if off <= clockDifference || l.clocks[r.Node] {
		return ""
	}
	l.clocks[r.Node] = true
	return fmt.Sprintf("%s: its clock is %s %s this machine's", text.Printable(r.Node),
		text.FormatDuration(off.Round(100*time.Millisecond)), direction)
}

// close ends the file and waits until it is written, or for a moment when the context ends. It returns
// how many packets are not in order.
func (l *live) close(ctx context.Context) (late int64, err error) {
	stop := context.AfterFunc(ctx, l.sink.hurry)
	defer stop()
	l.cancel()
	err = l.merger.Close()
	l.working.Wait()
	return l.merger.Late(), err
}

// describeLate says how many packets are not in order; empty: all are.
func describeLate(late int64) string {
	if late == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s came more than a second later than those of other hosts, and %s not in order",
		late, english.PluralWord(int(late), "packet", "packets"), english.PluralWord(int(late), "is", "are"))
}
