package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const token = "0123456789abcdef0123456789abcdef"

// An upload is what the double of CloudShark got.
type upload struct {
	file, filename, tags, comments, agent string
	content                               []byte
}

// A sharkDouble answers like CloudShark, and strictly.
type sharkDouble struct {
	*httptest.Server
	mu      sync.Mutex
	uploads []upload
	tries   int
	// answer, if set, may answer instead; the try counts from 1.
	answer func(w http.ResponseWriter, r *http.Request, try int) bool
}

// startShark starts a double with plain HTTP; answer may be nil.
func startShark(t testing.TB, answer func(http.ResponseWriter, *http.Request, int) bool) *sharkDouble {
	s := &sharkDouble{answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// address returns host:port.
func (s *sharkDouble) address() string { return s.Listener.Addr().String() }

// received returns the uploads until now.
func (s *sharkDouble) received() []upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.uploads)
}

// count returns how many requests came.
func (s *sharkDouble) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

// ServeHTTP implements http.Handler.
func (s *sharkDouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.tries++
	try := s.tries
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r, try) {
		return
	}
	w.Header().Set("Content-Type", "text/javascript")
	u, err := readUpload(r)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"status":400,"exceptions":[%q]}`, err)
		return
	}
	s.mu.Lock()
	s.uploads = append(s.uploads, u)
	id := len(s.uploads)
	s.mu.Unlock()
	fmt.Fprintf(w, `{"filename":%q,"id":"cafe%d"}`, u.filename, id)
}

// readUpload parses an upload as CloudShark would.
func readUpload(r *http.Request) (upload, error) {
	switch {
	case r.Method != http.MethodPost:
		return upload{}, errors.New("not a POST")
	case r.URL.Path != "/api/v1/"+token+"/upload":
		return upload{}, errors.New("wrong path or token")
	case r.ContentLength <= 0:
		return upload{}, errors.New("no Content-Length")
	}
	u := upload{agent: r.UserAgent()}
	parts, err := r.MultipartReader()
	if err != nil {
		return u, err
	}
	seen := map[string]bool{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u, err
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return u, err
		}
		if err := u.set(part, content); err != nil || seen[part.FormName()] {
			return u, fmt.Errorf("part %q: %v", part.FormName(), err)
		}
		seen[part.FormName()] = true
	}
	if !seen["file"] || len(u.content) < 24 || u.file != u.filename {
		return u, errors.New("no file, or two names for it")
	}
	if tags := strings.Split(u.tags, ","); len(tags) > 30 {
		return u, errors.New("more than 30 tags")
	}
	return u, nil
}

// set takes one part of the form.
func (u *upload) set(part *multipart.Part, content []byte) error {
	switch part.FormName() {
	case "file":
		u.file, u.content = part.FileName(), content
	case "filename":
		u.filename = string(content)
	case "additional_tags":
		u.tags = string(content)
	case "comments":
		u.comments = string(content)
	default:
		return errors.New("not known")
	}
	return nil
}

// newCloudshark returns a destination for the double.
func newCloudshark(s *sharkDouble) *cloudshark {
	return &cloudshark{scheme: "http", host: s.address(), token: token, agent: "pcapdaemon/test", timeout: 10 * time.Second,
		client: newUploadClient(nil, false), retry: func(recording, error, time.Duration) {}}
}

// newRecording returns a recording of size bytes.
func newRecording(size int) (recording, []byte) {
	content := randomBytes(size)
	return recording{id: "r1", name: "web1-eth0.pcap", size: int64(size), tags: []string{"a", "node:web1"}, comments: "filter: none",
		content: func() io.Reader { return bytes.NewReader(content) }}, content
}

func TestUploadForm(t *testing.T) {
	s := startShark(t, nil)
	r, content := newRecording(3_000_000)
	got, err := newCloudshark(s).store(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://" + s.address() + "/captures/cafe1"; got.url != want {
		t.Errorf("want %s, got %s", want, got.url)
	}
	u := s.received()[0]
	if !bytes.Equal(content, u.content) {
		t.Error("the content differs")
	}
	u.content = nil
	if want := (upload{file: r.name, filename: r.name, tags: "a,node:web1", comments: "filter: none", agent: "pcapdaemon/test"}); fmt.Sprint(want) != fmt.Sprint(u) {
		t.Errorf("want %+v, got %+v", want, u)
	}
}

func TestUploadIsFinalAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		code   int
		answer string
		want   []string
	}{
		"words of the server": {403, `{"status":403,"exceptions":["Invalid token.","Go away"]}`, []string{"403", "Invalid token., Go away"}},
		"not JSON":            {404, "<h1>nope</h1>\n\x1b[31m", []string{"404", `"<h1>nope</h1>\n\x1b[31m"`}},
		"very long":           {400, strings.Repeat("x", 5000), []string{"400", strings.Repeat("x", 200) + "…"}},
		"nothing said":        {401, "", []string{"401", "no reason given"}},
		"JSON without words":  {413, `{}`, []string{"413"}},
		"200 without an id":   {200, `{"filename":"x"}`, []string{"200", "no id"}},
		"200 without JSON":    {200, `hello`, []string{"200", "hello"}},
		"redirection":         {302, ``, []string{"302"}},
		"echo of the token":   {400, "no route /api/v1/" + token + "/upload", []string{"400", "/api/v1/<token>/upload"}},
		"token at the edge":   {400, strings.Repeat("x", 190) + token, []string{"400"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startShark(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
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
			if strings.Contains(err.Error(), token[:8]) {
				t.Errorf("the token is in the error: %v", err)
			}
			if strings.Count(err.Error(), "x") > 210 || s.count() != 1 {
				t.Errorf("want a short error after one try, got %d tries, %v", s.count(), err)
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
		"408": {fail(408), 0}, "425": {fail(425), 0}, "429": {fail(429), 0}, "500": {fail(500), 0}, "502": {fail(502), 0}, "503": {fail(503), 0},
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
			s := startShark(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
				if try <= 2 {
					test.failure(w, r)
				}
				return try <= 2
			})
			r, content := newRecording(2_000_000)
			c := newCloudshark(s)
			c.timeout = 30 * time.Second
			var told []error
			c.retry = func(_ recording, err error, _ time.Duration) { told = append(told, err) }
			began := time.Now()
			if _, err := c.store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if uploads := s.received(); len(uploads) != 1 || !bytes.Equal(content, uploads[0].content) {
				t.Error("want the whole content once")
			}
			if took := time.Since(began); len(told) != 2 || took < test.least {
				t.Errorf("want 2 retries after %v at least, got %v after %v", test.least, told, took)
			}
		})
	}
}

// hang is an answer that never comes.
func hang(_ http.ResponseWriter, r *http.Request, _ int) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}

func TestUploadGivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, int) bool
		want   string
		most   time.Duration
	}{
		"never a good answer": {func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(503); return true }, "503", 3 * time.Second},
		"never an answer":     {hang, "no answer", 3 * time.Second},
		"hangs after an error": {func(w http.ResponseWriter, r *http.Request, try int) bool {
			if try == 1 {
				w.WriteHeader(500)
				return true
			}
			return hang(w, r, try)
		}, "500", 3 * time.Second},
		"asked to wait too long": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
			return true
		}, "429", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCloudshark(startShark(t, test.answer))
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
	c := newCloudshark(startShark(t, nil))
	c.host, c.timeout = "127.0.0.1:"+strconv.Itoa(freePort(t)), 500*time.Millisecond
	r, _ := newRecording(100)
	if _, err := c.store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), token) {
		t.Errorf("want the cause without the token, got %v", err)
	}
}

// TestUploadLeavesMemory: an early answer must not leave a transport behind
// that still reads memory which belongs to somebody else by then.
func TestUploadLeavesMemory(t *testing.T) {
	s := startShark(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(403); return true })
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

func TestUploadTags(t *testing.T) {
	many := strings.Repeat("t,", 40)
	for name, test := range map[string]struct {
		request request
		want    string
	}{
		"none":               {request{}, "node:web1,interface:eth0"},
		"all":                {request{Tags: "a, b,,", Customer: "A,B", AlertID: new(uint64)}, "a,b,customer:A_B,alertid:0,node:web1,interface:eth0"},
		"ours before theirs": {request{Tags: many, Customer: "c"}, strings.Repeat("t,", 27) + "customer:c,node:web1,interface:eth0"},
	} {
		if got := strings.Join(uploadTags(test.request, "web1", "eth0"), ","); got != test.want {
			t.Errorf("%s: want %s, got %s", name, test.want, got)
		}
	}
}

func TestFileName(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600))
	if want, got := "we_b-eth0.5_-20260102T020405.000000060Z.pcap", fileName("we/b", "eth0.5:", at); want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}

func TestDirectory(t *testing.T) {
	d := directory{t.TempDir()}
	r, content := newRecording(2_500_000)
	for _, want := range []string{"web1-eth0.pcap", "web1-eth0-2.pcap", "web1-eth0-3.pcap"} {
		got, err := d.store(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(d.path, want); got.file != want {
			t.Errorf("want %s, got %s", want, got.file)
		}
		read, _ := os.ReadFile(got.file)
		info, err := os.Stat(got.file)
		if err != nil || !bytes.Equal(content, read) || info.Mode() != 0o640 {
			t.Errorf("want the content with mode 0640, got mode %v, %v", info.Mode(), err)
		}
	}
	checkDirectory(t, d.path, 3)
}

// checkDirectory fails unless a directory holds so many files, none of them half written.
func checkDirectory(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pcap" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if len(entries) != want {
		t.Errorf("want %d files, got %d", want, len(entries))
	}
}

func TestDirectoryFails(t *testing.T) {
	r, _ := newRecording(100)
	gone := directory{filepath.Join(t.TempDir(), "gone")}
	if _, err := gone.store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), r.name) {
		t.Errorf("want the kernel's words and the name, got %v", err)
	}
	broken := directory{t.TempDir()}
	r.content = func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 50)), errorReader{}) }
	if _, err := broken.store(t.Context(), r); err == nil {
		t.Error("want an error")
	}
	checkDirectory(t, broken.path, 0)
}

// TestDirectoryFull fills a small file system.
func TestDirectoryFull(t *testing.T) {
	needRoot(t)
	d := directory{t.TempDir()}
	mountTmpfs(t, d.path, "size=1m")
	r, _ := newRecording(3 << 20)
	if _, err := d.store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("want the kernel's words, got %v", err)
	}
	checkDirectory(t, d.path, 0)
}

// errorReader is a reader that fails.
type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, fmt.Errorf("read: %w", io.ErrUnexpectedEOF) }

// A fakeDestination stores or fails as it is told.
type fakeDestination struct {
	title string
	err   error
	delay chan struct{}
	hangs bool // until the context ends
	mu    sync.Mutex
	names []string
}

func (f *fakeDestination) name() string { return f.title }

func (f *fakeDestination) store(ctx context.Context, r recording) (receipt, error) {
	if f.delay != nil {
		<-f.delay
	}
	if f.hangs {
		<-ctx.Done()
		return receipt{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, r.name)
	if f.err != nil {
		return receipt{}, f.err
	}
	if f.title == "local" {
		return receipt{file: "/" + r.name}, nil
	}
	return receipt{url: "http://" + r.name}, nil
}

func TestDeliver(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		upload, local *fakeDestination
		always        bool
		want          receipt
		failure       bool
	}{
		"both":                       {&fakeDestination{}, &fakeDestination{title: "local"}, true, receipt{"/x.pcap", "http://x.pcap"}, false},
		"upload only":                {&fakeDestination{}, nil, false, receipt{"", "http://x.pcap"}, false},
		"upload, spare directory":    {&fakeDestination{}, &fakeDestination{title: "local"}, false, receipt{"", "http://x.pcap"}, false},
		"local only":                 {nil, &fakeDestination{title: "local"}, true, receipt{"/x.pcap", ""}, false},
		"upload fails":               {&fakeDestination{err: broken}, &fakeDestination{title: "local"}, true, receipt{"/x.pcap", ""}, true},
		"upload fails, kept":         {&fakeDestination{err: broken}, &fakeDestination{title: "local"}, false, receipt{"/x.pcap", ""}, true},
		"upload fails, kept nowhere": {&fakeDestination{err: broken}, nil, false, receipt{}, true},
		"local fails":                {&fakeDestination{}, &fakeDestination{title: "local", err: broken}, true, receipt{"", "http://x.pcap"}, true},
		"both fail":                  {&fakeDestination{err: broken}, &fakeDestination{title: "local", err: broken}, true, receipt{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			observed := 0
			var mu sync.Mutex
			d := delivery{always: test.always, unused: func(name string) string { return name },
				observe: func(string, time.Duration, error) { mu.Lock(); observed++; mu.Unlock() }}
			want := 0
			if test.upload != nil {
				d.upload = test.upload
			}
			if test.local != nil {
				d.local = test.local
			}
			got, err := d.deliver(t.Context(), recording{name: "x.pcap"})
			if got != test.want || (err != nil) != test.failure {
				t.Errorf("want %+v, got %+v, %v", test.want, got, err)
			}
			for _, to := range []*fakeDestination{test.upload, test.local} {
				if to != nil {
					want += len(to.names)
				}
			}
			if observed != want || want == 0 {
				t.Errorf("want %d deliveries counted, got %d", want, observed)
			}
		})
	}
}

// TestDeliverAtOnce: a file is there while the upload still hangs.
func TestDeliverAtOnce(t *testing.T) {
	hanging := &fakeDestination{delay: make(chan struct{})}
	dir := directory{t.TempDir()}
	d := delivery{upload: hanging, local: dir, unused: dir.unused, always: true, observe: func(string, time.Duration, error) {}}
	r, _ := newRecording(100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = d.deliver(t.Context(), r)
	}()
	eventually(t, 5*time.Second, "the file is written", func() bool {
		_, err := os.Stat(filepath.Join(dir.path, r.name))
		return err == nil
	})
	close(hanging.delay)
	<-done
}

// TestDeliverSameName: the upload bears the name of the file.
func TestDeliverSameName(t *testing.T) {
	dir := directory{t.TempDir()}
	r, _ := newRecording(100)
	if err := os.WriteFile(filepath.Join(dir.path, r.name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	to := &fakeDestination{}
	d := delivery{upload: to, local: dir, unused: dir.unused, always: true, observe: func(string, time.Duration, error) {}}
	got, err := d.deliver(t.Context(), r)
	if want := "web1-eth0-2.pcap"; err != nil || filepath.Base(got.file) != want || to.names[0] != want {
		t.Errorf("want %s twice, got %s and %s, %v", want, got.file, to.names[0], err)
	}
}

// A certificateAuthority is made for one test.
type certificateAuthority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	file        string // PEM
	dir         string
}

// newCA makes a certificate authority.
func newCA(t testing.TB) *certificateAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &certificateAuthority{key: key, dir: t.TempDir()}
	ca.certificate = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	ca.file = filepath.Join(ca.dir, "ca.pem")
	ca.write(t, ca.file, ca.certificate, &key.PublicKey)
	return ca
}

// write signs a certificate and writes it to a file.
func (ca *certificateAuthority) write(t testing.TB, file string, c *x509.Certificate, public *ecdsa.PublicKey) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, ca.certificate, public, ca.key)
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for 127.0.0.1 and returns its files.
func (ca *certificateAuthority) issue(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(ca.dir, "server.pem"), filepath.Join(ca.dir, "server.key")
	ca.write(t, certificate, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &private.PublicKey)
	der, err := x509.MarshalECPrivateKey(private)
	if err == nil {
		err = os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// startTLSShark starts a double with a certificate of the CA.
func startTLSShark(t testing.TB, ca *certificateAuthority) *sharkDouble {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(ca.issue(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &sharkDouble{}
	s.Server = httptest.NewUnstartedServer(s)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestUploadVerifiesCertificate(t *testing.T) {
	ca := newCA(t)
	s := startTLSShark(t, ca)
	own, err := readCAs(ca.file, x509.NewCertPool())
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
			retries := 0
			c.retry = func(recording, error, time.Duration) { retries++ }
			r, _ := newRecording(100)
			_, err := c.store(t.Context(), r)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("want %q in the error, got %v", test.want, err)
			}
			if retries > 0 {
				t.Errorf("want no second try, got %d", retries)
			}
		})
	}
}
