package pubsub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// TestListReaderRefuses: pieces that no writer writes, and what is no list.
func TestListReaderRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		command []any
		culprit string
	}{
		"a large piece":    {[]any{"RPUSH", list, make([]byte, MaxPiece+1)}, "a piece of 262145 bytes"},
		"a huge one":       {[]any{"RPUSH", list, make([]byte, 64<<20)}, "a string of 67108864 bytes"},
		"not a list":       {[]any{"SET", list, "x"}, "WRONGTYPE"},
		"no permission":    {[]any{"ACL", "SETUSER", "default", "-lindex"}, "NOPERM"},
		"… to take it off": {[]any{"ACL", "SETUSER", "default", "-ltrim"}, "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			if !strings.HasPrefix(test.culprit, "WRONG") {
				r.Do(t, "RPUSH", list, "header")
			}
			r.Do(t, test.command[0].(string), test.command[1:]...)
			reading := startReading(t, reach(r), list)
			if strings.HasPrefix(test.culprit, "a ") || strings.HasPrefix(name, "…") {
				reading.checkPieces(t, "header")
			}
			reading.checkEnds(t, test.culprit)
		})
	}
}

// TestListReaderStops: with what takes the pieces, or with its context.
func TestListReaderStops(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	openList(t, reach(r), "a")
	full := errors.New("disk full")
	if err := reach(r).ReadList(t.Context(), list, func([]byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("want the error of who takes the pieces, got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pieces := 0
	err := reach(r).ReadList(ctx, list, func([]byte) error { pieces++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || pieces != 1 {
		t.Errorf("want the piece again, and no more, got %d pieces, %v", pieces, err)
	}
}

// TestListReaderRecovers: what was taken over a connection that broke may have been
// removed, or not. Each piece shows that the server is there.
func TestListReaderRecovers(t *testing.T) {
	r := testbed.StartRedis(t)
	for name, left := range map[string]string{"it was not": "a b c", "it was": "b c"} {
		r.Do(t, "DEL", list)
		r.Do(t, "RPUSH", redis.Args{list}.AddFlat(strings.Fields(left)).Add("")...)
		conn, err := reach(r).dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		alive := 0
		reader := listReader{name: list, taken: []byte("a"), take: func(piece []byte) error {
			got = append(got, string(piece))
			return nil
		}}
		if err := reader.read(t.Context(), conn, func() { alive++ }); err != nil || fmt.Sprint(got) != "[b c]" {
			t.Errorf("%s: want b and c, got %s, %v", name, got, err)
		}
		if alive < len(got) {
			t.Errorf("%s: want %d signs of life, got %d", name, len(got), alive)
		}
		conn.Close()
	}
}

// A listConn is a connection to a server that has a piece of a list at times: each question gets the next answer.
type listConn struct {
	redis.ConnWithTimeout
	answers []any
}

// DoWithTimeout implements redis.ConnWithTimeout.
func (c *listConn) DoWithTimeout(time.Duration, string, ...any) (any, error) {
	return c.ReceiveWithTimeout(0)
}

// Send implements redis.Conn.
func (c *listConn) Send(command string, _ ...any) error {
	if command == "LTRIM" {
		c.answers = append([]any{"OK"}, c.answers...)
	}
	return nil
}

// Flush implements redis.Conn.
func (c *listConn) Flush() error { return nil }

// ReceiveWithTimeout implements redis.ConnWithTimeout.
func (c *listConn) ReceiveWithTimeout(time.Duration) (answer any, err error) {
	answer, c.answers = c.answers[0], c.answers[1:]
	return answer, nil
}

// TestListReaderIsEagerAgain: after a time without pieces, the next ones are waited for as closely as the first.
func TestListReaderIsEagerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := make([]any, 20)
		conn := &listConn{answers: slices.Concat(idle, []any{[]byte("a"), nil, nil, []byte("b"), []byte{}, "OK"})}
		var taken []time.Time
		began := time.Now()
		r := listReader{name: list, take: func([]byte) error { taken = append(taken, time.Now()); return nil }}
		if err := r.read(t.Context(), conn, func() {}); err != nil || len(taken) != 2 {
			t.Fatalf("want two pieces, got %d, %v", len(taken), err)
		}
		if waited := taken[0].Sub(began) / 20; waited < idlePeriod/3 {
			t.Errorf("want longer waits while nothing comes, got %v", waited)
		}
		if waited := taken[1].Sub(taken[0]); waited > 4*eagerPeriod {
			t.Errorf("want short waits again, got %v", waited)
		}
	})
}
