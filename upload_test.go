package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sirupsen/logrus"

	"pcapdaemon/capfile"
	"pcapdaemon/credential"
	"pcapdaemon/sharktest"
	"pcapdaemon/store"
	"pcapdaemon/testbed"
	"pcapdaemon/transfer"
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
	testbed.Long(t)
	t.Parallel()
	patient := transfer.NewStallTimeouts(time.Minute)
	stall := transfer.StallTimeouts{Stall: 400 * time.Millisecond, Answer: patient.Answer}
	silence := transfer.StallTimeouts{Stall: patient.Stall, Answer: 2 * time.Second}
	for name, test := range map[string]struct {
		size   int
		behave func(net.Conn) // until it returns
		waits  transfer.StallTimeouts
		want   string
	}{
		"never reads":   {10 << 20, func(net.Conn) {}, stall, "nothing was taken for 400ms"},
		"stops reading": {10 << 20, func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 2<<20) }, stall, "nothing was taken"},
		"never answers": {1000, func(c net.Conn) { go io.Copy(io.Discard, c) }, silence, "no answer for 2s"},
		"takes all, never answers": {10 << 20, func(c net.Conn) { go io.Copy(io.Discard, c) },
			silence, "no answer for 2s"},
		"half an answer": {1000, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1)) // not before it was asked
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
			go io.Copy(io.Discard, c)
		}, silence, "read answer: no answer for 2s"},
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
			c.client = transfer.NewClient(nil, false, test.waits)
			told := &retryObserver{after: func() { c.client = transfer.NewClient(nil, false, patient) }}
			c.tries = transfer.Tries{Timeout: time.Minute, Observer: told}
			r, content := newCaptureFile(test.size)
			began := time.Now()
			if _, err := c.Store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if took, least := time.Since(began), min(test.waits.Stall, test.waits.Answer); took < least {
				t.Errorf("want the peer waited for for %v, got %v in all", least, took)
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
	testbed.Long(t)
	t.Parallel()
	s := sharktest.Start(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		for range 30 {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			time.Sleep(100 * time.Millisecond)
		}
		return false
	})
	c := testCloudshark(s)
	c.client = transfer.NewClient(nil, false, transfer.StallTimeouts{Stall: 2 * time.Second, Answer: 2 * time.Second})
	told := &retryObserver{}
	c.tries.Observer = told
	r, _ := newCaptureFile(3_000_100)
	_, err := c.Store(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "400") || len(told.retries) > 0 {
		t.Errorf("want the answer to a form that was half read, and no retry, got %v after %v", err, told.retries)
	}
}

// TestUploadProxyIsSilent: a proxy that takes the request for a connection and
// says nothing is given up like any other silent peer.
func TestUploadProxyIsSilent(t *testing.T) {
	testbed.Long(t)
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
	c.scheme, c.tries.Observer = "https", told
	c.client = transfer.NewClient(nil, true, transfer.StallTimeouts{Stall: 2 * time.Second, Answer: 2 * time.Second})
	c.client.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	r, _ := newCaptureFile(1000)
	if _, err := c.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), "no answer for 2s") {
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
				c := &cloudshark{scheme: test.scheme, host: host, token: sharktest.Token,
					client: transfer.NewClient(nil, true, transfer.NewStallTimeouts(time.Minute)),
					tries:  transfer.Tries{Timeout: 10 * time.Second, Observer: &retryObserver{}}}
				_, err := c.Store(t.Context(), r)
				if err == nil || !strings.Contains(err.Error(), test.want) || connections.Load() != run+1 {
					t.Fatalf("run %d: want %s at once, got %v after %d tries", run, test.want, err, connections.Load()-run)
				}
			}
		})
	}
}

