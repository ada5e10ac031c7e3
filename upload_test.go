package main

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// newCloudshark returns a destination for the double.
func newCloudshark(s *sharktest.Server) *cloudshark {
	return &cloudshark{
		scheme: "http", host: s.Address(), token: sharktest.Token, agent: "pcapdaemon/test", timeout: 10 * time.Second,
		client: newUploadClient(nil, false), observer: &countingObserver{},
	}
}

func TestUploadForm(t *testing.T) {
	s := sharktest.Start(t, nil)
	r, content := newRecording(3_000_000)
	got, err := newCloudshark(s).store(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://" + s.Address() + "/captures/cafe1"; got.url != want {
		t.Errorf("want %s, got %s", want, got.url)
	}
	u := s.Received()[0]
	if !bytes.Equal(content, u.Content) {
		t.Error("the content differs")
	}
	u.Content = nil
	want := sharktest.Upload{File: r.name, Filename: r.name, Tags: "a,node:web1", Comments: "filter: none",
		Agent: "pcapdaemon/test"}
	if fmt.Sprint(want) != fmt.Sprint(u) {
		t.Errorf("want %+v, got %+v", want, u)
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
		"redirection":        {302, ``, []string{"302"}},
		"echo of the token":  {400, "no route /api/v1/" + sharktest.Token + "/upload", []string{"400", "/api/v1/<sharktest.Token>/upload"}},
		"token at the edge":  {400, strings.Repeat("x", 190) + sharktest.Token, []string{"400"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.answer)
				return true
			})
			r, _ := newRecording(100)
			_, err := newCloudshark(s).store(t.Context(), r)
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

func TestUploadIsRetried(t *testing.T) {
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
		"date to wait for": {func(w http.ResponseWriter, r *http.Request) {
			fail(429, time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat))(w, r)
		}, time.Second},
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
			r, content := newRecording(2_000_000)
			c := newCloudshark(s)
			c.timeout = 30 * time.Second
			told := &countingObserver{}
			c.observer = told
			began := time.Now()
			if _, err := c.store(t.Context(), r); err != nil {
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
			c := newCloudshark(sharktest.Start(t, test.answer))
			c.timeout = 1500 * time.Millisecond
			r, _ := newRecording(100)
			began := time.Now()
			_, err := c.store(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %q in the error, got %v", test.want, err)
			}
			if took := time.Since(began); took > test.most {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestUploadNowhere(t *testing.T) {
	c := newCloudshark(sharktest.Start(t, nil))
	c.host, c.timeout = "127.0.0.1:"+strconv.Itoa(testbed.FreePort(t)), 500*time.Millisecond
	r, _ := newRecording(100)
	_, err := c.store(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), sharktest.Token) {
		t.Errorf("want the cause without the sharktest.Token, got %v", err)
	}
}

// TestUploadLeavesMemory: an early answer must not leave a transport behind
// that still reads memory which belongs to somebody else by then.
func TestUploadLeavesMemory(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(403); return true })
	p := newPool(64 * chunkSize)
	for range 20 {
		buf := newBuffer(p)
		if _, err := buf.Write(randomBytes(30 * chunkSize)); err != nil {
			t.Fatal(err)
		}
		_, err := newCloudshark(s).store(t.Context(), recording{name: "x", size: buf.size, content: buf.reader})
		if err == nil {
			t.Fatal("want an error")
		}
		buf.free()
		p.release() // unmapped: a late read would be the end of this process
	}
}

func TestUploadVerifiesCertificate(t *testing.T) {
	ca := testbed.NewCA(t)
	s := sharktest.StartTLS(t, ca)
	own, err := readCAs(ca.File, x509.NewCertPool())
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
			c := newCloudshark(s)
			c.scheme, c.client = "https", newUploadClient(test.cas, test.insecure)
			told := &countingObserver{}
			c.observer = told
			r, _ := newRecording(100)
			_, err := c.store(t.Context(), r)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("want %q in the error, got %v", test.want, err)
			}
			if len(told.retries) > 0 {
				t.Errorf("want no second try, got %v", told.retries)
			}
		})
	}
}
