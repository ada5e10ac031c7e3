package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/pubsub"
)

const (
	// livePeriod is how long packets wait for more of them before they are sent.
	livePeriod = 50 * time.Millisecond
	// liveLook is the time between two looks whether the reader goes on, while
	// nothing is to be sent.
	liveLook = 500 * time.Millisecond
	// liveOpening is how long a list may take to be made.
	liveOpening = 2 * time.Second
	// liveStall is how long a reader may take nothing, and slowReader what it is
	// expected to take from the end of the capture on, in bytes per second.
	liveStall  = 30 * time.Second
	slowReader = 1 << 20
	// mostPieces is how many pieces are sent at a time: half of what may lie unread.
	mostPieces = 8
)

// liveName is what captures that were sent while they were made are counted under.
const liveName = "live"

// Why a capture is not sent any further, beside what a list says.
var (
	errSlowReader = errors.New("the rest was not read in time")
	errStopped    = errors.New("the daemon has stopped before all was read")
)

// A List takes the pieces of a capture for a reader, as a pubsub.ListWriter does it. The last
// one that was pushed stays as it is until the next ones have been.
type List interface {
	Key() string
	Push(ctx context.Context, pieces ...[]byte) error
	Look(ctx context.Context) error
	Finish(ctx context.Context) error
	Close()
}

// OpenList makes a list whose first piece is given. Its name begins with the key.
type OpenList func(ctx context.Context, key string, first []byte) (List, error)

// A LiveObserver takes note of captures that are sent while they are made. Its methods may be called
// from any goroutine.
type LiveObserver interface {
	// Sent is called for each piece that was sent, with its size.
	Sent(bytes int)
	// GivenUp is called when a reader has taken too little for too long.
	GivenUp()
}

// LongestLive returns how long it may take from the end of a capture of at most so
// many bytes until all of it is sent, or its reader is given up.
func LongestLive(size int64) time.Duration { return liveStall + over(size, slowReader) }

// A Live sends a capture to whoever asked while it is made. The capture neither waits
// for it nor suffers from it.
type Live struct {
	open     OpenList
	observer Observer
	live     LiveObserver
	from     *capfile.Follower
	pieces   [][]byte      // memory of the next pieces, which grows with what comes at a time
	spare    []byte        // of the last one that was sent, which the list may still look at
	held     int           // bytes of the first one that are there
	key      string        // that was asked for
	longest  time.Duration // that the sending goes on after the end of the capture
	giveUp   context.CancelCauseFunc

	opened   chan struct{} // closed when there is a list, or will be none
	late     *time.Timer   // gives up, from End to Wait
	list     List          // nil: none
	captured chan capfile.Statistics
	sent     chan struct{} // closed when nothing more is sent
	err      error         // why there is no list, or not all was sent
}

// Send begins to send a capture of at most size bytes to a list of its own, whose name
// is key with :live after it. It returns at once. End has to be called in any case, and
// the sending ends with ctx.
func (d *Delivery) Send(ctx context.Context, key string, size int64, from *capfile.Follower) *Live {
	l := &Live{open: d.list, observer: d.observer, live: d.live, from: from, key: key, longest: LongestLive(size),
		opened: make(chan struct{}), captured: make(chan capfile.Statistics, 1), sent: make(chan struct{})}
	ctx, l.giveUp = context.WithCancelCause(ctx)
	go l.run(ctx)
	return l
}

// Opened returns a channel that is closed when there is a list or it is known that there
// will be none: after about 2 s at most.
func (l *Live) Opened() <-chan struct{} { return l.opened }

// Key returns the name of the list, or why there is none. It blocks until Opened is closed.
func (l *Live) Key() (string, error) {
	<-l.opened
	if l.list == nil {
		return "", l.err
	}
	return l.list.Key(), nil
}

// End says, once, that the capture has ended. It returns at once; what is left is being sent.
func (l *Live) End(c capfile.Statistics) {
	l.late = time.AfterFunc(l.longest, func() { l.giveUp(errSlowReader) })
	l.captured <- c
}

// Wait waits, after End, until all is sent or will not be, and says why not. From then
// on nothing of the capture is read.
func (l *Live) Wait() error {
	<-l.sent
	l.late.Stop() // it would keep all this in memory until then
	return l.err
}

