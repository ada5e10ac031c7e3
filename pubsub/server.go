// Package pubsub is Redis as the daemon needs it: a server and how to reach it,
// messages from a channel, messages to a channel, and both at once for who asks.
// It knows servers, channels, keys and bytes, and not what a payload means.
package pubsub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 1500 * time.Millisecond
	// pingPeriod and pongMargin together are the time within which a server
	// that hangs, or a network that swallows, is noticed.
	pingPeriod = 5 * time.Second
	pongMargin = 5 * time.Second
)

// A Server is an address and what opens it. It may be used by several at a time.
type Server struct {
	Addresses      []string // host:port
	User, Password string   // empty: no AUTH
	TLS            bool
	CAs            *x509.CertPool // nil: the system's
}

// String names the server for people, without user and password.
func (s *Server) String() string { return strings.Join(s.Addresses, ",") }

// dial connects and authenticates. The connection is closed when the context ends.
func (s *Server) dial(ctx context.Context) (redis.Conn, error) {
	connect := func(ctx context.Context, network, address string) (net.Conn, error) {
		// A peer that is gone without a word is noticed by the kernel, a hanging one by pings.
		dialer := net.Dialer{Timeout: dialTimeout, ControlContext: limitSilence, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: pingPeriod, Interval: pingPeriod, Count: 2}}
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return boundConn{conn, context.AfterFunc(ctx, func() { conn.Close() })}, nil
	}
	conn, err := redis.DialContext(ctx, "tcp", s.Addresses[0],
		redis.DialContextFunc(connect),
		redis.DialUseTLS(s.TLS),
		redis.DialTLSConfig(&tls.Config{RootCAs: s.CAs}),
		redis.DialTLSHandshakeTimeout(pingPeriod),
		redis.DialWriteTimeout(pingPeriod))
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

// limitSilence makes the kernel give a connection up when what was sent is not
// acknowledged; by itself it would try for a quarter of an hour (tcp(7), TCP_USER_TIMEOUT).
func limitSilence(_ context.Context, _, _ string, socket syscall.RawConn) error {
	var err error
	control := socket.Control(func(fd uintptr) {
		limit := int((pingPeriod + pongMargin).Milliseconds())
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, limit)
	})
	return errors.Join(control, err)
}

// A boundConn is a connection that a context closes.
type boundConn struct {
	net.Conn
	release func() bool // from the context
}

// Close implements net.Conn.
func (c boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}