func TestUploadTags(t *testing.T) {
	many := strings.Repeat("t,", 40)
	all := request{Tags: "a, b,,", Customer: "A,B", AlertID: new(uint64)}
	for name, test := range map[string]struct {
		requests []request
		want     string
	}{
		"none":   {[]request{{}}, "node:web1,interface:eth0"},
		"commas": {[]request{{Customer: "a,b,c"}}, "customer:a_b_c,node:web1,interface:eth0"},
		"all":    {[]request{all}, "a,b,customer:A_B,alertid:0,node:web1,interface:eth0"},
		"ours before theirs": {[]request{{Tags: many, Customer: "c"}},
			strings.Repeat("t,", 27) + "customer:c,node:web1,interface:eth0"},
		"the first one's set, then what others add": {[]request{all, {Tags: "b,c", Customer: "C"}, {}},
			"a,b,customer:A_B,alertid:0,node:web1,interface:eth0,c,customer:C"},
		"no more than CloudShark takes": {[]request{{Tags: "a"},
			{Tags: "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28"}},
			"a,node:web1,interface:eth0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27"},
	} {
		var requesters []requester
		for _, r := range test.requests {
			requesters = append(requesters, requester{request: r})
		}
		if got := strings.Join(uploadTags(requesters, "web1", "eth0"), ","); got != test.want {
			t.Errorf("%s: want %s, got %s", name, test.want, got)
		}
	}
}

// newCaptureFile returns a capture file of size bytes, and them.
func newCaptureFile(size int) (store.File, []byte) {
	content := testbed.RandomBytes(size)
	copy(content, "\xd4\xc3\xb2\xa1\x02\x00\x04\x00") // a pcap file, with one packet
	binary.LittleEndian.PutUint32(content[24+8:], uint32(size-24-16))
	return store.File{
		ID: "r1", Name: "web1-eth0.pcap", Size: int64(size), Tags: []string{"a", "node:web1"}, Comments: "filter: none",
		Content: func() io.Reader { return bytes.NewReader(content) },
	}, content
}

// A retryObserver keeps what it is told of tries that failed.
type retryObserver struct {
	mu      sync.Mutex
	retries []error
	waits   []time.Duration // before retries
	after   func()          // is called after each failed try; nil: nothing is
}

// Delivered implements observer.
func (*retryObserver) Delivered(string, time.Duration, error) {}

// Retried implements observer.
func (o *retryObserver) Retried(_ string, _ store.File, err error, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retries, o.waits = append(o.retries, err), append(o.waits, wait)
	if o.after != nil {
		o.after()
	}
}

// Removed implements observer.
func (*retryObserver) Removed([]string, int64) {}

// Troubled implements observer.
func (*retryObserver) Troubled(error) {}

// testCloudshark returns a destination for the double.
func testCloudshark(s *sharktest.Server) *cloudshark {
	return &cloudshark{
		scheme: "http", host: s.Address(), token: sharktest.Token, agent: "pcapdaemon/test",
		client: transfer.NewClient(nil, false, transfer.NewStallTimeouts(time.Minute)),
		tries:  transfer.Tries{Timeout: 10 * time.Second, Observer: &retryObserver{}},
	}
}

func TestUploadForm(t *testing.T) {
	s := sharktest.Start(t, nil)
	r, content := newCaptureFile(3_000_000)
	got, err := testCloudshark(s).Store(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://" + s.Address() + "/captures/cafe1"; got.URL != want {
		t.Errorf("want %s, got %s", want, got.URL)
	}
	u := s.Received()[0]
	if !bytes.Equal(content, u.Content) {
		t.Error("the content differs")
	}
	u.Content = nil
	want := sharktest.Upload{File: r.Name, Filename: r.Name, Tags: "a,node:web1", Comments: "filter: none",
		Agent: "pcapdaemon/test"}
	if fmt.Sprint(want) != fmt.Sprint(u) {
		t.Errorf("want %+v, got %+v", want, u)
	}
}

// TestUploadKeepsNoConnection: each upload has a connection of its own, which goes with it.
func TestUploadKeepsNoConnection(t *testing.T) {
	states := make(chan http.ConnState, 10)
	s := httptest.NewUnstartedServer(&sharktest.Handler{Token: sharktest.Token})
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) { states <- state }
	s.Start()
	defer s.Close()
	c := &cloudshark{scheme: "http", host: s.Listener.Addr().String(), token: sharktest.Token,
		client: transfer.NewClient(nil, false, transfer.NewStallTimeouts(time.Minute)),
		tries:  transfer.Tries{Timeout: 10 * time.Second, Observer: &retryObserver{}}}
	r, _ := newCaptureFile(1000)
	for range 2 {
		if _, err := c.Store(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, want := range []http.ConnState{http.StateNew, http.StateActive, http.StateClosed} {
			if got := <-states; got != want {
				t.Fatalf("want the connection %v, got %v", want, got)
			}
		}
	}
}

func TestUploadIsFinalAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		code   int
		answer string
		want   []string
	}{
		"words of the server": {403, `{"status":403,"exceptions":["Invalid token.","Go away"]}`,
			[]string{"403", "Invalid token., Go away"}},
		"not JSON":           {404, "<h1>nope</h1>\n\x1b[31m", []string{"404", `"<h1>nope</h1>\n\x1b[31m"`}},
		"very long":          {400, strings.Repeat("x", 5000), []string{"400", strings.Repeat("x", 200) + "…"}},
		"nothing said":       {401, "", []string{"401", "no reason given"}},
		"JSON without words": {413, `{}`, []string{"413"}},
		"200 without an id":  {200, `{"filename":"x"}`, []string{"200", "no id"}},
		"200 without JSON":   {200, `hello`, []string{"200", "hello"}},
		"redirection":        {302, ``, []string{"302", `redirects to "/elsewhere"`}},
		"echo of the token": {400, "no route /api/v1/" + sharktest.Token + "/upload",
			[]string{"400", "/api/v1/<token>/upload"}},
		"token at the edge": {400, strings.Repeat("x", 190) + sharktest.Token, []string{"400"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.answer)
				return true
			})
			r, _ := newCaptureFile(100)
			_, err := testCloudshark(s).Store(t.Context(), r)
			if err == nil {
				t.Fatal("want an error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in the error, got %v", want, err)
				}
			}
			if strings.Contains(err.Error(), sharktest.Token[:8]) {
				t.Errorf("the sharktest.Token is in the error: %v", err)
			}
			if strings.Count(err.Error(), "x") > 210 || s.Count() != 1 {
				t.Errorf("want a short error after one try, got %d tries, %v", s.Count(), err)
			}
		})
	}
}

// TestUploadFollows: a redirection that stays with the host and keeps the method is
// followed, with the whole form.
func TestUploadFollows(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try == 1 {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(http.StatusPermanentRedirect)
		}
		return try == 1
	})
	r, content := newCaptureFile(1_000_000)
	if _, err := testCloudshark(s).Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if uploads := s.Received(); len(uploads) != 1 || !bytes.Equal(content, uploads[0].Content) || s.Count() != 2 {
		t.Errorf("want the whole content after one redirection, got %d requests", s.Count())
	}
}

