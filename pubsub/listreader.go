package pubsub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gomodule/redigo/redis"
)

const (
	// eagerPeriod is how long a reader waits for the next piece before it looks again at first.
	eagerPeriod = 5 * time.Millisecond
	// idlePeriod is the longest wait of that kind, after some that were in vain.
	idlePeriod = 50 * time.Millisecond
)

// ReadList takes the pieces of a list that a ListWriter writes, in order, and calls take with
// each of them; take must not keep it. It returns when the list has ended, with the error of
// take, or with that of the context. A connection that breaks is replaced, and no piece
// is taken twice or left out then; a server that is away is waited for, but not for more
// than 30 s. A piece of more than MaxPiece bytes is an error. A list without pieces
// does not exist in Redis: that one has expired, or has not begun, cannot be told from one
// of which all pieces were read. Nobody else may read the list.
func (s *Server) ReadList(ctx context.Context, key string, take func(piece []byte) error) error {
	l := s.newLink(ctx)
	defer l.close()
	r := listReader{name: key, take: take}
	err := l.do(ctx, func(conn redis.Conn, _ bool) error { return r.read(ctx, conn, l.alive) })
	if err != nil {
		return fmt.Errorf("read list %s: %w", key, err)
	}
	return nil
}

// A listReader reads a list. A piece is removed after it was taken: one that
// was removed with the answer lost would be missing.
type listReader struct {
	name  string
	take  func(piece []byte) error
	taken []byte // what take has had last, and may be in the list still; nil: nothing
}

// read reads pieces over one connection, and calls alive whenever the server has answered.
func (r *listReader) read(ctx context.Context, conn redis.Conn, alive func()) error {
	if r.taken != nil { // and it is not known whether it was removed
		first, err := r.first(conn)
		if err == nil && !bytes.Equal(first, r.taken) {
			r.taken = nil
		}
		if err != nil {
			return err
		}
	}
	delay := &backoff.ExponentialBackOff{InitialInterval: eagerPeriod, Multiplier: 2, MaxInterval: idlePeriod}
	for {
		piece, err := r.next(conn)
		if err != nil {
			return err
		}
		alive()
		switch {
		case piece == nil:
			if err := wait(ctx, delay.NextBackOff()); err != nil {
				return err
			}
			continue
		case len(piece) > MaxPiece:
			return fmt.Errorf("a piece of %d bytes, more than %d", len(piece), MaxPiece)
		case len(piece) == 0:
			_, _ = redis.DoWithTimeout(conn, answerTimeout, "DEL", r.name) // else it expires
			return nil
		}
		delay.Reset()
		if err := r.take(piece); err != nil {
			return err
		}
		r.taken = piece
	}
}

// first returns the first piece of the list, or nil if there is none.
func (r *listReader) first(conn redis.Conn) ([]byte, error) {
	piece, err := redis.Bytes(redis.DoWithTimeout(conn, answerTimeout, "LINDEX", r.name, 0))
	if errors.Is(err, redis.ErrNil) {
		return nil, nil
	}
	return piece, err
}

// next removes what was taken, and returns the piece that is the first one then, or nil.
func (r *listReader) next(conn redis.Conn) ([]byte, error) {
	if r.taken == nil {
		return r.first(conn)
	}
	if err := conn.Send("LTRIM", r.name, 1, -1); err != nil {
		return nil, err
	}
	if err := conn.Send("LINDEX", r.name, 0); err != nil {
		return nil, err
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	if _, err := redis.ReceiveWithTimeout(conn, answerTimeout); err != nil {
		return nil, err
	}
	r.taken = nil
	piece, err := redis.Bytes(redis.ReceiveWithTimeout(conn, answerTimeout))
	if errors.Is(err, redis.ErrNil) {
		return nil, nil
	}
	return piece, err
}
