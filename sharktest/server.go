package sharktest

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"pcapdaemon/testbed"
)

// A Server is a double that a test has started.
type Server struct {
	*httptest.Server
	*Handler
}

// Start starts a double with plain HTTP; answer may be nil.
func Start(t testing.TB, answer Answer) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1:0", answer)
}

// StartAt starts a double with plain HTTP at an address, host:port, where
// nothing has listened until now; answer may be nil.
func StartAt(t testing.TB, address string, answer Answer) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	h := &Handler{Token: Token, Answer: answer}
	s := &Server{httptest.NewUnstartedServer(h), h}
	s.Listener.Close()
	s.Listener = listener
	s.Server.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// StartTLS starts a double with a certificate of the authority.
func StartTLS(t testing.TB, ca *testbed.CA) *Server {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(ca.Issue(t))
	if err != nil {
		t.Fatal(err)
	}
	h := &Handler{Token: Token}
	s := &Server{httptest.NewUnstartedServer(h), h}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	s.Server.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// Address returns host:port.
func (s *Server) Address() string { return s.Listener.Addr().String() }

// Hang is an Answer that never comes.
func Hang(_ http.ResponseWriter, r *http.Request, _ int) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}

// Unavailable is an Answer that says so.
func Unavailable(w http.ResponseWriter, r *http.Request, _ int) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusServiceUnavailable)
	return true
}
