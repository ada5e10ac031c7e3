package object

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapdaemon/store"
	"pcapdaemon/testbed"
)

// A double is a web server that takes PUT, or an S3 service, and keeps what it got.
type double struct {
	*httptest.Server
	// answer may answer instead, and reports whether it has. Tries are counted from 1.
	answer func(w http.ResponseWriter, r *http.Request, try int) bool

	mu      sync.Mutex
	tries   int
	objects map[string][]byte // by path
	headers map[string]http.Header
}

// startDouble starts a double; answer may be nil.
func startDouble(t *testing.T, answer func(http.ResponseWriter, *http.Request, int) bool) *double {
	t.Helper()
	d := &double{answer: answer, objects: map[string][]byte{}, headers: map[string]http.Header{}}
	d.Server = httptest.NewServer(d)
	t.Cleanup(func() {
		d.CloseClientConnections()
		d.Close()
	})
	return d
}

// ServeHTTP implements http.Handler.
func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.tries++
	try := d.tries
	d.mu.Unlock()
	if d.answer != nil && d.answer(w, r, try) {
		return
	}
	content, err := io.ReadAll(r.Body)
	d.mu.Lock()
	defer d.mu.Unlock()
	_, taken := d.objects[r.URL.EscapedPath()]
	switch {
	case err != nil || r.Method != http.MethodPut || r.ContentLength != int64(len(content)):
		w.WriteHeader(http.StatusBadRequest)
	case taken && r.Header.Get("If-None-Match") == "*":
		w.WriteHeader(http.StatusPreconditionFailed)
	default:
		d.objects[r.URL.EscapedPath()], d.headers[r.URL.EscapedPath()] = content, r.Header
		w.WriteHeader(http.StatusCreated)
	}
}

// count returns how many requests came.
func (d *double) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries
}

// An observer keeps what it is told of tries that failed.
type observer struct {
	mu      sync.Mutex
	retries []error
	waits   []time.Duration
	first   func() // is called for the first one; nil: nothing is
}

// Delivered implements store.Observer.
func (*observer) Delivered(string, time.Duration, error) {}

// Retried implements store.Observer.
func (o *observer) Retried(to string, _ store.File, err error, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first != nil && len(o.retries) == 0 {
		o.first()
	}
	o.retries, o.waits = append(o.retries, fmt.Errorf("%s: %w", to, err)), append(o.waits, wait)
}

// Removed implements store.Observer.
func (*observer) Removed([]string, int64) {}

// Troubled implements store.Observer.
func (*observer) Troubled(error) {}

// newFile returns a capture file of size bytes, and them.
func newFile(size int) (store.File, []byte) {
	content := testbed.RandomBytes(size)
	return store.File{
		ID: "r1", Name: "web1-eth0.pcap", Size: int64(size), Tags: []string{"a", "b", "customer:A_B", "node:web1"},
		Labels:   []store.Label{{Name: "node", Value: "web1"}, {Name: "customer", Value: "A,B"}},
		Comments: "filter: none", Content: func() io.Reader { return bytes.NewReader(content) },
	}, content
}

// newDestination returns a destination that gives up after some seconds, and who is
// told of its tries.
func newDestination(t *testing.T, address string, o Options) (*Destination, *observer) {
	t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	told := &observer{}
	o.Observer, o.Agent = told, "pcapdaemon/test"
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	return New(a, o), told
}

// TestPut: what is sent, and what is said of it.
func TestPut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		address func(host string) string
		token   string
		want    string // Authorization
	}{
		"nobody":       {func(host string) string { return "http://" + host + "/a%20b/c" }, "", ""},
		"a user":       {func(host string) string { return "http://u:s%20ecret@" + host + "/a%20b/c/" }, "", "Basic dTpzIGVjcmV0"},
		"a name alone": {func(host string) string { return "http://u@" + host + "/a%20b/c/" }, "", "Basic dTo="},
		"a token":      {func(host string) string { return "http://" + host + "/a%20b/./c/" }, "t0ken", "Bearer t0ken"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startDouble(t, nil)
			host := s.Listener.Addr().String()
			d, _ := newDestination(t, test.address(host), Options{Token: test.token})
			r, content := newFile(3_000_000)
			place, err := d.Store(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			const path = "/a%20b/c/web1-eth0.pcap"
			if want := "http://" + host + path; place.URL != want {
				t.Errorf("want %s, got %s", want, place.URL)
			}
			if !bytes.Equal(content, s.objects[path]) {
				t.Error("the content differs")
			}
			for header, want := range map[string]string{"Content-Type": "application/vnd.tcpdump.pcap",
				"User-Agent": "pcapdaemon/test", "If-None-Match": "*", "Authorization": test.want} {
				if got := s.headers[path].Get(header); got != want {
					t.Errorf("%s: want %q, got %q", header, want, got)
				}
			}
		})
	}
}

