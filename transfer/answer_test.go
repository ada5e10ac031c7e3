package transfer

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
)

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

// TestFailure: which answers another try may change.
func TestFailure(t *testing.T) {
	for code, again := range map[int]bool{400: false, 401: false, 403: false, 404: false, 408: true, 409: false, 413: false,
		425: true, 429: true, 500: true, 502: true, 503: true, 507: true, 302: false} {
		err := Answer{Code: code}.Failure("x")
		if permanent := errors.As(err, new(*backoff.PermanentError)); permanent == again || store.IsRefusal(err) == again {
			t.Errorf("%d: want another try: %v, got %v", code, again, err)
		}
	}
	for header, want := range map[string]time.Duration{"90": 90 * time.Second, "0": 0, "": 0} {
		var asked *backoff.RetryAfterError
		err := Answer{Code: 503, Header: http.Header{"Retry-After": {header}}}.Failure("x")
		if got := errors.As(err, &asked); got != (want > 0) || got && asked.Duration != want {
			t.Errorf("%q: want a wait of %v, got %v", header, want, asked)
		}
	}
}
