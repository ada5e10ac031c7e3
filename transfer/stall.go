package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/text"
)

// stallTime is how long a connection may stand still.
const stallTime = 15 * time.Second

// A StallTimeouts says how long a connection may stand still before it is given up.
type StallTimeouts struct {
	Stall  time.Duration // while something is left to send
	Answer time.Duration // when the peer has everything and says nothing
}

// NewStallTimeouts returns the time-outs for transfers that may take so long in all:
// a silent peer leaves time for further tries.
func NewStallTimeouts(timeout time.Duration) StallTimeouts {
	return StallTimeouts{Stall: stallTime, Answer: max(stallTime, timeout/4)}
}

// Dial connects to an address and watches the connection.
func (e StallTimeouts) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: e.Stall}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	socket, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &stallConn{Conn: conn, timeouts: e}
	c.watch(socket, 0, time.Now())
	return c, nil
}

// A stallConn is a connection that is given up when it stands still, and on
// which an answer is read even if the peer closes before it has read everything.
type stallConn struct {
	net.Conn // not as TCPConn, which would let io.Copy pass Write by
	timeouts StallTimeouts
	stalled  atomic.Pointer[error] // why it was given up
	broken   atomic.Pointer[error] // of Write
}

// watch looks at the connection now and then until it is closed, and closes
// it when it has stood still for too long. What counts is what the peer has
// acknowledged: the kernel takes megabytes long before they move.
func (c *stallConn) watch(socket syscall.RawConn, moved uint64, since time.Time) {
	time.AfterFunc(c.timeouts.Stall/15, func() {
		var info *unix.TCPInfo
		var err error
		closed := socket.Control(func(fd uintptr) {
			info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		})
		if closed != nil || err != nil {
			return
		}
		if now := info.Bytes_acked + info.Bytes_received; now != moved {
			moved, since = now, time.Now()
		}
		longest, state := c.timeouts.Answer, "no answer"
		if info.Unacked > 0 || info.Notsent_bytes > 0 {
			longest, state = c.timeouts.Stall, "nothing was taken"
		}
		if time.Since(since) < longest {
			c.watch(socket, moved, since)
			return
		}
		err = fmt.Errorf("%s for %s", state, text.FormatDuration(longest))
		c.stalled.Store(&err)
		c.Close()
	})
}

// Write implements io.Writer. A peer that answers and closes may do so while
// much is still to be sent. Its answer is here then, but whoever hears that
// Write fails no longer asks for it. So Write pretends to go on, and Read
// reports the failure when there is nothing more to read.
func (c *stallConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	switch cause := c.stalled.Load(); {
	case err == nil:
		return n, nil
	case cause != nil:
		return n, *cause
	case errors.Is(err, net.ErrClosed):
		return n, err
	}
	broken := err // err itself would be allocated for each call
	c.broken.CompareAndSwap(nil, &broken)
	return len(p), nil
}

// Read implements io.Reader.
func (c *stallConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		return n, nil
	}
	if cause := c.stalled.Load(); cause != nil {
		return n, *cause
	}
	if cause := c.broken.Load(); cause != nil {
		return n, *cause // the kernel says it once, and to Write
	}
	return n, err
}
