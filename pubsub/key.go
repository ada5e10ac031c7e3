package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	// keyExpiry is how long a key lives.
	keyExpiry = 10 * time.Minute
	// pieceSize is how much of a value goes over the wire at a time: neither here
	// nor in the server does a value need its size twice. Larger pieces are
	// hardly faster, and the server holds several of them.
	pieceSize = 256 << 10
	// awayTimeout is how long what concerns keys waits for a server that is away.
	awayTimeout = 30 * time.Second
	// maxNames is how many names are tried for a key.
	maxNames = 100
	// maxHops is how often a cluster may send on to another node.
	maxHops = 5
	// maxTries is how often a value is written that the server drops meanwhile.
	maxTries = 3
)

// errVanished says that the server does not have what was just written there: it
// was evicted or removed.
var errVanished = errors.New("the key has vanished meanwhile")

// Store writes a value of size bytes, at least one, to a key and returns the name of the key:
// a name that is in use gets -2, -3 … appended. The key expires ten minutes later,
// and never lives for ever, whatever happens meanwhile. Content returns the value
// from its beginning each time it is called. A server that is away is waited for,
// but not for more than 30 s. Refusals of the server are in the error as it said them.
func (s *Server) Store(ctx context.Context, key string, size int64, content func() io.Reader) (string, error) {
	piece, _ := s.pieces.Get().(*[pieceSize]byte)
	if piece == nil {
		piece = new([pieceSize]byte)
	}
	defer s.pieces.Put(piece)
	w := keyWriter{name: key, size: size, content: content, piece: piece[:]}
	err := errVanished
	for try := 0; try < maxTries && errors.Is(err, errVanished); try++ {
		err = s.insist(ctx, w.write)
	}
	if err != nil {
		if w.made {
			s.discard(ctx, w.name)
		}
		return "", fmt.Errorf("store %s: %w", key, err)
	}
	return w.name, nil
}

// Fetch writes the value of a key to w and returns its size. A connection that
// breaks is replaced, as with Store.
func (s *Server) Fetch(ctx context.Context, key string, w io.Writer) (size int64, err error) {
	r := keyReader{name: key, to: w}
	if err := s.insist(ctx, r.read); err != nil {
		return r.done, fmt.Errorf("fetch %s: %w", key, err)
	}
	return r.done, nil
}

// Remove removes a key; there need not be one.
func (s *Server) Remove(ctx context.Context, key string) error {
	err := s.insist(ctx, func(conn redis.Conn, _ func()) error {
		_, err := redis.DoWithTimeout(conn, answerTimeout, "DEL", key)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// discard removes what is left of a value that could not be written. If it
// cannot, the key expires.
func (s *Server) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), LastAttempt)
	defer cancel()
	_ = s.Remove(ctx, key)
}

// insist calls work with a connection. When it breaks, or the server cannot do
// what it is asked for now, work is called again with a new one. It may call
// alive when the server has answered; 30 s after that insist gives up.
func (s *Server) insist(ctx context.Context, work func(conn redis.Conn, alive func()) error) error {
	return retry(ctx, func(alive func()) (passing bool, err error) {
		return s.attempt(ctx, func(conn redis.Conn) error { return work(conn, alive) })
	})
}

