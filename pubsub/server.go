// Package pubsub is Redis as the daemon needs it: a server and how to reach it,
// messages from a channel, messages to a channel, and both at once for who asks.
// It knows servers, channels, keys and bytes, and not what a payload means.
package pubsub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
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

// A Server is an address and what opens it. It may be used by several at a time,
// and must not be changed or copied then.
type Server struct {
	Addresses      []string // host:port
	User, Password string   // empty: no AUTH
	TLS            bool
	CAs            *x509.CertPool // nil: the system's

	names names
}

// String names the server for people, without user and password.
func (s *Server) String() string { return strings.Join(s.Addresses, ",") }

// dial connects and authenticates. The connection is closed when the context ends.
func (s *Server) dial(ctx context.Context) (redis.Conn, error) {
	conn, err := redis.DialContext(ctx, "tcp", s.Addresses[0],
		redis.DialContextFunc(s.connect),
		redis.DialUseTLS(s.TLS),
		redis.DialTLSConfig(&tls.Config{RootCAs: s.CAs}),
		redis.DialTLSHandshakeTimeout(pingPeriod),
		redis.DialWriteTimeout(answerTimeout))
	if err != nil {
		return nil, err
	}
	if err := authenticate(conn, s.User, s.Password); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
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
	if _, err := redis.DoWithTimeout(conn, pingPeriod, "AUTH", credentials.Add(password)...); err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	return nil
}
