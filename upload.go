package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
	"pcapdaemon/text"
)

// maxTags is the number of tags that CloudShark takes.
const maxTags = 30

// uploadTags returns the tags of a capture: all that the first request and its
// host give, where the request's own give way if they are too many, then what
// the others add.
func uploadTags(requesters []requester, node, iface string) []string {
	first := requesters[0].request
	ours := append(first.marks(), "node:"+flat(node), "interface:"+flat(iface))
	tags := first.tags()
	tags = append(tags[:min(len(tags), maxTags-len(ours))], ours...)
	for _, a := range requesters[1:] {
		for _, tag := range slices.Concat(a.request.tags(), a.request.marks()) {
			if len(tags) == maxTags {
				return tags
			}
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// maxAnswer is the number of bytes that are read of CloudShark's answer.
const maxAnswer = 1 << 16

// A cloudshark is a CloudShark appliance or service. The token is part of
// the address, so no error may show it.
type cloudshark struct {
	scheme, host, token string
	agent               string        // User-Agent
	timeout             time.Duration // for one capture file, retries included
	client              *http.Client
	observer            store.Observer
	single              bool // whoever wants another try asks for it
}

// newUploadClient returns the HTTP client for uploads. Each has a connection of
// its own: they are rare, and a kept one would be stale when it is needed. A
// redirection is an answer like any other; following it would lose the POST or
// show the token to a stranger.
func newUploadClient(cas *x509.CertPool, insecure bool, p store.StallTimeouts) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: cas, InsecureSkipVerify: insecure}
	transport.ForceAttemptHTTP2 = false
	transport.DisableKeepAlives = true
	transport.DialContext = p.Dial
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newCloudshark returns the CloudShark of a configuration.
func newCloudshark(c sharkConfig, observer store.Observer) *cloudshark {
	return &cloudshark{scheme: c.scheme, host: c.host, token: c.token, agent: "pcapdaemon/" + version, timeout: c.timeout,
		client: newUploadClient(c.cas, c.insecure, store.NewStallTimeouts(c.timeout)), observer: observer}
}

// Name implements store.Destination.
func (*cloudshark) Name() string { return "cloudshark" }

// Store uploads a capture file. It tries until CloudShark has it, refuses it, or
// the time is up.
func (c *cloudshark) Store(ctx context.Context, r store.File) (store.Place, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	last := errors.New("no answer") // of the newest try that was not cut short
	try := func() (string, error) {
		id, err := c.post(ctx, r)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return id, err
	}
	options := []backoff.RetryOption{
		backoff.WithMaxElapsedTime(c.timeout),
		backoff.WithNotify(func(err error, wait time.Duration) { c.observer.Retried(r, err, wait) }),
	}
	if c.single {
		options = append(options, backoff.WithMaxTries(1))
	}
	id, err := backoff.Retry(ctx, try, options...)
	switch {
	case err == nil:
		return store.Place{URL: c.scheme + "://" + c.host + "/captures/" + url.PathEscape(id)}, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		last = fmt.Errorf("given up after %s: %w", text.FormatDuration(c.timeout), last)
	case ctx.Err() != nil:
		last = fmt.Errorf("stopped: %w", last)
	}
	return store.Place{}, fmt.Errorf("upload to %s: %w", c.host, last)
}

// once returns a CloudShark that tries only once.
func (c *cloudshark) once() *cloudshark {
	once := *c
	once.single = true
	return &once
}

// post uploads a capture file once and returns its id. Errors that another try
// cannot mend are permanent.
func (c *cloudshark) post(ctx context.Context, r store.File) (string, error) {
	head, tail, contentType := encodeForm(r)
	body := &body{reader: io.MultiReader(bytes.NewReader(head), r.Content(), bytes.NewReader(tail))}
	defer body.Close()
	address := c.scheme + "://" + c.host + "/api/v1/" + url.PathEscape(c.token) + "/upload"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, body)
	if err != nil {
		return "", backoff.Permanent(errors.New("the address is not valid"))
	}
	request.ContentLength = int64(len(head)) + r.Size + int64(len(tail))
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", c.agent)
	response, err := c.client.Do(request)
	if err != nil {
		var certificate *tls.CertificateVerificationError
		final := errors.As(err, &certificate)
		for address := (*url.Error)(nil); errors.As(err, &address); {
			err = address.Err
		}
		if err = errors.New(c.redact(err.Error())); final {
			return "", backoff.Permanent(err)
		}
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil && response.StatusCode == http.StatusOK {
		return "", fmt.Errorf("read answer: %w", err)
	}
	return c.readAnswer(response, text)
}

// redact takes the token out of what others say, who may have escaped it.
func (c *cloudshark) redact(text string) string {
	path := url.URL{Path: c.token}
	forms := []string{c.token, url.PathEscape(c.token), url.QueryEscape(c.token), path.EscapedPath()}
	for i, form := range forms {
		forms[i] = regexp.QuoteMeta(form)
	}
	// %2F and %2f are the same.
	return regexp.MustCompile("(?i)"+strings.Join(forms, "|")).ReplaceAllLiteralString(text, "<token>")
}

// readAnswer returns the id that CloudShark gave, or what it said instead.
func (c *cloudshark) readAnswer(response *http.Response, body []byte) (string, error) {
	var answer struct {
		ID         string `json:"id"`
		Exceptions []any  `json:"exceptions"`
	}
	isJSON := json.Unmarshal(body, &answer) == nil
	code := response.StatusCode
	if code == http.StatusOK && answer.ID != "" {
		return answer.ID, nil
	}
	words := "no reason given"
	switch {
	case code >= 300 && code < 400 && response.Header.Get("Location") != "":
		words = "it redirects to " + text.Quote(c.redact(response.Header.Get("Location"))) + ", which is not followed"
	case len(answer.Exceptions) > 0:
		list := make([]string, len(answer.Exceptions))
		for i, exception := range answer.Exceptions {
			list[i] = fmt.Sprint(exception)
		}
		words = text.Printable(c.redact(strings.Join(list, ", ")))
	case isJSON && code == http.StatusOK:
		words = "the answer holds no id"
	case len(body) > 0:
		words = text.Quote(c.redact(string(body)))
	}
	err := fmt.Errorf("%d %s: %s", code, http.StatusText(code), words)
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		if wait := retryAfter(response.Header.Get("Retry-After")); wait > 0 {
			err = postponed{err, wait}
		}
		return "", err
	}
	return "", backoff.Permanent(store.Refusal{Err: err})
}

// retryAfter returns the wait that a Retry-After header asks for, in seconds
// or as a date (RFC 9110, 10.2.3), or 0.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(header); err == nil {
		return time.Until(date)
	}
	return 0
}