func TestUploadIsRetried(t *testing.T) {
	t.Parallel()
	fail := func(code int, header ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			if len(header) > 0 {
				w.Header().Set("Retry-After", header[0])
			}
			w.WriteHeader(code)
		}
	}
	for name, test := range map[string]struct {
		failure func(http.ResponseWriter, *http.Request)
		least   time.Duration
	}{
		"408": {fail(408), 0}, "425": {fail(425), 0}, "429": {fail(429), 0},
		"500": {fail(500), 0}, "502": {fail(502), 0}, "503": {fail(503), 0},
		"seconds to wait": {fail(503, "1"), time.Second},
		"no time to wait": {fail(503, "0"), 0},
		"nonsense":        {fail(503, "soon"), 0},
		"cut before the answer": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, 0},
		"cut in the middle of the body": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			conn, _, _ := w.(http.Hijacker).Hijack()
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}, 0},
		"cut in the middle of the answer": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"id":`)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
				if try <= 2 {
					test.failure(w, r)
				}
				return try <= 2
			})
			r, content := newCaptureFile(2_000_000)
			c := testCloudshark(s)
			c.tries.Timeout = 30 * time.Second
			told := &retryObserver{}
			c.tries.Observer = told
			began := time.Now()
			if _, err := c.Store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if uploads := s.Received(); len(uploads) != 1 || !bytes.Equal(content, uploads[0].Content) {
				t.Error("want the whole content once")
			}
			if took := time.Since(began); len(told.retries) != 2 || took < test.least {
				t.Errorf("want 2 retries after %v at least, got %v after %v", test.least, told.retries, took)
			}
		})
	}
}

func TestUploadGivesUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, int) bool
		want   string
		most   time.Duration
	}{
		"never a good answer": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.WriteHeader(503)
			return true
		}, "503", 3 * time.Second},
		"never an answer": {sharktest.Hang, "no answer", 3 * time.Second},
		"hangs after an error": {func(w http.ResponseWriter, r *http.Request, try int) bool {
			if try == 1 {
				w.WriteHeader(500)
				return true
			}
			return sharktest.Hang(w, r, try)
		}, "500", 3 * time.Second},
		"asked to wait too long": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
			return true
		}, "429", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := testCloudshark(sharktest.Start(t, test.answer))
			c.tries.Timeout = 1500 * time.Millisecond
			r, _ := newCaptureFile(100)
			began := time.Now()
			_, err := c.Store(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %q in the error, got %v", test.want, err)
			}
			if took := time.Since(began); took > test.most {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestUploadWaitsForDate: a date in Retry-After is what the next try waits for.
func TestUploadWaitsForDate(t *testing.T) {
	t.Parallel()
	s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, try int) bool {
		if try == 1 {
			w.Header().Set("Retry-After", time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(503)
		}
		return try == 1
	})
	c := testCloudshark(s)
	told := &retryObserver{}
	c.tries.Observer = told
	r, _ := newCaptureFile(100)
	if _, err := c.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(told.waits) != 1 || told.waits[0] < 1900*time.Millisecond || told.waits[0] > 3*time.Second {
		t.Errorf("want one wait of 2 to 3 s, got %v", told.waits)
	}
}

// TestUploadHidesToken: whatever form a token has in what others say, it is not shown.
func TestUploadHidesToken(t *testing.T) {
	const secret = `a b/c+d"é`
	for name, answer := range map[string]string{
		"as it is":           secret,
		"in a path":          url.PathEscape(secret),
		"in a query":         url.QueryEscape(secret),
		"slash left alone":   (&url.URL{Path: secret}).EscapedPath(),
		"other hexadecimals": strings.ToLower(url.PathEscape(secret)),
		"in JSON":            `{"exceptions":["no a b\/c+d\"\u00e9 here"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.WriteHeader(400)
				if strings.HasPrefix(answer, "{") {
					fmt.Fprint(w, answer)
				} else {
					fmt.Fprintf(w, "no %s here", answer)
				}
				return true
			})
			c := testCloudshark(s)
			c.token = secret
			r, _ := newCaptureFile(100)
			_, err := c.Store(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), "no <token> here") {
				t.Errorf("want the token hidden, got %v", err)
			}
		})
	}
}

// TestUploadTokenInPath: a token with characters of its own still is one part of the path.
func TestUploadTokenInPath(t *testing.T) {
	var path string
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		path = r.URL.EscapedPath()
		fmt.Fprint(w, `{"id":"1"}`)
		return true
	})
	c := testCloudshark(s)
	c.token = "a b/c"
	r, _ := newCaptureFile(100)
	if _, err := c.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if want := "/api/v1/a%20b%2Fc/upload"; path != want {
		t.Errorf("want %s, got %s", want, path)
	}
}

// TestUploadStrangeAnswers: an id is one part of the link whatever it holds,
// and an answer without end is not read to its end.
func TestUploadStrangeAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		code      int
		answer    string
		endless   bool
		want, err string
	}{
		"an id with a slash": {200, `{"id":"a/../b?c"}`, false, "/captures/a%2F..%2Fb%3Fc", ""},
		"without end":        {200, strings.Repeat("x", 1000), true, "", `200 OK: "` + strings.Repeat("x", 200) + `…"`},
		"a reason without end": {400, strings.Repeat("y", 1000), true, "",
			`400 Bad Request: "` + strings.Repeat("y", 200) + `…"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.answer)
				for test.endless {
					if _, err := fmt.Fprint(w, test.answer); err != nil {
						break
					}
				}
				return true
			})
			r, _ := newCaptureFile(100)
			c := testCloudshark(s)
			got, err := c.Store(t.Context(), r)
			if want := "http://" + c.host + test.want; test.err == "" && got.URL != want {
				t.Errorf("want %s, got %s", want, got.URL)
			}
			if test.err != "" && (err == nil || !strings.HasSuffix(err.Error(), test.err)) || s.Count() != 1 {
				t.Errorf("want %s after one try, got %v after %d", test.err, err, s.Count())
			}
		})
	}
}

