package pubsub

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"pcapdaemon/testbed"
)

// checkLeftOpen expects so many connections at a server, soon, beside the one that asks.
func checkLeftOpen(t *testing.T, r *testbed.Redis, want int) {
	t.Helper()
	var got int
	testbed.Eventually(t, 30*time.Second, "all other connections are closed", func() bool {
		got = len(testbed.ReadLines(string(r.Do(t, "CLIENT", "LIST").([]byte)))) - 1
		return got == want
	})
}

// TestNothingIsLeftOpen: what was used, refused or given up is closed.
func TestNothingIsLeftOpen(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	ctx, cancel := context.WithCancel(context.Background()) // outlives all of it
	defer cancel()
	client := startClient(t, reach(r))
	for range 3 {
		if _, err := client.Publish(ctx, []byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := (&Server{Addresses: reach(r).Addresses, Password: "wrong"}).dial(ctx); err == nil {
			t.Error("want a wrong password refused")
		}
	}
	checkLeftOpen(t, r, 1) // on which the client hears
}

// TestStrangersAreLeft: who is not believed, or refuses, keeps no connection, and is left alone where nobody goes on.
func TestStrangersAreLeft(t *testing.T) {
	t.Parallel()
	r, secured := startTLSRedis(t, testbed.NewCA(t))
	stranger := startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, "+NO\r\n") })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, test := range map[string]struct {
		to  string
		use func(address string) error
	}{
		"another certificate": {secured, func(address string) error {
			_, err := (&Server{Addresses: []string{address}, TLS: true}).dial(ctx)
			return err
		}},
		"one of several": {stranger, func(address string) error {
			conn, err := (&Server{Addresses: []string{address, r.Address()}}).dial(ctx)
			if err == nil {
				defer conn.Close()
				err = ping(conn, pingPeriod)
			}
			return cmp.Or(err, errLost) // the other one is not what this is about
		}},
		"a publisher that is refused": {r.Address(), func(address string) error {
			r.Do(t, "ACL", "SETUSER", "host", "on", "nopass", "-@all", "+ping")
			p := &Publisher{server: &Server{Addresses: []string{address}, User: "host"}, checked: make(chan struct{})}
			p.queue.push([]byte("x"))
			_, err := p.open(ctx)
			return err
		}},
		"no client": {r.Address(), func(address string) error {
			_, err := NewClient(ctx, &Server{Addresses: []string{address}, Password: "wrong"}, "capture", resultChannel)
			time.Sleep(300 * time.Millisecond) // the next attempt would come
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			address, opened, open := countConnections(t, test.to)
			if err := test.use(address); err == nil {
				t.Error("want an error")
			}
			testbed.Eventually(t, 30*time.Second, "its connection is closed", func() bool { return open() == 0 })
			if n := opened(); n != 1 {
				t.Errorf("want one connection, got %d", n)
			}
		})
	}
}

// TestReplicaIsLeft: a server that is no master keeps no connection, and what is closed is not watched.
func TestReplicaIsLeft(t *testing.T) {
	t.Parallel()
	master := testbed.StartRedis(t)
	replica := testbed.StartRedis(t, "--replicaof", "127.0.0.1", fmt.Sprint(master.Port))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 3 {
		server := &Server{Addresses: []string{lie(t, replica.Address())}, Master: testbed.MasterName}
		if _, err := server.dial(ctx); !mentions(err, "is no master but a slave") {
			t.Errorf("want the replica refused, got %v", err)
		}
	}
	server := &Server{Addresses: []string{lie(t, master.Address())}, Master: testbed.MasterName}
	for range 3 {
		conn, err := server.dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	server.watch.mu.Lock()
	watched := len(server.watch.members)
	server.watch.mu.Unlock()
	if watched > 0 {
		t.Errorf("want nothing watched, got %d connections", watched)
	}
	testbed.Eventually(t, 30*time.Second, "the replica has its master alone", func() bool {
		return len(testbed.ReadLines(string(replica.Do(t, "CLIENT", "LIST", "TYPE", "normal").([]byte)))) == 1
	})
}

// TestSentinelIsLeft: a sentinel that names what cannot be followed, later, keeps no connection, and neither does
// what it names.
func TestSentinelIsLeft(t *testing.T) {
	t.Parallel()
	master := testbed.StartRedis(t)
	var named atomic.Pointer[string]
	name := func(address string) { named.Store(&address) }
	name(master.Address())
	sentinel := startFakeServer(t, func(to io.Writer, _ []string) {
		host, port, _ := net.SplitHostPort(*named.Load())
		fmt.Fprintf(to, "*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(host), host, len(port), port)
	})
	address, opened, open := countConnections(t, sentinel)
	conn, err := (&Server{Addresses: []string{address}, Master: testbed.MasterName}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testbed.Eventually(t, 30*time.Second, "it is asked again", func() bool { return opened() == 2 && open() == 1 })
	stranger, asked, kept := countConnections(t, startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, "+NO\r\n") }))
	name(stranger)
	testbed.Eventually(t, 30*time.Second, "both are left", func() bool {
		return opened() > 2 && open() == 0 && asked() > 1 && kept() == 0
	})
}

// countConnections passes connections on to an address, and returns how many there were, and are.
func countConnections(t *testing.T, to string) (address string, opened, open func() int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var all, now atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Add(1)
			now.Add(1)
			go func() {
				defer now.Add(-1)
				defer conn.Close()
				behind, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer behind.Close()
				go func() { _, _ = io.Copy(conn, behind) }()
				_, _ = io.Copy(behind, conn)
			}()
		}
	}()
	return listener.Addr().String(), all.Load, now.Load
}

// TestConnectionIsForgotten: a connection that is closed is not kept by its context, which may be
// that of the whole program.
func TestConnectionIsForgotten(t *testing.T) {
	r := testbed.StartRedis(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	open := func() weak.Pointer[net.TCPConn] {
		conn, err := reach(r).connect(ctx, r.Address())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		return weak.Make(conn.(boundConn).Conn.(*net.TCPConn))
	}
	kept := open()
	testbed.Eventually(t, 30*time.Second, "the connection is forgotten", func() bool {
		runtime.GC()
		return kept.Value() == nil
	})
}