// TestPutNames: an object that is there stays, and the new one gets the next name
// that is free, with its own media type.
func TestPutNames(t *testing.T) {
	s := startDouble(t, nil)
	d, told := newDestination(t, s.URL, Options{})
	r, _ := newFile(100)
	r.Name = "web1-eth0.pcapng"
	for _, want := range []string{"/web1-eth0.pcapng", "/web1-eth0-2.pcapng", "/web1-eth0-3.pcapng"} {
		place, err := d.Store(t.Context(), r)
		if err != nil || place.URL != s.URL+want {
			t.Errorf("want %s, got %s, %v", want, place.URL, err)
		}
		if got := s.headers[want].Get("Content-Type"); got != "application/x-pcapng" {
			t.Errorf("%s: got the type %s", want, got)
		}
	}
	if len(told.retries) > 0 {
		t.Errorf("want no retry, got %v", told.retries)
	}
	full := startDouble(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.WriteHeader(http.StatusPreconditionFailed)
		return true
	})
	d, _ = newDestination(t, full.URL, Options{})
	if _, err := d.Store(t.Context(), r); !store.IsRefusal(err) || full.count() != maxNames {
		t.Errorf("want an end after %d names, got %v after %d", maxNames, err, full.count())
	}
}

// TestPutPlain: a service that refuses If-None-Match gets its objects without, and that
// is said once.
func TestPutPlain(t *testing.T) {
	t.Parallel()
	s := startDouble(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Header.Get("If-None-Match") == "" {
			return false
		}
		w.WriteHeader(http.StatusNotImplemented)
		return true
	})
	d, told := newDestination(t, s.URL, Options{})
	r, _ := newFile(100)
	for range 3 {
		if place, err := d.Store(t.Context(), r); err != nil || place.URL != s.URL+"/web1-eth0.pcap" {
			t.Fatal(place, err)
		}
	}
	if len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), "objects may be overwritten") {
		t.Errorf("want it said once, got %v", told.retries)
	}
	if _, err := d.Once().Store(t.Context(), r); err != nil {
		t.Errorf("want it known to who tries once, got %v", err)
	}
}

// TestPutSucceeds: what says that there is an object now.
func TestPutSucceeds(t *testing.T) {
	for code, want := range map[int]bool{200: true, 201: true, 204: true, 202: false, 299: false, 304: false} {
		d, _ := newDestination(t, startDouble(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			return true
		}).URL, Options{})
		r, _ := newFile(100)
		if _, err := d.Once().Store(t.Context(), r); (err == nil) != want {
			t.Errorf("%d: want success %v, got %v", code, want, err)
		}
	}
}

// TestPutIsFinal: answers that another try would not change end it, in the
// server's own words.
func TestPutIsFinal(t *testing.T) {
	for name, test := range map[string]struct {
		code                   int
		location, answer, want string
	}{
		"refused":        {403, "", "<h1>no</h1>\n", `403 Forbidden: "<h1>no</h1>\n"`},
		"too large":      {413, "", "", "413 Request Entity Too Large: no reason given"},
		"very long":      {400, "", strings.Repeat("x", 5000), `"` + strings.Repeat("x", 200) + `…"`},
		"no such method": {405, "", "", "405"},
		"strange":        {299, "", "", "299"},
		"elsewhere":      {307, "http://127.0.0.2:9/x", "", `it redirects to "http://127.0.0.2:9/x", which is not followed`},
		"another scheme": {308, "https://HOST/x", "", "which is not followed"},
		"another method": {302, "/x", "", "302"},
		"nowhere":        {307, "%zz", "", `redirects to "%zz"`},
		"no end of it":   {307, "/again", "", "which is not followed"},
		"a secret in it": {400, "", "u:s3cret%2Fx and czNjcmV0 s3cret/x", "u:<secret> and"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startDouble(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				if test.location != "" {
					w.Header().Set("Location", strings.ReplaceAll(test.location, "HOST", r.Host))
				}
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.answer)
				return true
			})
			d, told := newDestination(t, strings.Replace(s.URL, "http://", "http://u:s3cret%2Fx@", 1), Options{})
			r, _ := newFile(100)
			_, err := d.Store(t.Context(), r)
			if !store.IsRefusal(err) || !strings.Contains(err.Error(), test.want) || len(told.retries) > 0 {
				t.Errorf("want %s at once, got %v, %v", test.want, err, told.retries)
			}
			if strings.Contains(err.Error(), "s3cret") || strings.Count(err.Error(), "x") > 220 {
				t.Errorf("a secret, or too much, is in %v", err)
			}
		})
	}
}