// uploadElsewhere uploads to hosts, between which stand spaces, in a process with an environment of
// its own, which Go reads only once, with the flags given. It returns what the process said.
func uploadElsewhere(t *testing.T, environment, hosts string, flags ...string) string {
	t.Helper()
	arguments := []string{"-test.run=^TestUploadElsewhere$", "--",
		"-upload", "-cshost", "cloudshark.invalid", "-cstoken", sharktest.Token, "-cstimeout", "1m"}
	command := exec.Command(os.Args[0], append(arguments, flags...)...)
	command.Env = append(os.Environ(), "ELSEWHERE="+hosts, environment)
	output, _ := command.CombinedOutput()
	return string(output)
}

// TestUploadElsewhere is the other process of uploadElsewhere, and asks for one itself.
func TestUploadElsewhere(t *testing.T) {
	if os.Getenv("ELSEWHERE") == "" {
		s := sharktest.Start(t, nil)
		got := uploadElsewhere(t, "HTTP_PROXY=", s.Address(), "-csscheme", "http")
		if !strings.Contains(got, "uploaded: <nil>") || s.Count() != 1 {
			t.Errorf("want an upload, got %d: %s", s.Count(), got)
		}
		return
	}
	config, err := parseConfig(flag.Args(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	shark := config.delivery.shark
	c := newCloudshark(shark, &retryObserver{})
	r, _ := newCaptureFile(100)
	for c.host = range strings.FieldsSeq(os.Getenv("ELSEWHERE")) {
		_, err = c.Store(t.Context(), r)
		fmt.Println("uploaded:", err)
	}
}

// TestUploadKeepsSystemCAs: -cscafile adds to the certificates of the system.
func TestUploadKeepsSystemCAs(t *testing.T) {
	t.Parallel()
	system, own, other := testbed.NewCA(t), testbed.NewCA(t), testbed.NewCA(t)
	var hosts []string
	for _, ca := range []*testbed.CA{system, own, other} {
		hosts = append(hosts, sharktest.StartTLS(t, ca).Address())
	}
	got := uploadElsewhere(t, "SSL_CERT_FILE="+system.File, strings.Join(hosts, " "), "-cscafile", own.File)
	const want = `uploaded: <nil>\nuploaded: <nil>\nuploaded: upload to .*certificate`
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("want %s, got %s", want, got)
	}
}

// TestUploadThroughProxy: the environment's proxy is asked for CloudShark.
func TestUploadThroughProxy(t *testing.T) {
	t.Parallel()
	s := sharktest.StartTLS(t, testbed.NewCA(t))
	asked := make(chan string, 1)
	proxy := startServer(t, listen(t), func(conn net.Conn, _ int64) {
		line, _ := bufio.NewReader(conn).ReadString('\n')
		asked <- strings.TrimSpace(line)
		if to, err := net.Dial("tcp", s.Address()); err == nil {
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
			join(conn, to)
		}
	})
	got := uploadElsewhere(t, "HTTPS_PROXY=http://"+proxy, "cloudshark.example", "-csinsecure")
	if want := "uploaded: <nil>"; !strings.Contains(got, want) {
		t.Fatalf("want %s, got %s", want, got)
	}
	if want, got := "CONNECT cloudshark.example:443 HTTP/1.1", <-asked; want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}

// TestUploadOnce: a single try says whether another one may help, and when.
func TestUploadOnce(t *testing.T) {
	for name, test := range map[string]struct {
		code    int
		after   string // Retry-After
		refused bool
		wait    time.Duration
	}{
		"refused":          {401, "90", true, 0},
		"away for a while": {503, "90", false, 90 * time.Second},
		"away":             {503, "", false, 0},
		"no answer to it":  {200, "90", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
				_, _ = io.Copy(io.Discard, r.Body) // an answer before all was sent is another case
				w.Header().Set("Retry-After", test.after)
				w.WriteHeader(test.code)
				return true
			})
			told := &retryObserver{}
			c := testCloudshark(s)
			c.tries.Observer = told
			r, _ := newCaptureFile(100)
			_, err := c.once().Store(t.Context(), r)
			wait := time.Duration(0)
			if asked := (*backoff.RetryAfterError)(nil); errors.As(err, &asked) {
				wait = asked.Duration
			}
			if err == nil || store.IsRefusal(err) != test.refused || wait != test.wait {
				t.Errorf("want refused: %v, to wait: %v, got %v, %v", test.refused, test.wait, wait, err)
			}
			if got := fmt.Sprint(s.Count(), len(told.retries)); got != "1 0" {
				t.Errorf("want one try and no retry, got %s", got)
			}
		})
	}
	c := testCloudshark(sharktest.StartTLS(t, testbed.NewCA(t)))
	c.scheme = "https"
	r, _ := newCaptureFile(100)
	if _, err := c.Store(t.Context(), r); err == nil || store.IsRefusal(err) {
		t.Errorf("want a certificate that does not verify to be no answer, got %v", err)
	}
}

