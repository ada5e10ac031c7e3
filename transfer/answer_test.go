package transfer

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
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
