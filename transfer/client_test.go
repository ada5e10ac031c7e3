package transfer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// send sends a content to an address.
func send(t *testing.T, address string, content []byte) (Answer, error) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(nil, false, NewStallTimeouts(time.Minute)).Send(t.Context(), Request{Method: http.MethodPut, Address: u,
		Header: http.Header{"Authorization": {"s3cret"}}, Length: int64(len(content)),
		Body: func() io.Reader { return bytes.NewReader(content) }})
}

// TestRedirections: the same method, scheme and host get all of the request again, and
// nobody else sees anything of it.
func TestRedirections(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for name, test := range map[string]struct {
		code     int
		location string // HOST is the server's own
		want     int
	}{
		"a path":             {307, "/b?x=y", 200},
		"the whole address":  {308, "http://HOST/b", 200},
		"with a user":        {308, "http://a:b@HOST/b", 200},
		"without end":        {307, "/a", 307},
		"another method":     {303, "/b", 303},
		"another host":       {307, other.URL + "/b", 307},
		"another port":       {307, "http://127.0.0.1:9/b", 307},
		"another scheme":     {307, "https://HOST/b", 307},
		"nowhere":            {307, "%zz", 307},
		"no location at all": {308, "", 308},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				content, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPut || string(content) != "content" || r.Header.Get("Authorization") != "s3cret" {
					t.Errorf("want all of it, got %s %q %v", r.Method, content, r.Header)
				}
				if r.URL.Path == "/b" {
					return
				}
				w.Header().Set("Location", strings.ReplaceAll(test.location, "HOST", r.Host))
				w.WriteHeader(test.code)
			}))
			defer s.Close()
			answer, err := send(t, s.URL+"/a", []byte("content"))
			if err != nil || answer.Code != test.want {
				t.Errorf("want %d, got %d, %v", test.want, answer.Code, err)
			}
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("somebody else was asked")
	}
}

// TestConnectionsAreNotKept: one that waits for the next transfer would be stale by then.
func TestConnectionsAreNotKept(t *testing.T) {
	var connections atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	address, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(nil, false, NewStallTimeouts(time.Minute))
	for range 3 {
		request := Request{Method: http.MethodPut, Address: address, Header: http.Header{}, Length: 1,
			Body: func() io.Reader { return strings.NewReader("x") }}
		if answer, err := client.Send(t.Context(), request); err != nil || string(answer.Body) != "x" {
			t.Errorf("want the content back, got %q, %v", answer.Body, err)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("want a connection for each of 3 requests, got %d", n)
	}
}

// TestAnswerWithoutEnd: what a server says is read to a bound, whatever it says.
func TestAnswerWithoutEnd(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("x", 1<<10)
	for name, test := range map[string]struct{ start, piece string }{
		"fields":           {"HTTP/1.1 200 OK\r\n", "X-Y: " + filler + "\r\n"},
		"interim answers":  {"", "HTTP/1.1 103 Early Hints\r\nX: " + filler + "\r\n\r\n"},
		"one long line":    {"HTTP/1.1 200 OK\r\nX: ", filler},
		"one long status":  {"HTTP/1.1 200 ", filler},
		"one long body":    {"HTTP/1.1 200 OK\r\n\r\n", filler},
		"one long trailer": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\nx\r\n0\r\nX: ", filler},
		"one long chunk":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", filler},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			sent := make(chan int64, 1)
			go func() {
				total := int64(0)
				defer func() { sent <- total }()
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body) // success is believed after that
				_, _ = io.WriteString(conn, test.start)
				for range 64 << 10 { // 64 MiB
					n, err := io.WriteString(conn, test.piece)
					if total += int64(n); err != nil {
						return
					}
				}
			}()
			answer, _ := send(t, "http://"+listener.Addr().String(), []byte("content"))
			if len(answer.Body) > maxBody {
				t.Errorf("got a body of %d bytes", len(answer.Body))
			}
			answered := time.Now()
			// What the kernel holds on its way counts as sent, too.
			if got := <-sent; got > 8<<20 {
				t.Errorf("%d bytes were taken", got)
			}
			if took := time.Since(answered); took > stallTime/2 {
				t.Errorf("want the connection closed with the answer, took %v", took)
			}
		})
	}
}

// TestEarlySuccess: who answers before having read everything has not stored it, but may refuse it.
func TestEarlySuccess(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, status := range []string{"201 Created", "403 Forbidden"} {
		answered, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 10))
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
			<-answered
		}()
		answer, err := send(t, "http://"+listener.Addr().String()+"/a", make([]byte, 64<<20))
		close(answered)
		<-done
		if isEarly := err != nil && strings.Contains(err.Error(), "before all was sent"); isEarly != (status[0] == '2') {
			t.Errorf("%s: got %d, %v", status, answer.Code, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for said, want := range map[string]string{
		"no a%2fb here": "no <secret> here", "?x=c+d": "?x=<secret>", "/c%20d": "/<secret>", "a/b, A%2FB and c": "<secret>, <secret> and <secret>", "nothing": "nothing",
	} {
		if got := Redact(said, "<secret>", "c d", "a/b", "", "c"); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	if got := Redact("nothing", "<secret>"); got != "nothing" {
		t.Errorf("want nothing changed, got %q", got)
	}
	err := Redacted(backoff.Permanent(fmt.Errorf("no %w", errors.New("s3cret"))), func(s string) string {
		return Redact(s, "<secret>", "s3cret")
	})
	if !errors.As(err, new(*backoff.PermanentError)) || err.Error() != "no <secret>" {
		t.Errorf("want it permanent, and without secret, got %v", err)
	}
}

// TestBodyIsTakenAway: nothing is read of a body after it was closed, when its memory may be another's.
func TestBodyIsTakenAway(t *testing.T) {
	b := &body{reader: strings.NewReader("content")}
	if n, err := b.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Errorf("want 3 bytes, got %d, %v", n, err)
	}
	b.Close()
	if n, err := b.Read(make([]byte, 3)); n != 0 || !errors.Is(err, os.ErrClosed) || b.taken() != 3 {
		t.Errorf("want no more, got %d, %v, and %d in all", n, err, b.taken())
	}
}
