package main

import (
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

// hang is an answer that never comes.
func hang(_ http.ResponseWriter, r *http.Request, _ int) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
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
	ca.certificate = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
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
	ca.write(t, certificate, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &private.PublicKey)
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