// TestPutHidesSecrets: who answers with something else than HTTP is quoted, without what it repeats.
func TestPutHidesSecrets(t *testing.T) {
	s := startDouble(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s, who are you?\r\n\r\n", r.Header.Get("Authorization"))
		return true
	})
	d, _ := newDestination(t, s.URL, Options{Token: "s3cret"})
	r, _ := newFile(100)
	if _, err := d.Once().Store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "malformed HTTP status code \"<secret>,\"") {
		t.Errorf("want it quoted without the token, got %v", err)
	}
}

// TestPutFollows: a redirection to the same host is followed, with all that was sent.
func TestPutFollows(t *testing.T) {
	s := startDouble(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try == 1 {
			w.Header().Set("Location", "/other"+r.URL.Path)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
		return try == 1
	})
	d, _ := newDestination(t, s.URL+"/x", Options{Token: "t0ken"})
	r, content := newFile(2_000_000)
	if _, err := d.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	const path = "/other/x/web1-eth0.pcap"
	if got := s.headers[path].Get("Authorization"); got != "Bearer t0ken" || !bytes.Equal(content, s.objects[path]) {
		t.Errorf("want the content and the token at %s, got %q", path, got)
	}
}

// TestPutIsRetried: what may pass is tried again, and the server says when.
func TestPutIsRetried(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		code  int
		after string
		least time.Duration
	}{
		"busy": {503, "1", time.Second}, "full": {507, "", 0}, "broken": {500, "", 0}, "too many": {429, "", 0}, "cut": {0, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startDouble(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
				if try > 1 {
					return false
				}
				_, _ = io.CopyN(io.Discard, r.Body, 100_000)
				if test.code == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Retry-After", test.after)
				w.WriteHeader(test.code)
				return true
			})
			d, told := newDestination(t, s.URL, Options{})
			r, content := newFile(2_000_000)
			began := time.Now()
			if _, err := d.Store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if len(told.retries) == 1 && !strings.HasPrefix(told.retries[0].Error(), "store: ") {
				t.Errorf("want the destination named, got %v", told.retries[0])
			}
			if len(told.retries) != 1 || time.Since(began) < test.least {
				t.Errorf("want one retry after %v, got %v after %v", test.least, told.retries, time.Since(began))
			}
			if !bytes.Equal(content, s.objects["/web1-eth0.pcap"]) {
				t.Error("want the whole content")
			}
		})
	}
}

// TestPutGivesUp: the time is over, and the error says what was wrong at last.
func TestPutGivesUp(t *testing.T) {
	t.Parallel()
	busy := startDouble(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	for address, want := range map[string]string{
		busy.URL:                                 "503 Service Unavailable",
		"http://name.invalid/":                   "lookup name.invalid",
		"http://u:s3cret@name.invalid/":          "store at http://name.invalid/: ",
		"http://" + testbed.DeadAddress(t) + "/": "connection refused",
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			d, _ := newDestination(t, address, Options{Timeout: 2 * time.Second})
			r, _ := newFile(100)
			_, err := d.Store(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") || store.IsRefusal(err) {
				t.Errorf("%s: want %s, got %v", address, want, err)
			}
			if _, err := d.Once().Store(t.Context(), r); err == nil {
				t.Errorf("%s: want an error", address)
			}
		})
	}
}
