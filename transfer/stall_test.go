package transfer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestStallInTheNetwork: what was sent and is not acknowledged has not been taken,
// though the kernel has nothing left to send.
func TestStallInTheNetwork(t *testing.T) {
	t.Parallel()
	near, far := testbed.NewNamespace(t, "stall"), testbed.NewNamespace(t, "stallfar")
	near.Pair(t, far)
	var listener net.Listener
	var err error
	far.Do(t, func() { listener, err = net.Listen("tcp", "10.99.0.2:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var conn net.Conn
	timeouts := StallTimeouts{Stall: 2 * time.Second, Answer: 30 * time.Second}
	testbed.Eventually(t, 30*time.Second, "a connection over a new link", func() bool {
		near.Do(t, func() { conn, err = timeouts.Dial(t.Context(), "tcp", listener.Addr().String()) })
		return err == nil
	})
	defer conn.Close()
	// A wrong address of the next hop: nobody says that nothing arrives.
	near.IP(t, "neigh", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "v0")
	if _, err := conn.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "nothing was taken for 2s") {
		t.Errorf("want it given up, got %v", err)
	}
	began := time.Now()
	near.Do(t, func() {
		_, err = StallTimeouts{Stall: 100 * time.Millisecond}.Dial(t.Context(), "tcp", listener.Addr().String())
	})
	if took := time.Since(began); err == nil || took > 10*time.Second { // the kernel would try for two minutes
		t.Errorf("want no connection, and that soon, got %v after %v", err, took)
	}
}

// TestSlowAnswer: a peer that has everything and answers bit by bit is not given up.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const bits = 30
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for range bits {
			time.Sleep(100 * time.Millisecond)
			fmt.Fprint(conn, "x")
		}
	}()
	timeouts := StallTimeouts{Stall: 1500 * time.Millisecond, Answer: 2 * time.Second}
	conn, err := timeouts.Dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || len(got) != bits {
		t.Errorf("want %d bytes, got %q, %v", bits, got, err)
	}
}

// TestStallTimeouts: who has everything and works on it has a part of all the time, and more than the network.
func TestStallTimeouts(t *testing.T) {
	for all, answer := range map[time.Duration]time.Duration{5 * time.Minute: 75 * time.Second, time.Second: stallTime} {
		if got, want := NewStallTimeouts(all), (StallTimeouts{Stall: stallTime, Answer: answer}); got != want {
			t.Errorf("%v: want %v, got %v", all, want, got)
		}
	}
}

// TestClosedIsSaid: who writes to a connection that was closed here is told, and does not go on for ever.
func TestClosedIsSaid(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := NewStallTimeouts(time.Minute).Dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("want %v, got %v", net.ErrClosed, err)
	}
}
