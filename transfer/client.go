// Package transfer brings capture files to servers that speak HTTP, and that may
// be slow, silent, busy or gone. It holds what uploads to CloudShark and to a store
// have in common: connections that are given up when they stand still, bounded
// answers, what is final and what is tried again. It knows no server's own words.
package transfer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"

	"github.com/cenkalti/backoff/v5"
)

// Bounds of what is taken of an answer, in bytes, and of the redirections that
// are followed.
const (
	maxHeader    = 1 << 16
	maxBody      = 1 << 16
	maxRedirects = 3
)

// A Client sends requests over connections of their own: transfers are rare, and a
// kept connection would be stale when it is needed. It may be used by several at one time.
type Client struct{ *http.Transport }

// NewClient returns a client that believes the authorities given (nil: the
// system's), or any certificate if it is insecure.
func NewClient(cas *x509.CertPool, insecure bool, p StallTimeouts) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: cas, InsecureSkipVerify: insecure}
	transport.ForceAttemptHTTP2 = false
	transport.DisableKeepAlives = true
	transport.MaxResponseHeaderBytes = maxHeader
	transport.DialContext = p.Dial
	return &Client{transport}
}

// A Request is what is sent to a server, again after each redirection.
type Request struct {
	Method  string
	Address *url.URL // without user and password
	Header  http.Header
	Body    func() io.Reader // anew for each time that it is sent
	Length  int64            // of the body, in bytes
	// Authorize adds what shows who sends the request; nil: nothing does.
	Authorize func(*http.Request) error
}

// Send sends a request and returns the answer, whatever it says. It blocks until the
// answer has been read, or the context has ended; nothing of the body is read after
// that. A redirection is followed if it keeps method, scheme and host: elsewhere, the
// request would be lost, or a token would be shown to a stranger. Success that is answered before all was
// sent is an error: whoever says so cannot have the file. Errors that
// another try cannot mend are permanent.
func (c *Client) Send(ctx context.Context, r Request) (Answer, error) {
	for redirects := 0; ; redirects++ {
		answer, err := c.send(ctx, r)
		if err != nil {
			return Answer{}, err
		}
		next := answer.next(r.Address)
		if next == nil || redirects == maxRedirects {
			return answer, nil
		}
		r.Address = next
	}
}

// send sends a request once. It does without http.Client, which would stumble
// over a redirection that it cannot read, and quote addresses in its errors.
func (c *Client) send(ctx context.Context, r Request) (Answer, error) {
	body := &body{reader: r.Body()}
	defer body.Close()
	request, err := http.NewRequestWithContext(ctx, r.Method, r.Address.String(), body)
	if err != nil {
		return Answer{}, backoff.Permanent(errors.New("the address is not valid"))
	}
	request.Header, request.ContentLength = r.Header.Clone(), r.Length
	if r.Authorize != nil {
		if err := r.Authorize(request); err != nil {
			return Answer{}, err
		}
	}
	response, err := c.RoundTrip(request)
	if err != nil {
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			return Answer{}, backoff.Permanent(err)
		}
		return Answer{}, err
	}
	defer response.Body.Close()
	answer := Answer{Code: response.StatusCode, Header: response.Header}
	if answer.Body, err = io.ReadAll(io.LimitReader(response.Body, maxBody)); err != nil {
		answer.Cut = fmt.Errorf("read answer: %w", err)
	}
	if answer.Code/100 == 2 && body.taken() < r.Length {
		return Answer{}, cmp.Or(answer.Cut, fmt.Errorf("%s, before all was sent", response.Status))
	}
	return answer, nil
}

// A body is the content of a request that can be taken away from the transport,
// which may go on reading after an early answer, when the memory under the
// capture file belongs to another capture.
type body struct {
	mu     sync.Mutex
	reader io.Reader // nil once closed
	size   int64     // bytes that were read
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		return 0, os.ErrClosed
	}
	n, err := b.reader.Read(p)
	b.size += int64(n)
	return n, err
}

// taken returns how many bytes were read.
func (b *body) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// Close implements io.Closer; no Read touches the content after it.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = nil
	return nil
}
