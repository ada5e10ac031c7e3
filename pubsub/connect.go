package pubsub

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// connectTimeout is the time for connecting to any of the addresses of a host.
	connectTimeout = 1500 * time.Millisecond
	// headStart is what one address has before the next one is tried beside it (RFC 8305).
	headStart = 200 * time.Millisecond
)

// connect opens a connection that the context closes.
func (s *Server) connect(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := s.names.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	conn, err := connectAny(ctx, addresses, port)
	if err != nil {
		return nil, err
	}
	bound := boundConn{conn, ctx, context.AfterFunc(ctx, func() { conn.Close() })}
	if !s.TLS {
		return bound, nil
	}
	return s.secure(ctx, bound, host)
}

// secure makes a connection to a host one with TLS.
func (s *Server) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, part(ctx, pingPeriod))
	defer cancel()
	secured := tls.Client(conn, &tls.Config{RootCAs: s.CAs, ServerName: host})
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", host, err)
	}
	return secured, nil
}

// connectAny connects to the first address that accepts. One that refuses or
// stays silent for a while does not hold up the next one.
func connectAny(ctx context.Context, addresses []string, port string) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	outcomes := make(chan outcome)
	running, failure := 0, error(nil)
	for {
		var later <-chan time.Time
		if len(addresses) > 0 {
			address := net.JoinHostPort(addresses[0], port)
			addresses = addresses[1:]
			running++
			go func() {
				conn, err := dialer().DialContext(ctx, "tcp", address)
				outcomes <- outcome{conn, err}
			}()
			later = time.After(headStart)
		}
		select {
		case o := <-outcomes:
			running--
			if o.err == nil {
				cancel()
				for ; running > 0; running-- {
					if late := <-outcomes; late.conn != nil {
						late.conn.Close()
					}
				}
				return o.conn, nil
			}
			failure = cmp.Or(failure, o.err)
			if running == 0 && len(addresses) == 0 {
				return nil, failure
			}
		case <-later:
		}
	}
}

// dialer returns what makes sockets. A peer that is gone without a word is noticed
// by the kernel, a hanging one by pings.
func dialer() *net.Dialer {
	return &net.Dialer{ControlContext: limitSilence, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: pingPeriod, Interval: pingPeriod, Count: 2}}
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

// A boundConn is a connection that a context closes. What ended the context is the
// error then.
type boundConn struct {
	net.Conn
	ctx     context.Context
	release func() bool // from the context
}

// Read implements net.Conn.
func (c boundConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.explain(err)
}

// Write implements net.Conn.
func (c boundConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.explain(err)
}

// SetReadDeadline implements net.Conn.
func (c boundConn) SetReadDeadline(t time.Time) error { return c.explain(c.Conn.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (c boundConn) SetWriteDeadline(t time.Time) error { return c.explain(c.Conn.SetWriteDeadline(t)) }

// explain returns what closed the connection, if it was the context.
func (c boundConn) explain(err error) error {
	if cause := context.Cause(c.ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// Close implements net.Conn.
func (c boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}
