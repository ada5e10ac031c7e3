package pubsub

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// swallow makes 127.0.0.2 swallow what wants to connect to a port, as a host does
// that is gone: its listener takes nobody any more (listen(2), backlog).
func swallow(t *testing.T, port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 2}})
	if err == nil {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprint("127.0.0.2:", port)
	for range 3 {
		conn, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("a full listener accepts")
}

func TestConnectAny(t *testing.T) {
	r := testbed.StartRedis(t, "--bind", "127.0.0.1")
	swallow(t, r.Port)
	const one, silent, refusing = "127.0.0.1", "127.0.0.2", "127.0.0.3"
	for name, test := range map[string]struct {
		addresses string
		took      time.Duration // a little more
		fails     bool
	}{
		"one":                    {one, 0, false},
		"refused, then one":      {refusing + " " + one, 0, false},
		"silent, then one":       {silent + " " + one, headStart, false},
		"two silent, then one":   {silent + " " + silent + " " + one, 2 * headStart, false},
		"one, and others silent": {one + " " + silent, 0, false},
		"refused":                {refusing + " " + refusing, 0, true},
		"silent":                 {silent, connectTimeout, true},
		"silent, and refused":    {silent + " " + refusing, connectTimeout, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			conn, err := connectAny(t.Context(), strings.Fields(test.addresses), strconv.Itoa(r.Port))
			late := time.Since(began) - test.took
			if (err != nil) != test.fails || late < 0 || late > time.Second {
				t.Errorf("want failure %v after %v, got %v, %v late", test.fails, test.took, err, late)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}

// TestConnectByName: the time for connecting does not include the look-up.
func TestConnectByName(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	server := &Server{Addresses: []string{fmt.Sprint("redis.example:", r.Port)}}
	server.names.resolve = answerAfter(connectTimeout+time.Second, "127.0.0.1")
	conn, err := server.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// TestConnectLimitsSilence: what is sent and not acknowledged ends the connection in time, and so
// does a peer that is gone while nothing is sent.
func TestConnectLimitsSilence(t *testing.T) {
	r := testbed.StartRedis(t)
	conn, err := reach(r).connect(t.Context(), r.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	socket, err := conn.(boundConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	seconds := int(pingPeriod.Seconds())
	for _, option := range []struct {
		name              string
		level, opt, value int
	}{
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((pingPeriod + pongMargin).Milliseconds())},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 2},
	} {
		var got int
		var failure error
		if err := socket.Control(func(fd uintptr) {
			got, failure = unix.GetsockoptInt(int(fd), option.level, option.opt)
		}); err != nil || failure != nil || got != option.value {
			t.Errorf("%s: want %d, got %d, %v, %v", option.name, option.value, got, err, failure)
		}
	}
}
