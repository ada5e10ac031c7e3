package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
)

// stallTime is how long the pieces that are missing after the end of a capture are waited for.
const stallTime = 5 * time.Second

// A stream is a capture that is read while it is made.
type stream struct {
	live    *live
	capture *progress
	first   result.Result // the first one heard
	most    int64         // bytes
	input   *capfile.Input
	final   chan result.Result // the last one
	told    time.Time          // when that was heard; zero: it was not
	cancel  context.CancelCauseFunc
	over    bool // finished has returned it

	// Of its own goroutine, until it is over:
	copy *copyFile // nil: there is none
	file string
	err  error

	mu       sync.Mutex
	taking   bool      // a piece
	moved    time.Time // when the latest piece was taken
	received int64     // bytes
}

// conclude takes the last result of the capture. It is called once.
func (s *stream) conclude() {
	s.told, s.capture.fetching = time.Now(), true
	s.final <- s.capture.Result
}

// follow reads the capture and returns the file of its own, if there is one. It ends with the context.
func (s *stream) follow(ctx context.Context) (file string, err error) {
	err = s.live.lists.ReadList(ctx, s.first.Key, s.take)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	var last *capfile.Statistics
	if err == nil {
		select {
		case r := <-s.final:
			last = statistics(r)
			if r.Packets > 0 && r.Bytes != s.received {
				err = fmt.Errorf("%d of %d bytes have come", s.received, r.Bytes)
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	s.input.Close(last)
	if s.copy != nil {
		file, err = s.copy.end(err)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%s %s: live packets: %w", s.first.Node, s.first.Interface, err)
	}
	return file, err
}

// take takes the next piece of the capture file.
func (s *stream) take(piece []byte) error {
	s.mu.Lock()
	s.taking, s.received = true, s.received+int64(len(piece))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.taking, s.moved = false, time.Now()
		s.mu.Unlock()
	}()
	if s.received > s.most {
		return fmt.Errorf("more than %d bytes", s.most)
	}
	if s.copy == nil && s.live.dir != nil {
		s.copy = newCopyFile(s.live.dir, s.first, piece)
	}
	if s.copy != nil {
		s.copy.write(piece)
	}
	_, err := s.input.Write(piece)
	return err
}

// isStalled reports whether the capture has ended and its pieces do not come.
func (s *stream) isStalled(now time.Time) bool {
	if s.over || s.told.IsZero() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.taking && now.Sub(s.told) > stallTime && now.Sub(s.moved) > stallTime
}

// missing returns an error that says how much of the capture has come.
func (s *stream) missing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.received == s.capture.Bytes {
		return errors.New("all bytes have come, but not that they are all")
	}
	return fmt.Errorf("%d of %d bytes have come", s.received, s.capture.Bytes)
}

// limit returns how many bytes a capture may have, as its host says; 0: it does not.
func (t *progress) limit() int64 {
	if t.Limits == nil {
		return 0
	}
	return t.Limits.Bytes
}

// statistics returns what the last result of a capture says of it.
func statistics(r result.Result) *capfile.Statistics {
	s := &capfile.Statistics{Started: time.Time(r.Started), Ended: time.Time(r.Ended)}
	s.Stats.Received, s.Stats.Dropped, s.Stats.IfDropped = r.Received, r.Dropped, r.IfDropped
	return s
}
