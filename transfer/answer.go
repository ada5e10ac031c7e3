package transfer

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
	"pcapdaemon/text"
)

// An Answer is what a server said to a request.
type Answer struct {
	Code   int
	Header http.Header
	Body   []byte // no more than its first 64 KiB
	Cut    error  // why the body is not whole; nil: it is, or it is too long
}

// next returns where a redirection leads if it may be followed, or nil.
func (a Answer) next(from *url.URL) *url.URL {
	if a.Code != http.StatusTemporaryRedirect && a.Code != http.StatusPermanentRedirect {
		return nil // the others turn a request into a GET, or do not redirect
	}
	location := a.Header.Get("Location")
	to, err := from.Parse(location)
	if location == "" || err != nil || to.Scheme != from.Scheme || !strings.EqualFold(to.Host, from.Host) {
		return nil
	}
	return to
}

// Reason returns why a request failed, in the server's own words, printable and
// cut short. What they must not show, redact takes out.
func (a Answer) Reason(redact func(string) string) string {
	location := a.Header.Get("Location")
	switch {
	case a.Code >= 300 && a.Code < 400 && location != "": // says more than the page that may come with it
		return "it redirects to " + text.Quote(redact(location)) + ", which is not followed"
	case len(a.Body) > 0:
		return text.Quote(redact(string(a.Body)))
	}
	return "no reason given"
}

// Failure returns an answer as an error: its status and the words given. It is a
// permanent Refusal, unless the status says that another try may help.
func (a Answer) Failure(words string) error {
	err := fmt.Errorf("%d %s: %s", a.Code, http.StatusText(a.Code), words)
	switch {
	case a.Code == http.StatusRequestTimeout, a.Code == http.StatusTooEarly,
		a.Code == http.StatusTooManyRequests, a.Code >= 500:
		if wait := retryAfter(a.Header.Get("Retry-After")); wait > 0 {
			return postponed{err, wait}
		}
		return err
	}
	return backoff.Permanent(store.Refusal{Err: err})
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

// Redact replaces secrets in what others say, who may have escaped them.
func Redact(said, replacement string, secrets ...string) string {
	var forms []string
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		path := url.URL{Path: secret}
		for _, form := range []string{secret, url.PathEscape(secret), url.QueryEscape(secret), path.EscapedPath()} {
			forms = append(forms, regexp.QuoteMeta(form))
		}
	}
	if len(forms) == 0 {
		return said
	}
	// %2F and %2f are the same.
	return regexp.MustCompile("(?i)"+strings.Join(forms, "|")).ReplaceAllLiteralString(said, replacement)
}

// Redacted returns an error without what its words must not show. A permanent one stays so.
func Redacted(err error, redact func(string) string) error {
	said := errors.New(redact(err.Error()))
	if errors.As(err, new(*backoff.PermanentError)) {
		return backoff.Permanent(said)
	}
	return said
}
