package pubsub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	// MaxPiece is how many bytes a piece of a list may have.
	MaxPiece = 256 << 10
	// maxBacklog is how many bytes lie unread in a list at most.
	maxBacklog = 4 << 20
	// listExpiry is how long a list lives after its latest piece.
	listExpiry = 60 * time.Second
	// stallTimeout is how long pieces wait for a reader that takes none of them.
	stallTimeout = 30 * time.Second
	// lookPeriod is how often a writer that has to wait looks whether something was taken.
	lookPeriod = 50 * time.Millisecond
	// idleTimeout is how long after its last answer a connection is used without a look.
	idleTimeout = 100 * time.Millisecond
	// ListSuffix is how names of lists end.
	ListSuffix = ":live"
)

// Why a list cannot be written any more.
var (
	// ErrStalled says that its reader is given up.
	ErrStalled = fmt.Errorf("nothing was taken for %v", stallTimeout)
	errGone    = errors.New("the list was lost or changed while the server was away")
)

// A ListWriter writes pieces to a list, in order, from which one reader takes them away. It
// holds a connection of its own. It is used from one goroutine.
type ListWriter struct {
	name  string
	link  *link
	stall time.Duration

	unread []int     // sizes of the pieces that had not been taken at the last look
	moved  time.Time // when one was taken last, or nothing was left to take
	last   []byte    // the latest piece of the list
	sent   bool      // next were sent, and their answer has not come
	next   [][]byte  // the pieces that are being written, at least one
	heard  time.Time // when the server answered last
	client clientID  // of the connection that worked last
	failed error     // why nothing more can be written
}

// OpenList makes a list whose first piece is given, and stays as with Push. Its name is that of the key
// with :live after it; if that is taken, -2, -3 … stands before :live. Every piece
// sets it to expire a minute later. Close has to be called in any case.
func (s *Server) OpenList(ctx context.Context, key string, first []byte) (*ListWriter, error) {
	w := &ListWriter{link: s.newLink(ctx), stall: stallTimeout, moved: time.Now()}
	tried := 0 // so many names are in use
	err := checkPiece(first)
	if err == nil {
		err = w.link.do(ctx, func(conn redis.Conn, _ bool) (err error) {
			tried, err = w.create(conn, key, tried, first)
			return err
		})
	}
	if err != nil {
		w.link.close()
		return nil, fmt.Errorf("open list %s: %w", key+ListSuffix, err)
	}
	return w, nil
}

// Key returns the name of the list.
func (w *ListWriter) Key() string { return w.name }

// Push appends pieces of at most MaxPiece bytes each, and none of them empty. What there is room for
// is sent at a time: that costs hardly more than a single piece. The last one has to stay as it is until
// the next ones have been pushed: it is compared with the list when a connection
// breaks. Push blocks as long as 4 MiB are unread. It fails for good when the reader has taken
// nothing for 30 s while something was left to take, when the list was lost, when the server has
// been away for 30 s, or when the context ends: then Finish fails too.
func (w *ListWriter) Push(ctx context.Context, pieces ...[]byte) error {
	if err := w.pushAll(ctx, pieces); err != nil {
		return fmt.Errorf("push to %s: %w", w.name, err)
	}
	return nil
}

// Look asks whether the reader goes on, and fails as Push does. Whoever has nothing to push
// calls it at least every 10 s: what is not taken within a minute expires.
func (w *ListWriter) Look(ctx context.Context) error {
	if err := w.look(ctx); err != nil {
		return fmt.Errorf("look at %s: %w", w.name, err)
	}
	return nil
}

// Finish writes the end of the list. What has not been read by then can be for another minute.
func (w *ListWriter) Finish(ctx context.Context) error {
	if err := w.push(ctx, []byte{}); err != nil {
		return fmt.Errorf("end %s: %w", w.name, err)
	}
	return nil
}

// Close gives up the connection. A list without an end is left to expire.
func (w *ListWriter) Close() { w.link.close() }