func TestUploadNowhere(t *testing.T) {
	c := testCloudshark(sharktest.Start(t, nil))
	c.host, c.tries.Timeout = "127.0.0.1:"+strconv.Itoa(testbed.FreePort(t)), 500*time.Millisecond
	r, _ := newCaptureFile(100)
	_, err := c.Store(t.Context(), r)
	if !mentions(err, "connection refused") || mentions(err, sharktest.Token) {
		t.Errorf("want the cause without the sharktest.Token, got %v", err)
	}
}

// TestUploadLeavesMemory: an early answer must not leave a transport behind
// that still reads memory which belongs to somebody else by then.
func TestUploadLeavesMemory(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(403); return true })
	p := capfile.NewPool(64 * capfile.ChunkSize)
	content := testbed.RandomBytes(12 * capfile.ChunkSize)
	for range 20 {
		buf := capfile.NewBuffer(p)
		if _, err := buf.Write(content); err != nil {
			t.Fatal(err)
		}
		r := store.File{Name: "x", Size: capfile.HeaderSize + buf.Size,
			Content: capfile.PcapFormat{}.Content(capfile.Header{}, capfile.Statistics{}, buf.Pieces())}
		if _, err := testCloudshark(s).Store(t.Context(), r); err == nil {
			t.Fatal("want an error")
		}
		buf.Free()
		p.Release() // unmapped: a late read would be the end of this process
	}
}

// TestRetryIsLogged: with several destinations, one has to know which of them fails.
func TestRetryIsLogged(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, try int) bool {
		if try == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return try == 1
	})
	var lines strings.Builder
	log := logrus.New()
	log.SetOutput(&lines)
	c := sharkConfig{scheme: "http", host: s.Address(), token: sharktest.Token, timeout: time.Minute}
	r, _ := newCaptureFile(100)
	if _, err := newCloudshark(c, deliveryObserver{newMetrics("test"), log}).Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tried again", "destination=cloudshark", "request=r1", "file=web1-eth0.pcap", "503"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("want %s in the log, got %s", want, lines.String())
		}
	}
}

func TestUploadVerifiesCertificate(t *testing.T) {
	ca := testbed.NewCA(t)
	s := sharktest.StartTLS(t, ca)
	own, err := credential.ReadCAs(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cas      *x509.CertPool
		insecure bool
		want     string
	}{
		"unknown CA":   {nil, false, "certificate"},
		"CA given":     {own, false, ""},
		"not verified": {nil, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCloudshark(s)
			c.scheme, c.client = "https", transfer.NewClient(test.cas, test.insecure, transfer.NewStallTimeouts(time.Minute))
			told := &retryObserver{}
			c.tries.Observer = told
			r, _ := newCaptureFile(100)
			_, err := c.Store(t.Context(), r)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("want %q in the error, got %v", test.want, err)
			}
			if len(told.retries) > 0 {
				t.Errorf("want no second try, got %v", told.retries)
			}
		})
	}
}
