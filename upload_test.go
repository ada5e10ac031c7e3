package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// newCloudshark returns a destination for the double.
func newCloudshark(s *sharktest.Server) *cloudshark {
	return &cloudshark{
		scheme: "http", host: s.Address(), token: sharktest.Token, agent: "pcapdaemon/test", timeout: 10 * time.Second,
		client: newUploadClient(nil, false, newEndurance(time.Minute)), observer: &countingObserver{},
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

// TestRetryAfter: both forms of the header (RFC 9110, 10.2.3).
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			header string
			want   time.Duration
		}{
			"seconds":         {"90", 90 * time.Second},
			"a date":          {time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat), 2 * time.Minute},
			"an older format": {time.Now().Add(time.Minute).UTC().Format(time.RFC850), time.Minute},
			"a past date":     {time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat), 0},
			"none":            {"", 0},
			"nonsense":        {"soon", 0},
			"below zero":      {"-5", 0},
		} {
			if got := max(0, retryAfter(test.header)); got != test.want {
				t.Errorf("%s: want %v, got %v", name, test.want, got)
			}
		}
	})
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
	c := newCloudshark(s)
	told := &countingObserver{}
	c.observer = told
	r, _ := newRecording(100)
	if _, err := c.store(t.Context(), r); err != nil {
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
			c := newCloudshark(s)
			c.token = secret
			r, _ := newRecording(100)
			_, err := c.store(t.Context(), r)
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
	c := newCloudshark(s)
	c.token = "a b/c"
	r, _ := newRecording(100)
	if _, err := c.store(t.Context(), r); err != nil {
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
			r, _ := newRecording(100)
			c := newCloudshark(s)
			got, err := c.store(t.Context(), r)
			if want := "http://" + c.host + test.want; test.err == "" && got.url != want {
				t.Errorf("want %s, got %s", want, got.url)
			}
			if test.err != "" && (err == nil || !strings.HasSuffix(err.Error(), test.err)) || s.Count() != 1 {
				t.Errorf("want %s after one try, got %v after %d", test.err, err, s.Count())
			}
		})
	}
}

// uploadElsewhere uploads in a process with an environment of its own, which
// Go reads only once, with the flags given. It returns what the process said.
func uploadElsewhere(t *testing.T, environment string, flags ...string) string {
	t.Helper()
	arguments := []string{"-test.run=^TestUploadElsewhere$", "--",
		"-upload", "-cstoken", sharktest.Token, "-cstimeout", "10s"}
	command := exec.Command(os.Args[0], append(arguments, flags...)...)
	command.Env = append(os.Environ(), "ELSEWHERE=1", environment)
	output, _ := command.CombinedOutput()
	return string(output)
}

// TestUploadElsewhere is the other process of uploadElsewhere, and asks for one itself.
func TestUploadElsewhere(t *testing.T) {
	if os.Getenv("ELSEWHERE") == "" {
		s := sharktest.Start(t, nil)
		got := uploadElsewhere(t, "HTTP_PROXY=", "-csscheme", "http", "-cshost", s.Address())
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
	client := newUploadClient(shark.cas, shark.insecure, newEndurance(shark.timeout))
	c := &cloudshark{scheme: shark.scheme, host: shark.host, token: shark.token, timeout: shark.timeout,
		client: client, observer: &countingObserver{}}
	r, _ := newRecording(100)
	_, err = c.store(t.Context(), r)
	fmt.Println("uploaded:", err)
}

// TestUploadKeepsSystemCAs: -cscafile adds to the certificates of the system.
func TestUploadKeepsSystemCAs(t *testing.T) {
	t.Parallel()
	system, own := testbed.NewCA(t), testbed.NewCA(t)
	for name, test := range map[string]struct {
		ca   *testbed.CA
		want string
	}{
		"of the system":    {system, "uploaded: <nil>"},
		"of -cscafile":     {own, "uploaded: <nil>"},
		"of somebody else": {testbed.NewCA(t), "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.StartTLS(t, test.ca)
			got := uploadElsewhere(t, "SSL_CERT_FILE="+system.File, "-cscafile", own.File, "-cshost", s.Address())
			if !strings.Contains(got, test.want) {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
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
	got := uploadElsewhere(t, "HTTPS_PROXY=http://"+proxy, "-csinsecure", "-cshost", "cloudshark.example")
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
		refused bool
		wait    time.Duration
	}{
		"refused":          {401, true, 0},
		"away for a while": {503, false, 90 * time.Second},
		"no answer to it":  {200, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.Header().Set("Retry-After", "90")
				w.WriteHeader(test.code)
				return true
			})
			told := &countingObserver{}
			c := newCloudshark(s)
			c.observer = told
			r, _ := newRecording(100)
			_, err := c.once().store(t.Context(), r)
			wait := time.Duration(0)
			if asked := (*backoff.RetryAfterError)(nil); errors.As(err, &asked) {
				wait = asked.Duration
			}
			if err == nil || isRefusal(err) != test.refused || wait != test.wait {
				t.Errorf("want refused: %v, to wait: %v, got %v, %v", test.refused, test.wait, wait, err)
			}
			checkEqual(t, "tries and retries", "1 0", fmt.Sprint(s.Count(), len(told.retries)))
		})
	}
	c := newCloudshark(sharktest.StartTLS(t, testbed.NewCA(t)))
	c.scheme = "https"
	r, _ := newRecording(100)
	if _, err := c.store(t.Context(), r); err == nil || isRefusal(err) {
		t.Errorf("want a certificate that does not verify to be no answer, got %v", err)
	}
}

func TestUploadNowhere(t *testing.T) {
	c := newCloudshark(sharktest.Start(t, nil))
	c.host, c.timeout = "127.0.0.1:"+strconv.Itoa(testbed.FreePort(t)), 500*time.Millisecond
	r, _ := newRecording(100)
	_, err := c.store(t.Context(), r)
	if !mentions(err, "connection refused") || mentions(err, sharktest.Token) {
		t.Errorf("want the cause without the sharktest.Token, got %v", err)
	}
}

// TestUploadLeavesMemory: an early answer must not leave a transport behind
// that still reads memory which belongs to somebody else by then.
func TestUploadLeavesMemory(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(403); return true })
	p := newPool(64 * chunkSize)
	content := randomBytes(12 * chunkSize)
	for range 20 {
		buf := newBuffer(p)
		if _, err := buf.Write(content); err != nil {
			t.Fatal(err)
		}
		r := recording{name: "x", size: fileHeaderSize + buf.size,
			content: pcapFormat{}.content(heading{}, closing{}, buf.pieces())}
		if _, err := newCloudshark(s).store(t.Context(), r); err == nil {
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
			c.scheme, c.client = "https", newUploadClient(test.cas, test.insecure, newEndurance(time.Minute))
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