// pushAll appends pieces, as many at a time as there is room for.
func (w *ListWriter) pushAll(ctx context.Context, pieces [][]byte) error {
	for _, piece := range pieces {
		if err := checkPiece(piece); err != nil {
			return err
		}
	}
	for looked := false; len(pieces) > 0; {
		if n := w.fitting(pieces); n > 0 {
			if err := w.push(ctx, pieces[:n]...); err != nil {
				return err
			}
			pieces, looked = pieces[n:], false
			continue
		}
		if looked {
			if err := wait(ctx, lookPeriod); err != nil {
				return err
			}
		}
		if err := w.look(ctx); err != nil {
			return err
		}
		looked = true
	}
	return nil
}

// fitting returns how many pieces there is room for, as far as was seen at the last look.
func (w *ListWriter) fitting(pieces [][]byte) int {
	room := maxBacklog - w.backlog()
	for n, piece := range pieces {
		if room -= len(piece); room < 0 {
			return n
		}
	}
	return len(pieces)
}

// checkPiece refuses a piece of a wrong size.
func checkPiece(piece []byte) error {
	if len(piece) == 0 || len(piece) > MaxPiece {
		return fmt.Errorf("a piece of %d bytes, not 1 to %d", len(piece), MaxPiece)
	}
	return nil
}

// wait waits for a while, or for the end of the context.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backlog returns how many bytes were unread at the last look.
func (w *ListWriter) backlog() (bytes int) {
	for _, size := range w.unread {
		bytes += size
	}
	return bytes
}

// create makes the list under the first name that is free, after so many that were tried.
func (w *ListWriter) create(conn redis.Conn, key string, tried int, first []byte) (int, error) {
	for ; tried < maxNames; tried++ {
		w.name = key + ListSuffix
		if tried > 0 {
			w.name = fmt.Sprintf("%s-%d%s", key, tried+1, ListSuffix)
		}
		if _, err := redis.DoWithTimeout(conn, answerTimeout, "WATCH", w.name); err != nil {
			return tried, err
		}
		exists, err := redis.Bool(redis.DoWithTimeout(conn, answerTimeout, "EXISTS", w.name))
		if err != nil {
			return tried, err
		}
		if exists {
			continue
		}
		switch length, err := w.append(conn, first); {
		case errors.Is(err, redis.ErrNil): // it was made meanwhile, or a list with a name before it was written
			tried--
			continue
		case err != nil:
			return tried, err
		default:
			w.sent, w.last, w.client = false, first, clientIDOf(conn)
			return tried, w.note(length, len(first))
		}
	}
	return tried, fmt.Errorf("%d lists of that name exist", maxNames)
}

// append appends pieces and returns how many there are then. Both commands have
// an effect, or none has: a list never lives for ever, and none of the pieces is
// there without the others. ErrNil means that what is watched has changed.
func (w *ListWriter) append(conn redis.Conn, pieces ...[]byte) (length int, err error) {
	for _, command := range []redis.Args{{"MULTI"}, redis.Args{"RPUSH", w.name}.AddFlat(pieces),
		{"EXPIRE", w.name, int(listExpiry.Seconds())}, {"EXEC"}} {
		if err := conn.Send(command[0].(string), command[1:]...); err != nil {
			return 0, err
		}
	}
	if err := conn.Flush(); err != nil {
		return 0, err // without EXEC nothing has an effect
	}
	w.sent = true
	for range 3 { // what was wrong with one of them says more than the answer to EXEC
		if _, err := redis.ReceiveWithTimeout(conn, answerTimeout); err != nil {
			return 0, err
		}
	}
	answers, err := redis.Values(redis.ReceiveWithTimeout(conn, answerTimeout))
	if err != nil {
		return 0, err
	}
	if len(answers) != 2 {
		return 0, fmt.Errorf("%w: EXEC with %d answers", errReply, len(answers))
	}
	return redis.Int(answers[0], nil)
}

