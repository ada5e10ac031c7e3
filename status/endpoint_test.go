package status

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// askEndpoint returns the answer of an endpoint.
func askEndpoint(t *testing.T, e Endpoint, method, path string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	request := httptest.NewRequest(method, path, nil)
	request.Host = "127.0.0.1:9100"
	e.handler().ServeHTTP(w, request)
	answer := w.Result()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// newEndpoint returns the endpoint of a daemon that is subscribed, or is not because of trouble.
func newEndpoint(trouble error) Endpoint {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewBuildInfoCollector())
	return Endpoint{
		Connections: MaxConnections,
		Registry:    registry,
		Health:      func() error { return trouble },
		Remarks:     func() error { return nil },
		Page:        NewPage(func() State { return State{Node: "web1", Trouble: trouble} }),
	}
}

func TestEndpoint(t *testing.T) {
	for _, test := range []struct {
		method, path string
		trouble      error
		status       int
		body         string // part of it
	}{
		{"GET", "/metrics", nil, 200, "go_build_info"},
		{"HEAD", "/metrics", nil, 200, ""},
		{"POST", "/metrics", nil, 405, ""},
		{"GET", "/healthz", nil, 200, "subscribed"},
		{"GET", "/healthz", errors.New("not subscribed: so it goes"), 503, "not subscribed: so it goes"},
		{"DELETE", "/healthz", nil, 405, ""},
		{"GET", "/healthz/", nil, 404, ""},
		{"GET", "/", nil, 200, "<h1>web1</h1>\n<p class=\"good\">subscribed</p>"},
		{"GET", "/", errors.New("not subscribed: so it goes"), 200, "<p class=\"trouble\">not subscribed: so it goes</p>"},
		{"GET", "/?still", nil, 200, "reload every 5 s"},
		{"HEAD", "/", nil, 200, ""},
		{"POST", "/", nil, 405, ""},
		{"PUT", "/?still", nil, 405, ""},
		{"OPTIONS", "/", nil, 405, ""},
		{"GET", "/index.html", nil, 404, ""},
		{"GET", "/nosuch", nil, 404, ""},
		{"POST", "/nosuch", nil, 404, ""},
	} {
		answer, body := askEndpoint(t, newEndpoint(test.trouble), test.method, test.path)
		if answer.StatusCode != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s: want %d and %q, got %d and %q",
				test.method, test.path, test.status, test.body, answer.StatusCode, body)
		}
	}
}

// TestEndpointRemarks: what is about to be wrong is said where nothing is wrong yet.
func TestEndpointRemarks(t *testing.T) {
	e := newEndpoint(nil)
	e.Remarks = func() error { return errors.New("the disk is nearly full") }
	if answer, body := askEndpoint(t, e, "GET", "/healthz"); answer.StatusCode != 200 || body != "subscribed\nthe disk is nearly full\n" {
		t.Errorf("want 200 and the remark, got %d and %q", answer.StatusCode, body)
	}
}

// TestEndpointEnds: the end of the context is a success, that of the listener is not.
func TestEndpointEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(net.Listener, context.CancelFunc)
		want error
	}{
		"context":  {func(_ net.Listener, cancel context.CancelFunc) { cancel() }, nil},
		"listener": {func(l net.Listener, _ context.CancelFunc) { l.Close() }, net.ErrClosed},
	} {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- newEndpoint(nil).Serve(ctx, l) }()
		if test.end(l, cancel); !errors.Is(<-ended, test.want) {
			t.Errorf("%s: want %v", name, test.want)
		}
		cancel()
	}
}

// A busyListener cannot accept at first: no descriptor is left.
type busyListener struct {
	*pipeListener
	tries atomic.Int64
}

// Accept implements net.Listener.
func (l *busyListener) Accept() (net.Conn, error) {
	if l.tries.Add(1) == 1 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.pipeListener.Accept()
}

// TestEndpointLogs: what the server has to say goes to the log that it is given.
func TestEndpointLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &busyListener{pipeListener: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
		var said strings.Builder
		e := newEndpoint(nil)
		e.Log = log.New(&said, "", 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Serve(ctx, l); err != nil || !strings.HasPrefix(said.String(), "http: Accept error: accept: accept4: too many") {
			t.Errorf("want the error in the log, got %v and %q", err, said.String())
		}
	})
}

// TestEndpointHosts: a page of somebody else that calls this host by a name of its own reads nothing.
func TestEndpointHosts(t *testing.T) {
	e := newEndpoint(nil)
	e.Hosts = []string{"web1.example", ""}
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:9100": 200, "[::1]:9100": 200, "[::1]": 200, "localhost:9100": 200, "LOCALHOST": 200,
		"web1.example": 200, "WEB1.example:9100": 200, "": 200, "evil.example:9100": 421, "web1.example.evil.example": 421,
		"127.0.0.1.evil.example": 421, ":9100": 421,
	} {
		for _, path := range []string{"/", "/metrics", "/healthz"} {
			w := httptest.NewRecorder()
			request := httptest.NewRequest("GET", path, nil)
			request.Host = host
			e.handler().ServeHTTP(w, request)
			if w.Code != want {
				t.Errorf("%q %s: want %d, got %d", host, path, want, w.Code)
			}
		}
	}
}

