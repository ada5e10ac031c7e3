package testbed

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy is an address that leads to a server, and later to another one.
type Proxy struct {
	Address string // host:port

	mu     sync.Mutex
	target string
	delay  time.Duration
	open   map[net.Conn]bool
}

// StartProxy starts a proxy that leads to a target, until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), target: target, open: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.Lead("")
		p.Cut()
		serving.Wait()
	})
	return p
}

// Lead sends new connections to another target; to none if it is empty.
func (p *Proxy) Lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Delay holds back, from now on, what goes either way.
func (p *Proxy) Delay(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// Cut closes all connections that are open.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		conn.Close()
	}
}

// serve passes on what comes from a connection and what is answered.
func (p *Proxy) serve(near net.Conn) {
	defer near.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	far, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	p.mu.Lock()
	p.open[near], p.open[far] = true, true
	p.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { p.pass(near, far) })
	p.pass(far, near)
	back.Wait()
	p.mu.Lock()
	delete(p.open, near)
	delete(p.open, far)
	p.mu.Unlock()
}

// pass copies one direction, and closes both ends when it ends.
func (p *Proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		p.mu.Lock()
		delay := p.delay
		p.mu.Unlock()
		time.Sleep(delay)
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}
