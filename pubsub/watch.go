package pubsub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// watchPeriod is how often the sentinels are asked while there are connections.
const watchPeriod = 2 * time.Second

// errMoved says that a connection leads to a server that is not the master any more.
var errMoved = errors.New("the master is another one now")

// A watch asks the sentinels again and again while there are connections to the
// master, and closes those to a former one. A master that hangs leaves its connections
// open when another one takes over, and after a switch-over by hand it answers for
// some time as if nothing were. The zero value is ready for use.
type watch struct {
	mu      sync.Mutex
	members map[*member]bool
	stop    func() // ends the asking and waits for that
}

// A member is a connection that is watched.
type member struct {
	address string
	cancel  context.CancelCauseFunc // closes it
}

// join watches a connection to an address until leave is called.
func (w *watch) join(s *Server, address string, cancel context.CancelCauseFunc) (leave func()) {
	m := &member{address, cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.members) == 0 {
		w.members = map[*member]bool{}
		w.start(s)
	}
	w.members[m] = true
	return func() { w.leave(m) }
}

// leave ends the watching of a connection, and the asking with the last one.
func (w *watch) leave(m *member) {
	w.mu.Lock()
	was := w.members[m]
	delete(w.members, m)
	stop := w.stop
	last := was && len(w.members) == 0
	w.mu.Unlock()
	if last {
		stop()
	}
}

// start begins the asking. The caller holds the lock.
func (w *watch) start(s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.stop = func() {
		cancel()
		<-done
	}
	go func() {
		defer close(done)
		w.run(ctx, s)
	}()
}

// run asks until the context ends. As long as nobody knows a better master, all stays as it is.
func (w *watch) run(ctx context.Context, s *Server) {
	var sentinel redis.Conn
	defer func() {
		if sentinel != nil {
			sentinel.Close()
		}
	}()
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if sentinel != nil {
			address, err := s.ask(sentinel)
			if err == nil {
				err = w.follow(ctx, s, address)
			}
			if err == nil {
				continue
			}
			sentinel.Close()
		}
		sentinel, _ = s.consult(ctx, func(address string) error { return w.follow(ctx, s, address) })
	}
}

// follow closes the connections that do not lead to the master that a sentinel
// names. If there are any, that one has to say first that it is the master.
func (w *watch) follow(ctx context.Context, s *Server, master string) error {
	astray := w.astray(master)
	if len(astray) == 0 {
		return nil
	}
	conn, err := s.open(ctx, master, s.User, s.Password)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := checkMaster(conn); err != nil {
		return err
	}
	for _, m := range astray {
		m.cancel(fmt.Errorf("%w: %s", errMoved, master))
	}
	return nil
}

// astray returns the connections that lead elsewhere.
func (w *watch) astray(master string) (members []*member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for m := range w.members {
		if m.address != master {
			members = append(members, m)
		}
	}
	return members
}