// run makes the list and sends the capture.
func (l *Live) run(ctx context.Context) {
	defer close(l.sent)
	defer l.giveUp(nil)
	took, err := l.send(ctx)
	switch {
	case err == nil || l.list == nil:
	case errors.Is(context.Cause(ctx), errSlowReader):
		l.err = fmt.Errorf("live: %w", errSlowReader)
	case ctx.Err() != nil:
		l.err = fmt.Errorf("live: %w", errStopped)
	default:
		l.err = fmt.Errorf("live: %w", err)
	}
	l.observer.Delivered(liveName, took, err)
	if errors.Is(l.err, pubsub.ErrStalled) || errors.Is(l.err, errSlowReader) {
		l.live.GivenUp()
	}
}

// send makes the list and sends the capture. It returns how long that took after the end.
func (l *Live) send(ctx context.Context) (took time.Duration, err error) {
	if err := l.begin(ctx); err != nil {
		return 0, err
	}
	defer l.list.Close()
	c, err := l.follow(ctx)
	if err == nil {
		err = l.end(ctx, c)
		took = time.Since(c.Ended)
	}
	return took, err
}

// begin makes the list.
func (l *Live) begin(ctx context.Context) error {
	defer close(l.opened)
	ctx, cancel := context.WithTimeout(ctx, liveOpening)
	defer cancel()
	l.pieces, l.spare = [][]byte{make([]byte, pubsub.MaxPiece)}, make([]byte, pubsub.MaxPiece)
	first := l.spare[:l.from.Fill(l.spare)]
	list, err := l.open(ctx, l.key, first)
	if err != nil {
		l.err = fmt.Errorf("live: %w", err)
		return err
	}
	l.list = list
	l.live.Sent(len(first))
	return nil
}

// follow sends pieces until the capture has ended. Behind whole pieces it leaves the rest to
// grow: many small ones would cost whoever reads them more.
func (l *Live) follow(ctx context.Context) (capfile.Statistics, error) {
	next := time.NewTicker(livePeriod)
	defer next.Stop()
	for heard := time.Now(); ; {
		whole, err := l.pushWhole(ctx)
		switch {
		case err != nil:
		case l.held > 0 && !whole:
			err = l.pushRest(ctx)
			heard = time.Now()
		case whole:
			heard = time.Now()
		case time.Since(heard) > liveLook:
			err = l.list.Look(ctx)
			heard = time.Now()
		}
		if err != nil {
			return capfile.Statistics{}, err
		}
		select {
		case c := <-l.captured:
			return c, nil
		case <-next.C:
		case <-ctx.Done():
			return capfile.Statistics{}, ctx.Err()
		}
	}
}

// end sends what is left of a capture that has ended.
func (l *Live) end(ctx context.Context, c capfile.Statistics) error {
	if _, err := l.pushWhole(ctx); err != nil {
		return err
	}
	if err := l.pushRest(ctx); err != nil {
		return err
	}
	if tail := l.from.Tail(c); len(tail) > 0 {
		if err := l.push(ctx, tail); err != nil {
			return err
		}
	}
	return l.list.Finish(ctx)
}

// pushWhole sends pieces of the largest size as long as there are any, and reports whether
// there were.
func (l *Live) pushWhole(ctx context.Context) (were bool, err error) {
	for {
		whole := l.fill()
		if whole == 0 {
			return were, nil
		}
		if err := l.push(ctx, l.pieces[:whole]...); err != nil {
			return were, err
		}
		were = true
	}
}

// pushRest sends what has come of the next piece, if there is anything.
func (l *Live) pushRest(ctx context.Context) error {
	if l.held == 0 {
		return nil
	}
	rest := l.pieces[0][:l.held]
	l.held = 0
	return l.push(ctx, rest)
}

// fill fills pieces, and returns how many of them are whole. The rest is in the one after them.
func (l *Live) fill() (whole int) {
	for ; whole < mostPieces; whole++ {
		if whole == len(l.pieces) {
			l.pieces = append(l.pieces, make([]byte, pubsub.MaxPiece))
		}
		piece := l.pieces[whole]
		if l.held += l.from.Fill(piece[l.held:]); l.held < len(piece) {
			return whole
		}
		l.held = 0
	}
	return whole
}

// push sends pieces, the first ones of those there are.
func (l *Live) push(ctx context.Context, pieces ...[]byte) error {
	if err := l.list.Push(ctx, pieces...); err != nil {
		return err
	}
	for _, piece := range pieces {
		l.live.Sent(len(piece))
	}
	last := len(pieces) - 1
	l.pieces[last], l.spare = l.spare, l.pieces[last]
	if rest := len(pieces); rest < len(l.pieces) {
		l.pieces[0], l.pieces[rest] = l.pieces[rest], l.pieces[0]
	}
	return nil
}
