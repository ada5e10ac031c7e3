package pubsub

import (
	"context"

	"github.com/gomodule/redigo/redis"
)

// A link is a connection to the node of a server that has a key. It is opened when
// it is needed, kept, and replaced when it breaks. It is used from one goroutine.
type link struct {
	server *Server
	ctx    context.Context // of the link's own; its end closes the connection
	end    context.CancelFunc

	conn    redis.Conn // nil: none
	release context.CancelFunc
	alive   func() // to be called when the server has answered, by work that takes long
}

// newLink returns a link that lives until close, also beyond the end of ctx.
func (s *Server) newLink(ctx context.Context) *link {
	l := &link{server: s}
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	return l
}

// do calls work with a connection, with another one if that breaks, until the context ends,
// or until the server has been away for 30 s. It tells work whether the connection is a new one.
func (l *link) do(ctx context.Context, work func(conn redis.Conn, isNew bool) error) error {
	return retry(ctx, func(alive func()) (passing bool, err error) {
		l.alive = alive
		return l.attempt(ctx, work)
	})
}

// attempt calls work once, or as often as a cluster sends it on to another node.
// After any error the connection is not used again.
func (l *link) attempt(ctx context.Context, work func(redis.Conn, bool) error) (passing bool, err error) {
	address := "" // any
	for hop := 0; ; hop++ {
		isNew := l.conn == nil
		if isNew {
			if err := l.open(ctx, address); err != nil {
				return isPassing(err, true), err
			}
		}
		stop := context.AfterFunc(ctx, l.release)
		err := work(l.conn, isNew)
		if ended := !stop(); err == nil {
			if ended { // and has closed the connection
				l.drop()
			}
			return false, nil
		}
		broken := l.conn.Err() != nil
		l.drop()
		if address = movedTo(err); address == "" || hop == maxHops {
			return isPassing(err, broken), err
		}
	}
}

// open opens the connection, to an address if there is one.
func (l *link) open(ctx context.Context, address string) (err error) {
	bound, release := context.WithCancel(l.ctx)
	defer context.AfterFunc(ctx, release)()
	var conn redis.Conn
	if address == "" {
		conn, err = l.server.dial(bound)
	} else {
		conn, err = l.server.open(bound, address, l.server.User, l.server.Password)
	}
	if err != nil {
		release()
		return err
	}
	l.conn, l.release = conn, release
	return nil
}

// drop closes the connection.
func (l *link) drop() {
	l.conn.Close()
	l.release()
	l.conn, l.release = nil, nil
}

// close closes the link for good.
func (l *link) close() {
	if l.conn != nil {
		l.drop()
	}
	l.end()
}