// retry calls attempt until it succeeds or its failure is not a passing one; but not when
// 30 s are over since it has called alive, or was called first.
func retry(ctx context.Context, attempt func(alive func()) (passing bool, err error)) error {
	delay := newReconnectDelay(shortDelay)
	answered := time.Now()
	var failure error // the last one that is not the end of the context
	for {
		passing, err := attempt(func() { answered = time.Now() })
		if failure == nil || !isOver(ctx) {
			failure = err
		}
		switch {
		case err == nil || !passing:
			return err
		case ctx.Err() != nil:
			if errors.Is(failure, ctx.Err()) {
				return failure
			}
			return fmt.Errorf("%w: %w", ctx.Err(), failure)
		case time.Since(answered) > awayTimeout:
			return fmt.Errorf("away for %v: %w", awayTimeout, err)
		}
		select {
		case <-time.After(delay.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

// isOver reports whether a context has ended, or will at once: connections have its
// deadline, too, and may notice first.
func isOver(ctx context.Context) bool {
	deadline, has := ctx.Deadline()
	return ctx.Err() != nil || has && !time.Now().Before(deadline)
}

// attempt calls work once with a connection. A failure is passing if another
// connection may do better.
func (s *Server) attempt(ctx context.Context, work func(redis.Conn) error) (passing bool, err error) {
	conn, err := s.dial(ctx)
	for hop := 0; err == nil; hop++ {
		err = work(conn)
		broken := conn.Err() != nil
		conn.Close()
		address := movedTo(err)
		if address == "" || hop == maxHops {
			return isPassing(err, broken), err
		}
		conn, err = s.open(ctx, address, s.User, s.Password)
	}
	return isPassing(err, true), err
}

// movedTo returns the address of the node of a cluster that has what another
// node was asked for.
func movedTo(err error) string {
	var refusal redis.Error
	if !errors.As(err, &refusal) || !strings.HasPrefix(string(refusal), "MOVED ") {
		return ""
	}
	words := strings.Fields(string(refusal))
	return words[len(words)-1]
}

// isPassing reports whether another connection may do better. A server that starts,
// or that is just being replaced, refuses what it or the other one will do soon.
func isPassing(err error, broken bool) bool {
	var refusal redis.Error
	switch {
	case errors.Is(err, errReply):
		return false // the next one will say that again
	case !errors.As(err, &refusal):
		return broken
	}
	code, _, _ := strings.Cut(string(refusal), " ")
	return slices.Contains([]string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ASK", "BUSY"}, code)
}

// A keyWriter writes a value. The last piece comes first: it makes the key as
// long as it will be, so that the answer to every other piece tells whether all of the
// value is still there. A key that vanishes would be made again by the next piece,
// shorter and with zeros in front.
type keyWriter struct {
	name    string
	tried   int  // so many names are in use
	made    bool // the key is ours
	size    int64
	content func() io.Reader
	piece   []byte // what is sent at a time
}

// write writes the whole value over one connection: a server that was
// restarted, or has become the master, may have an older state of it.
func (w *keyWriter) write(conn redis.Conn, alive func()) error {
	if err := w.create(conn); err != nil {
		return err
	}
	last := (w.size - 1) / pieceSize * pieceSize
	content := w.content()
	if _, err := io.CopyN(io.Discard, content, last); err != nil {
		return fmt.Errorf("read the value: %w", err)
	}
	if err := w.put(conn, last, content, w.piece[:w.size-last]); err != nil {
		return err
	}
	content = w.content()
	for offset := int64(0); offset < last; offset += pieceSize {
		alive()
		if err := w.put(conn, offset, content, w.piece); err != nil {
			return err
		}
	}
	return nil
}

// create makes an empty key, under a name that is free.
func (w *keyWriter) create(conn redis.Conn) error {
	seconds := int(keyExpiry.Seconds())
	if w.made {
		_, err := redis.DoWithTimeout(conn, answerTimeout, "SET", w.name, "", "EX", seconds)
		return err
	}
	for ; w.tried < maxNames; w.tried++ {
		name := w.name
		if w.tried > 0 {
			name = fmt.Sprintf("%s-%d", w.name, w.tried+1)
		}
		switch answer, err := redis.DoWithTimeout(conn, answerTimeout, "SET", name, "", "EX", seconds, "NX"); {
		case err != nil:
			return err
		case answer != nil:
			w.name, w.made = name, true
			return nil
		}
	}
	return fmt.Errorf("%d keys of that name exist", maxNames)
}

// put reads a piece and writes it at an offset. SETRANGE would make a key that
// has vanished without an expiry; it gets one with the same packet.
func (w *keyWriter) put(conn redis.Conn, offset int64, from io.Reader, piece []byte) error {
	if _, err := io.ReadFull(from, piece); err != nil {
		return fmt.Errorf("read the value: %w", err)
	}
	if err := conn.Send("SETRANGE", w.name, offset, piece); err != nil {
		return err
	}
	if err := conn.Send("EXPIRE", w.name, int(keyExpiry.Seconds())); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	length, err := redis.Int64(redis.ReceiveWithTimeout(conn, answerTimeout))
	if err != nil {
		return err
	}
	expires, err := redis.Bool(redis.ReceiveWithTimeout(conn, answerTimeout))
	if err != nil {
		return err
	}
	if length != w.size || !expires {
		return errVanished
	}
	return nil
}

// A keyReader reads a value. GET would copy all of it into the server's output buffer.
type keyReader struct {
	name string
	to   io.Writer
	size int64 // 0: not known yet
	done int64 // written to to
}

// read reads what is left of the value over one connection.
func (r *keyReader) read(conn redis.Conn, alive func()) error {
	switch size, err := redis.Int64(redis.DoWithTimeout(conn, answerTimeout, "STRLEN", r.name)); {
	case err != nil:
		return err
	case size == 0:
		return errors.New("no such key; it may have expired")
	case r.size != 0 && r.size != size:
		return errVanished
	default:
		r.size = size
	}
	for r.done < r.size {
		alive()
		want := min(pieceSize, r.size-r.done)
		piece, err := redis.Bytes(redis.DoWithTimeout(conn, answerTimeout, "GETRANGE", r.name, r.done, r.done+want-1))
		if err != nil {
			return err
		}
		if int64(len(piece)) != want {
			return errVanished
		}
		n, err := r.to.Write(piece)
		r.done += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}
