package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/text"
)

// sentinelTimeout is how long a sentinel has for an answer before the next one
// is asked.
const sentinelTimeout = 1500 * time.Millisecond

// maxHost is how many characters the name or address of a host may have (RFC 1035, 2.3.4).
const maxHost = 255

// dialMaster returns a connection to the master. Each sentinel is asked until one
// names a server that says itself that it is the master. If no sentinel answers, the
// one that was the master last may say so.
func (s *Server) dialMaster(ctx context.Context) (redis.Conn, error) {
	var conn redis.Conn
	tried := map[string]error{}
	sentinel, err := s.consult(ctx, func(address string) (err error) {
		if err, again := tried[address]; again {
			return err
		}
		conn, err = s.openMaster(ctx, address)
		tried[address] = err
		return err
	})
	if err == nil {
		sentinel.Close()
		return conn, nil
	}
	s.mu.Lock()
	master := s.master
	s.mu.Unlock()
	if len(tried) > 0 || master == "" {
		return nil, err
	}
	if conn, last := s.openMaster(ctx, master); last == nil {
		return conn, nil
	}
	return nil, err
}

// consult asks sentinels in turn until one names an address that is accepted. It
// returns the connection to that sentinel.
func (s *Server) consult(ctx context.Context, accept func(address string) error) (redis.Conn, error) {
	var sentinel redis.Conn
	err := s.inTurn(func(address string) error {
		conn, err := s.openSentinel(ctx, address)
		if err != nil {
			return fmt.Errorf("sentinel %s: %w", address, err)
		}
		answer, err := s.ask(conn)
		if err != nil {
			err = fmt.Errorf("sentinel %s: %w", address, err)
		} else {
			err = accept(answer)
		}
		if err != nil {
			conn.Close()
			return err
		}
		sentinel = conn
		return nil
	})
	return sentinel, err
}

// openSentinel connects to a sentinel.
func (s *Server) openSentinel(ctx context.Context, address string) (redis.Conn, error) {
	return s.open(ctx, address, s.SentinelUser, s.SentinelPassword)
}

// ask asks a sentinel for the address of the master.
func (s *Server) ask(sentinel redis.Conn) (string, error) {
	answer, err := redis.Strings(redis.DoWithTimeout(sentinel, sentinelTimeout,
		"SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Master))
	switch {
	case errors.Is(err, redis.ErrNil):
		return "", fmt.Errorf("knows no master %q", s.Master)
	case err != nil:
		return "", err
	case len(answer) != 2 || !isHost(answer[0]) || len(answer[1]) > len("65535"):
		return "", fmt.Errorf("says %.100q for an address", answer[:min(len(answer), 3)])
	}
	return net.JoinHostPort(answer[0], answer[1]), nil
}

// isHost reports whether a server may name a host so: it is shown to people when it is not reached.
func isHost(name string) bool {
	return len(name) <= maxHost && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}

// openMaster connects to a server that says that it is a master. The connection
// is closed when another one has become the master.
func (s *Server) openMaster(ctx context.Context, address string) (redis.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	conn, err := s.open(ctx, address, s.User, s.Password)
	if err == nil {
		if err = checkMaster(conn); err != nil {
			conn.Close()
			err = fmt.Errorf("%s: %w", address, err)
		}
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s.mu.Lock()
	s.master = address
	s.mu.Unlock()
	leave := s.watch.join(s, address, cancel)
	return &masterConn{conn.(*connection), address, func() { leave(); cancel(nil) }}, nil
}

// checkMaster asks a server whether it is a master.
func checkMaster(conn redis.Conn) error {
	answer, err := redis.Values(redis.DoWithTimeout(conn, pingPeriod, "ROLE"))
	if err != nil {
		return err
	}
	if len(answer) == 0 {
		return errors.New("says nothing of its role")
	}
	role, err := redis.String(answer[0], nil)
	if err == nil && role != "master" {
		err = fmt.Errorf("is no master but a %.20s", text.Printable(role))
	}
	return err
}

// A masterConn is a connection to a master that is watched.
type masterConn struct {
	*connection
	address string
	leave   func() // ends the watching
}

// masterOf returns the address of the master that a connection leads to, or
// nothing if there are no sentinels.
func masterOf(conn redis.Conn) string {
	if m, ok := conn.(*masterConn); ok {
		return m.address
	}
	return ""
}

// Close implements redis.Conn.
func (c *masterConn) Close() error {
	err := c.connection.Close()
	c.leave()
	return err
}
