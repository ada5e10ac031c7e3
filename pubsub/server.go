// Package pubsub is Redis as the daemon needs it: servers and how to reach them,
// messages from a channel, messages to a channel, both at once for who asks, and
// values that are returned through keys. It knows servers, channels, keys and bytes,
// and not what a payload means.
package pubsub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	// pingPeriod and pongMargin together are the time within which a server
	// that hangs, or a network that swallows, is noticed.
	pingPeriod = 5 * time.Second
	pongMargin = 5 * time.Second
	// answerTimeout is how long what was sent waits for its answer.
	answerTimeout = 15 * time.Second
)

// A Server is an address and what opens it; or several addresses, of which any
// will do; or those of sentinels, which know where the server is. It may be used by
// several at a time, and must not be changed or copied then.
type Server struct {
	Addresses      []string // host:port
	User, Password string   // empty: no AUTH
	TLS            bool
	CAs            *x509.CertPool // nil: the system's

	Master                         string // its name; empty: Addresses are not those of sentinels
	SentinelUser, SentinelPassword string // empty: no AUTH at the sentinels

	names  names
	watch  watch
	pieces sync.Pool // of memory for those who write values

	mu     sync.Mutex
	first  int    // index of the address to try first: the one that was good last
	master string // address of the master that was good last
}

// String names the server for people, without users and passwords.
func (s *Server) String() string {
	addresses := strings.Join(s.Addresses, ",")
	if s.Master != "" {
		return s.Master + " of the sentinels " + addresses
	}
	return addresses
}

// longestDelay returns the longest wait between two attempts.
func (s *Server) longestDelay() time.Duration {
	if s.Master != "" {
		return movingDelay
	}
	return longDelay
}

// dial returns a connection that is good to use. It is closed when the context ends.
func (s *Server) dial(ctx context.Context) (conn redis.Conn, err error) {
	if s.Master != "" {
		return s.dialMaster(ctx)
	}
	err = s.inTurn(func(address string) error {
		conn, err = s.open(ctx, address, s.User, s.Password)
		if err != nil || len(s.Addresses) == 1 {
			return err
		}
		// One that hangs accepts connections all the same, and would be tried for ever.
		if err := ping(conn, pingPeriod); err != nil {
			conn.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// inTurn tries one address after the other, beginning with the one that was good last.
func (s *Server) inTurn(try func(address string) error) error {
	s.mu.Lock()
	first := s.first
	s.mu.Unlock()
	var failed failures
	for n := range s.Addresses {
		n = (first + n) % len(s.Addresses)
		err := try(s.Addresses[n])
		if err == nil {
			s.mu.Lock()
			s.first = n
			s.mu.Unlock()
			return nil
		}
		failed = failed.add(err)
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return failed
}

// A connection is one to a server that has been opened by open.
type connection struct {
	redis.ConnWithTimeout
	replies *replyReader
}

// repliesOf returns what reads from a connection.
func repliesOf(conn redis.Conn) *replyReader {
	if m, ok := conn.(*masterConn); ok {
		return m.replies
	}
	return conn.(*connection).replies
}

// open connects to an address and authenticates.
func (s *Server) open(ctx context.Context, address, user, password string) (redis.Conn, error) {
	conn, err := s.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	replies := newReplyReader(conn, address)
	c := &connection{redis.NewConn(replies, 0, answerTimeout).(redis.ConnWithTimeout), replies}
	if err := authenticate(c, user, password); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// authenticate sends AUTH if there is anything to send. It is not left to
// redis.DialUsername, which skips AUTH for a user without a password.
func authenticate(conn redis.Conn, user, password string) error {
	if user == "" && password == "" {
		return nil
	}
	credentials := redis.Args{}
	if user != "" {
		credentials = credentials.Add(user)
	}
	answer, err := redis.DoWithTimeout(conn, pingPeriod, "AUTH", credentials.Add(password)...)
	var refusal redis.Error
	switch {
	case errors.As(err, &refusal):
		return fmt.Errorf("AUTH: %w", explainRefusal(refusal))
	case err != nil:
		return fmt.Errorf("AUTH: %w", err)
	case answer != "OK":
		return errNotRedis
	}
	return nil
}

// refusals are the first words of errors that servers answer to AUTH, and what they mean.
var refusals = map[string]string{
	"WRONGPASS":  "user or password is wrong, or the user is disabled",
	"ERR":        "no password is set there, or AUTH is unknown",
	"NOAUTH":     "another password is asked for",
	"NOPERM":     "AUTH is not permitted",
	"LOADING":    "the server is starting",
	"BUSY":       "the server is busy",
	"MASTERDOWN": "the master is down",
}

// explainRefusal returns the refusal of an AUTH in words of our own. Servers repeat what they
// did not understand, a part of the password or a changed form of it, wherever they like.
func explainRefusal(refusal redis.Error) redis.Error {
	code, _, _ := strings.Cut(string(refusal), " ")
	if meaning, known := refusals[code]; known {
		return redis.Error(code + " " + meaning)
	}
	return "refused by the server"
}

// Ping returns why the server cannot be reached, or nil. It tries once.
func (s *Server) Ping(ctx context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn, pingPeriod)
}

// ping asks for a sign of life. That the user may not ping is one, too.
func ping(conn redis.Conn, timeout time.Duration) error {
	answer, err := redis.DoWithTimeout(conn, timeout, "PING")
	var refusal redis.Error
	switch {
	case errors.As(err, &refusal) && strings.HasPrefix(string(refusal), "NOPERM"):
		return nil
	case err != nil:
		return fmt.Errorf("ping: %w", err)
	case answer != "PONG":
		return fmt.Errorf("ping: %w", errNotRedis)
	}
	return nil
}

// explainOdd returns an error that says what a server is that answers with something else than Redis
// would, where redigo only says which type that has.
func explainOdd(conn redis.Conn, err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "redigo") {
		return fmt.Errorf("%s: %w", repliesOf(conn).address, errNotRedis)
	}
	return err
}

// failures is why none of several addresses is good: an error in one line.
type failures []error

// add appends an error that says something new.
func (f failures) add(err error) failures {
	for _, known := range f {
		if known.Error() == err.Error() {
			return f
		}
	}
	return append(f, err)
}

// Error implements error.
func (f failures) Error() string {
	var texts []string
	for _, err := range f {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives errors.Is and errors.As each of them.
func (f failures) Unwrap() []error { return f }
