package pubsub

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// lookupTimeout is the time for the first look-up of a name. Resolvers need
	// more than connecting may take when their first name server is dead.
	lookupTimeout = 10 * time.Second
	// freshTimeout is how long the addresses of a name that was looked up before
	// wait for newer ones. It is part of the time for reconnecting.
	freshTimeout = 250 * time.Millisecond
)

// names looks names up and remembers their addresses, so that a server is
// reached again while the name server is dead. The zero value is ready for use.
type names struct {
	resolve resolver // nil: the system's

	mu      sync.Mutex
	known   map[string][]string  // addresses by name
	pending map[string]*question // by name
}

// A resolver looks a name up.
type resolver func(ctx context.Context, name string) (addresses []string, err error)

// A question to the name servers may outlast who asks: the answer is for the next time then.
type question struct {
	answered  chan struct{}
	addresses []string
	err       error
}

// addresses returns what a host name stands for; an address stands for itself.
func (n *names) addresses(ctx context.Context, name string) ([]string, error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return []string{name}, nil
	}
	known, question := n.ask(name)
	var enough <-chan time.Time
	if known != nil {
		enough = time.After(freshTimeout)
	}
	select {
	case <-question.answered:
		if question.err != nil && known != nil {
			return known, nil
		}
		return question.addresses, question.err
	case <-enough:
		return known, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask returns the addresses from before and a question for newer ones.
func (n *names) ask(name string) (known []string, q *question) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known, n.pending = map[string][]string{}, map[string]*question{}
	}
	q = n.pending[name]
	if q == nil {
		q = &question{answered: make(chan struct{})}
		n.pending[name] = q
		resolve := n.resolve
		if resolve == nil {
			resolve = net.DefaultResolver.LookupHost
		}
		go n.answer(name, q, resolve) // ends with the look-up's own time
	}
	return n.known[name], q
}

// answer looks a name up.
func (n *names) answer(name string, q *question, resolve resolver) {
	defer close(q.answered)
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	q.addresses, q.err = resolve(ctx, name)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pending, name)
	if q.err == nil {
		n.known[name] = q.addresses
	}
}
