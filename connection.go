package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stallTime is how long an upload's connection may stand still.
const stallTime = 15 * time.Second

// An endurance says how long a connection may stand still before it is given up.
type endurance struct {
	stall   time.Duration // while something is left to send
	silence time.Duration // when the peer has everything and says nothing
}

// newEndurance returns the endurance for uploads that may take so long in all:
// a silent peer leaves time for further tries.
func newEndurance(timeout time.Duration) endurance {
	return endurance{stall: stallTime, silence: max(stallTime, timeout/4)}
}

// dial connects to an address and watches the connection.
func (e endurance) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: e.stall}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	socket, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &uploadConn{Conn: conn, endurance: e}
	c.watch(socket, 0, time.Now())
	return c, nil
}

// An uploadConn is a connection that is given up when it stands still, and on
// which the peer is heard out when it answers and closes before it has read all.
type uploadConn struct {
	net.Conn  // not as TCPConn, which would let io.Copy pass Write by
	endurance endurance
	stalled   atomic.Pointer[error] // why it was given up
	broken    atomic.Pointer[error] // of Write
}

// watch looks at the connection now and then until it is closed, and closes
// it when it has stood still for too long. What counts is what the peer has
// acknowledged: the kernel takes megabytes long before they move.
func (c *uploadConn) watch(socket syscall.RawConn, moved uint64, since time.Time) {
	time.AfterFunc(c.endurance.stall/15, func() {
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
		longest, state := c.endurance.silence, "no answer"
		if info.Unacked > 0 || info.Notsent_bytes > 0 {
			longest, state = c.endurance.stall, "nothing was taken"
		}
		if time.Since(since) < longest {
			c.watch(socket, moved, since)
			return
		}
		err = fmt.Errorf("%s for %s", state, formatDuration(longest))
		c.stalled.Store(&err)
		c.Close()
	})
}

// Write implements io.Writer. A peer that answers and closes may do so while
// much is still to be sent. Its answer is here then, but whoever hears that
// Write fails no longer asks for it: so Write goes on in vain, and Read
// reports the failure when there is nothing more to read.
func (c *uploadConn) Write(p []byte) (int, error) {
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
func (c *uploadConn) Read(p []byte) (int, error) {
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