// serveOnPipes serves an endpoint until the test ends, and returns where its connections come from
// and what else is waited for then.
func serveOnPipes(t *testing.T) (l *pipeListener, serving *sync.WaitGroup) {
	t.Helper()
	l, serving = &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}, &sync.WaitGroup{}
	serving.Go(func() { _ = newEndpoint(nil).Serve(t.Context(), l) })
	t.Cleanup(serving.Wait) // the context ends just before
	return l, serving
}

// TestEndpointConnections: as many idle connections as there may be keep nobody out for
// long, and more than those are not taken.
func TestEndpointConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, serving := serveOnPipes(t)
		var taken atomic.Int64
		began := time.Now()
		for range 2 * MaxConnections {
			ours, theirs := net.Pipe()
			defer ours.Close()
			serving.Go(func() {
				select {
				case l.conns <- theirs:
					taken.Add(1)
				case <-t.Context().Done():
				}
			})
		}
		if synctest.Wait(); taken.Load() > MaxConnections {
			t.Errorf("want %d connections taken at most, got %d", MaxConnections, taken.Load())
		}
		for taken.Load() < 2*MaxConnections && time.Since(began) < time.Minute {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("want idle ones closed soon, took %v", took)
		}
	})
}

// TestEndpointClosesConnections: at the end, those who are connected are not waited for.
func TestEndpointClosesConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = newEndpoint(nil).Serve(ctx, l) }()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		synctest.Wait()
		began := time.Now()
		cancel()
		_, err := ours.Read(make([]byte, 1))
		if took := time.Since(began); err == nil || took > 0 {
			t.Errorf("want the connection closed at once, got %v after %v", err, took)
		}
	})
}

// TestEndpointGuards: what a browser must not do with an answer, every answer says.
func TestEndpointGuards(t *testing.T) {
	for _, path := range []string{"/", "/?still", "/metrics", "/healthz", "/nosuch"} {
		answer, body := askEndpoint(t, newEndpoint(nil), "GET", path)
		for name, want := range map[string]string{
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
		} {
			if got := answer.Header.Get(name); got != want {
				t.Errorf("%s: want %s %s, got %q", path, name, want, got)
			}
		}
		style := ""
		if _, css, found := strings.Cut(body, "<style>"); found {
			css, _, _ = strings.Cut(css, "</style>")
			hash := sha256.Sum256([]byte(css))
			style = "style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; "
		}
		want := "default-src 'none'; " + style + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
		if got := answer.Header.Get("Content-Security-Policy"); got != want {
			t.Errorf("%s: want the policy %s, got %s", path, want, got)
		}
	}
}

// TestEndpointOverHTTP: HEAD has no body, and the page says what it is.
func TestEndpointOverHTTP(t *testing.T) {
	server := httptest.NewServer(newEndpoint(nil).handler())
	defer server.Close()
	answer, err := http.Head(server.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || len(body) > 0 {
		t.Errorf("want no body, got %q (%v)", body, err)
	}
	if want, got := "text/html; charset=utf-8", answer.Header.Get("Content-Type"); want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}

// A pipeListener is a listener in memory, whose time may be virtual.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (*pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// A closingConn is a connection that says when it was closed.
type closingConn struct {
	net.Conn
	closed chan<- time.Time
}

// Close implements net.Conn.
func (c closingConn) Close() error {
	select {
	case c.closed <- time.Now():
	default: // it was before
	}
	return c.Conn.Close()
}

// TestEndpointPatience: whoever is slow with a request, or with taking the answer, holds
// one of the connections for a bounded time.
func TestEndpointPatience(t *testing.T) {
	const request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
	for name, test := range map[string]struct {
		sent  string
		reads bool
		want  time.Duration
	}{
		"says nothing":           {"", true, 5 * time.Second},
		"half a request":         {request, true, 5 * time.Second},
		"asks for nothing more":  {request + "\r\n", true, 5 * time.Second},
		"sends no body":          {request + "Content-Length: 100000\r\n\r\n", true, 10 * time.Second},
		"never takes the answer": {request + "\r\n", false, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, serving := serveOnPipes(t)
				ours, theirs := net.Pipe()
				defer ours.Close()
				closed := make(chan time.Time, 1)
				began := time.Now()
				l.conns <- closingConn{theirs, closed}
				_, _ = io.WriteString(ours, test.sent)
				if test.reads {
					serving.Go(func() { _, _ = io.Copy(io.Discard, ours) })
				}
				select {
				case at := <-closed:
					if got := at.Sub(began); got != test.want {
						t.Errorf("want the connection closed after %v, got %v", test.want, got)
					}
				case <-time.After(time.Hour):
					t.Error("the connection is there for ever")
				}
			})
		})
	}
}