// push appends pieces, whatever their size.
func (w *ListWriter) push(ctx context.Context, pieces ...[]byte) error {
	w.next, w.sent = pieces, false
	return w.work(ctx, func(conn redis.Conn, isNew bool) error {
		switch {
		case isNew:
			if arrived, err := w.recover(conn); err != nil || arrived {
				return err
			}
		case time.Since(w.heard) > idleTimeout: // what is sent on a broken one would be in doubt
			if err := w.measure(conn); err != nil {
				return err
			}
		}
		length, err := w.append(conn, pieces...)
		if refusal := redis.Error(""); errors.As(err, &refusal) {
			w.sent = false // none of the commands has had an effect
		}
		if err != nil {
			return err
		}
		return w.arrived(length)
	})
}

// measure asks how many pieces are unread.
func (w *ListWriter) measure(conn redis.Conn) error {
	length, err := redis.Int(redis.DoWithTimeout(conn, answerTimeout, "LLEN", w.name))
	if err != nil {
		return err
	}
	return w.note(length)
}

// work does something with the list. When it fails, all that comes later does.
func (w *ListWriter) work(ctx context.Context, do func(conn redis.Conn, isNew bool) error) error {
	if w.failed == nil {
		w.failed = w.link.do(ctx, do)
	}
	if w.failed == nil && w.isStalled() {
		w.failed = ErrStalled
	}
	return w.failed
}

// recover compares the list with what it was when the connection broke. It reports whether
// the pieces that were being written have arrived. A list that is empty has been read, or forgotten by
// a server that was restarted. Unless that has certainly not been, or all had been read before, nobody
// knows, and to go on might leave a gap. A list of which another piece is the latest is an older state of it.
func (w *ListWriter) recover(conn redis.Conn) (arrived bool, err error) {
	client := clientIDOf(conn)
	defer func() {
		if err == nil {
			w.client = client
		}
	}()
	latest, err := redis.Bytes(redis.DoWithTimeout(conn, answerTimeout, "LINDEX", w.name, -1))
	switch {
	case errors.Is(err, redis.ErrNil):
		if w.sent || len(w.unread) > 0 && !hasStayed(w.client, client) {
			return false, errGone
		}
		return false, nil
	case err != nil:
		return false, err
	case w.sent && bytes.Equal(latest, w.next[len(w.next)-1]):
		length, err := redis.Int(redis.DoWithTimeout(conn, answerTimeout, "LLEN", w.name))
		if err != nil {
			return false, err
		}
		return true, w.arrived(length)
	case !bytes.Equal(latest, w.last):
		return false, errGone
	}
	return false, nil
}

// look asks how many pieces are unread. Those wait on if the reader has taken some.
func (w *ListWriter) look(ctx context.Context) error {
	w.sent = false
	return w.work(ctx, func(conn redis.Conn, isNew bool) error {
		if isNew {
			if _, err := w.recover(conn); err != nil {
				return err
			}
		}
		length, err := redis.Int(redis.DoWithTimeout(conn, answerTimeout, "LLEN", w.name))
		if err != nil {
			return err
		}
		if length < len(w.unread) && length > 0 {
			if _, err := redis.DoWithTimeout(conn, answerTimeout, "EXPIRE", w.name, int(listExpiry.Seconds())); err != nil {
				return err
			}
		}
		return w.note(length)
	})
}

// arrived takes note of the length of the list when it has the pieces that were being written.
func (w *ListWriter) arrived(length int) error {
	sizes := make([]int, len(w.next))
	for i, piece := range w.next {
		sizes[i], w.last = len(piece), piece
	}
	w.sent = false
	return w.note(length, sizes...)
}

// note takes note of the length of the list, after pieces of these sizes were appended.
func (w *ListWriter) note(length int, appended ...int) error {
	w.heard = time.Now()
	had := len(w.unread)
	w.unread = append(w.unread, appended...)
	taken := len(w.unread) - length
	switch {
	case taken < 0:
		return errors.New("somebody else writes to the list")
	case taken > 0 || had == 0:
		w.moved = time.Now()
	}
	w.unread = slices.Clone(w.unread[taken:])
	return nil
}

// isStalled reports whether the reader has taken nothing for too long.
func (w *ListWriter) isStalled() bool { return len(w.unread) > 0 && time.Since(w.moved) > w.stall }
