package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// startServer serves each connection with a function that is told how many
// came before it, until the test ends.
func startServer(t *testing.T, listener net.Listener, serve func(net.Conn, int64)) string {
	t.Helper()
	t.Cleanup(func() { listener.Close() })
	go func() {
		for before := int64(0); ; before++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go serve(conn, before)
		}
	}()
	return listener.Addr().String()
}

// listen opens a port of the loopback interface.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// join copies between two connections until one of them ends.
func join(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	go func() { _, _ = io.Copy(a, b) }()
	_, _ = io.Copy(b, a)
}

// TestUploadStalls: a first connection that stands still is given up, and the second one works.
func TestUploadStalls(t *testing.T) {
	t.Parallel()
	const stall, silence = 400 * time.Millisecond, 2 * time.Second
	for name, test := range map[string]struct {
		size   int
		behave func(net.Conn) // until it returns
		want   string
		least  time.Duration
	}{
		"never reads":   {10 << 20, func(net.Conn) {}, "nothing was taken for 400ms", stall},
		"stops reading": {10 << 20, func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 2<<20) }, "nothing was taken", stall},
		"never answers": {1000, func(c net.Conn) { go io.Copy(io.Discard, c) }, "no answer for 2s", silence},
		"takes all, never answers": {10 << 20, func(c net.Conn) { go io.Copy(io.Discard, c) },
			"no answer for 2s", silence},
		"half an answer": {1000, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1)) // not before it was asked
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
			go io.Copy(io.Discard, c)
		}, "read answer: no answer for 2s", silence},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharktest.Start(t, nil)
			c := testCloudshark(s)
			c.host = startServer(t, listen(t), func(conn net.Conn, before int64) {
				if before == 0 {
					test.behave(conn)
					return
				}
				if to, err := net.Dial("tcp", s.Address()); err == nil {
					join(conn, to)
				}
			})
			c.client = newUploadClient(nil, false, endurance{stall, silence})
			told := &retryObserver{}
			c.observer = told
			r, content := newCaptureFile(test.size)
			began := time.Now()
			if _, err := c.store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < test.least {
				t.Errorf("want the peer waited for for %v, got %v in all", test.least, took)
			}
			if len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), test.want) {
				t.Errorf("want %q once, got %v", test.want, told.retries)
			}
			if uploads := s.Received(); len(uploads) != 1 || !bytes.Equal(content, uploads[0].Content) {
				t.Error("want the whole content once")
			}
		})
	}
}

// TestUploadIsSlow: a peer that reads slowly, but reads, is never given up,
// although the kernel has taken everything long before.
func TestUploadIsSlow(t *testing.T) {
	t.Parallel()
	s := sharktest.Start(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		for range 30 {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			time.Sleep(50 * time.Millisecond)
		}
		return false
	})
	c := testCloudshark(s)
	c.client = newUploadClient(nil, false, endurance{700 * time.Millisecond, 700 * time.Millisecond})
	told := &retryObserver{}
	c.observer = told
	r, _ := newCaptureFile(3_000_100)
	_, err := c.store(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "400") || len(told.retries) > 0 {
		t.Errorf("want the answer to a form that was half read, and no retry, got %v after %v", err, told.retries)
	}
}

// TestUploadProxyIsSilent: a proxy that takes the request for a connection and
// says nothing is given up like any other silent peer.
func TestUploadProxyIsSilent(t *testing.T) {
	t.Parallel()
	ca := testbed.NewCA(t)
	s := sharktest.StartTLS(t, ca)
	proxy := startServer(t, listen(t), func(conn net.Conn, before int64) {
		if before == 0 {
			return
		}
		_, _ = conn.Read(make([]byte, 4096))
		if to, err := net.Dial("tcp", s.Address()); err == nil {
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
			join(conn, to)
		}
	})
	c := testCloudshark(s)
	told := &retryObserver{}
	c.scheme, c.observer = "https", told
	c.client = newUploadClient(nil, true, endurance{500 * time.Millisecond, time.Second})
	c.client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	r, _ := newCaptureFile(1000)
	if _, err := c.store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), "no answer for 1s") {
		t.Errorf("want one silent connection, got %v", told.retries)
	}
}

// TestUploadEarlyAnswer: what a server says before it closes in the middle of
// the body is heard, every time.
func TestUploadEarlyAnswer(t *testing.T) {
	t.Parallel()
	ca := testbed.NewCA(t)
	certificate, err := tls.LoadX509KeyPair(ca.Issue(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		scheme string
		wrap   func(net.Listener) net.Listener
		answer string
		want   string
	}{
		"http": {"http", func(l net.Listener) net.Listener { return l },
			"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", `401 Unauthorized: "no"`},
		"http, the end is the close": {"http", func(l net.Listener) net.Listener { return l },
			"HTTP/1.1 403 Forbidden\r\n\r\nno", `403 Forbidden: "no"`},
		"https": {"https", func(l net.Listener) net.Listener {
			return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", `401 Unauthorized: "no"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int64
			host := startServer(t, test.wrap(listen(t)), func(conn net.Conn, _ int64) {
				connections.Add(1)
				_, _ = io.ReadFull(conn, make([]byte, 500)) // and no more
				fmt.Fprint(conn, test.answer)
				conn.Close()
			})
			r, _ := newCaptureFile(4 << 20)
			for run := range int64(200) {
				c := &cloudshark{scheme: test.scheme, host: host, token: sharktest.Token, timeout: 10 * time.Second,
					client: newUploadClient(nil, true, newEndurance(time.Minute)), observer: &retryObserver{}}
				_, err := c.store(t.Context(), r)
				if err == nil || !strings.Contains(err.Error(), test.want) || connections.Load() != run+1 {
					t.Fatalf("run %d: want %s at once, got %v after %d tries", run, test.want, err, connections.Load()-run)
				}
			}
		})
	}
}
