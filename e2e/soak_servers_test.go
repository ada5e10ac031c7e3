//go:build soak

package e2e

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// A soakRedis is an address that leads to one of two servers. Somebody listens
// to the results of both.
type soakRedis struct {
	proxy   *testbed.Proxy
	servers []*testbed.Redis // the first one is where the address leads
	tally   *tally
	ended   chan struct{}
	hearing sync.WaitGroup
}

// startSoakRedis starts the servers. Redis forgets what it has not sent when it
// is killed. So results are let through only while somebody hears them, and no
// more just before a kill.
func startSoakRedis(t *testing.T, c *tally) *soakRedis {
	t.Helper()
	const users = "--user default on nopass ~* resetchannels &capture +@all --user ear on >ear allchannels +@all"
	r := &soakRedis{tally: c, ended: make(chan struct{})}
	for range 2 {
		server := testbed.StartRedis(t, strings.Fields(users)...)
		r.servers = append(r.servers, server)
		r.hear(t, server)
	}
	r.proxy = testbed.StartProxy(t, r.servers[0].Address())
	return r
}

// command returns the command for a daemon that uses the address.
func (r *soakRedis) command(args ...string) *exec.Cmd {
	_, port, _ := strings.Cut(r.proxy.Address, ":")
	return exec.Command(binary, append([]string{"-node", "web1", "-redisport", port}, args...)...)
}

// awaitDaemon waits until the daemon is subscribed, however long it may take
// to notice that a server hangs.
func (r *soakRedis) awaitDaemon(t *testing.T) {
	t.Helper()
	r.servers[0].AwaitSubscribers(t, 25*time.Second, 1)
}

// publish publishes a message.
func (r *soakRedis) publish(t *testing.T, message string) { r.servers[0].Publish(t, message) }

// hear counts what a server has to say of captures from now on, and then lets results through.
func (r *soakRedis) hear(t *testing.T, server *testbed.Redis) {
	t.Helper()
	l := listenAs(t, server, "ear", "ear")
	r.hearing.Go(func() {
		for {
			select {
			case message := <-l.messages:
				r.tally.take(parseResult(message))
			case <-r.ended:
				return
			}
		}
	})
	server.Do(t, "ACL", "SETUSER", "default", "allchannels")
}

// deafen ends hearing.
func (r *soakRedis) deafen() {
	close(r.ended)
	r.hearing.Wait()
}

// kill kills the server and starts it again after a while.
func (r *soakRedis) kill(t *testing.T) {
	t.Helper()
	server := r.servers[0]
	server.Do(t, "ACL", "SETUSER", "default", "resetchannels", "&capture")
	time.Sleep(100 * time.Millisecond)
	server.Signal(t, syscall.SIGKILL)
	server.Wait(t, 5*time.Second)
	time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
	server.Restart(t)
	r.hear(t, server)
	r.awaitDaemon(t)
}

// hang stops the server for a while.
func (r *soakRedis) hang(t *testing.T, during time.Duration) {
	t.Helper()
	r.servers[0].Signal(t, syscall.SIGSTOP)
	time.Sleep(during)
	r.servers[0].Signal(t, syscall.SIGCONT)
	r.awaitDaemon(t)
}

// lie makes the address lead for a while to a server whose answers would need all
// memory, or the whole stack.
func (r *soakRedis) lie(t *testing.T) {
	t.Helper()
	for _, answer := range []string{"$9223372036854775807\r\n", "*4000000000\r\n", strings.Repeat("*1\r\n", 1<<20),
		"+" + strings.Repeat("x", 1<<22)} {
		r.proxy.Lead(startLiar(t, answer))
		r.proxy.Cut()
		time.Sleep(300 * time.Millisecond)
	}
	r.proxy.Lead(r.servers[0].Address())
	r.proxy.Cut()
	r.awaitDaemon(t)
}

// startLiar starts a server that answers everything in one way, until the test ends.
func startLiar(t *testing.T, answer string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				if _, err := io.ReadAtLeast(conn, make([]byte, 512), 1); err == nil {
					_, _ = io.WriteString(conn, answer)
				}
			})
		}
	})
	return listener.Addr().String()
}

// move makes the address lead to the other server, while this one hangs and
// ends no connection. When the daemon has moved, it wakes up.
func (r *soakRedis) move(t *testing.T) {
	t.Helper()
	r.servers[0].Signal(t, syscall.SIGSTOP)
	r.proxy.Lead(r.servers[1].Address())
	r.servers[0], r.servers[1] = r.servers[1], r.servers[0]
	r.awaitDaemon(t)
	r.servers[1].Signal(t, syscall.SIGCONT)
}

// A soakShark is a CloudShark that is sick at times, and always stalls now and then.
type soakShark struct {
	*sharktest.Server
	sick    atomic.Bool
	mu      sync.Mutex
	stalled []net.Conn
}

// startSoakShark starts it.
func startSoakShark(t *testing.T) *soakShark {
	t.Helper()
	s := &soakShark{}
	s.Server = sharktest.Start(t, s.answer)
	t.Cleanup(func() { // before the server ends
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, conn := range s.stalled {
			conn.Close()
		}
	})
	return s
}

// answer may answer instead: an error, a connection that breaks, one that is
// never read, one that is read and never answered.
func (s *soakShark) answer(w http.ResponseWriter, r *http.Request, try int) bool {
	switch {
	case try%50 == 7:
		s.stall(w)
	case try%50 == 32:
		_, _ = io.Copy(io.Discard, r.Body)
		s.stall(w)
	case !s.sick.Load() || try%3 == 0:
		return false
	case try%3 == 1:
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
	}
	return true
}

// stall keeps a connection and does nothing with it.
func (s *soakShark) stall(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = append(s.stalled, conn)
}