// A postponed error says when to try again.
type postponed struct {
	error
	wait time.Duration
}

// Unwrap shows the wait to the backoff package.
func (p postponed) Unwrap() []error {
	return []error{p.error, &backoff.RetryAfterError{Duration: p.wait}}
}

// encodeForm returns what stands before and after the capture file's content in
// the form that CloudShark takes, and the form's content type.
func encodeForm(r store.File) (head, tail []byte, contentType string) {
	var text bytes.Buffer
	form := multipart.NewWriter(&text)
	// Writing to memory cannot fail.
	_, _ = form.CreateFormFile("file", r.Name)
	split := text.Len()
	_ = form.WriteField("filename", r.Name)
	_ = form.WriteField("additional_tags", strings.Join(r.Tags, ","))
	_ = form.WriteField("comments", r.Comments)
	_ = form.Close()
	return text.Bytes()[:split], text.Bytes()[split:], form.FormDataContentType()
}

// A body is the content of a POST that can be taken away from the transport,
// which may go on reading after an early answer, when the memory under the
// capture file belongs to another capture.
type body struct {
	mu     sync.Mutex
	reader io.Reader // nil once closed
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		return 0, os.ErrClosed
	}
	return b.reader.Read(p)
}

// Close implements io.Closer; no Read touches the content after it.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = nil
	return nil
}
