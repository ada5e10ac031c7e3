package pubsub

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
	"weak"

	"pcapdaemon/testbed"
)

// checkLeftOpen expects so many connections at a server, soon, beside the one that asks.
func checkLeftOpen(t *testing.T, r *testbed.Redis, want int) {
	t.Helper()
	var got int
	testbed.Eventually(t, 3*time.Second, "all other connections are closed", func() bool {
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
	testbed.Eventually(t, 3*time.Second, "the replica has its master alone", func() bool {
		return len(testbed.ReadLines(string(replica.Do(t, "CLIENT", "LIST", "TYPE", "normal").([]byte)))) == 1
	})
}

// TestSentinelIsLeft: a sentinel that names what cannot be followed keeps no connection.
func TestSentinelIsLeft(t *testing.T) {
	t.Parallel()
	master := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, lie(t, master.Address()))
	server := &Server{Addresses: []string{proxy.Address}, Master: testbed.MasterName}
	conn, err := server.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	closed := make(chan bool, 10)
	proxy.Lead(lieAndTell(t, testbed.DeadAddress(t), closed))
	proxy.Cut()
	select {
	case <-closed:
	case <-time.After(3*watchPeriod + 2*time.Second):
		t.Error("want the connection closed before another one is opened")
	}
}

// lieAndTell is lie, and tells of each connection that is closed.
func lieAndTell(t *testing.T, address string, closed chan<- bool) string {
	t.Helper()
	to := lie(t, address)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				behind, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer behind.Close()
				go func() { _, _ = io.Copy(conn, behind) }()
				_, _ = io.Copy(behind, conn)
				select {
				case closed <- true:
				default:
				}
			}()
		}
	}()
	return listener.Addr().String()
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
	testbed.Eventually(t, 3*time.Second, "the connection is forgotten", func() bool {
		runtime.GC()
		return kept.Value() == nil
	})
}
