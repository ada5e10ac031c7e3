package object

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pcapdaemon/store"
)

// saying returns an answer of S3 with an error to the first so many tries.
func saying(tries, status int, code, message string) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try > tries {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("Date", time.Now().Add(-20*time.Minute).UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message><Resource>/x</Resource></Error>`,
			code, message)
		return true
	}
}

// bucketAt returns a destination that is a bucket of a double.
func bucketAt(t *testing.T, s *double) (*Destination, *observer) {
	t.Helper()
	return newDestination(t, "s3://captures/x?endpoint="+s.URL, Options{Keys: newKeys("writer", "wr1tersecret")})
}

// TestBucketIsFinal: what another try would not change, in the service's words.
func TestBucketIsFinal(t *testing.T) {
	for name, test := range map[string]struct {
		status              int
		code, message, want string
	}{
		"wrong key":     {403, "SignatureDoesNotMatch", "The signature of wr1tersecret is wrong", "403 Forbidden: SignatureDoesNotMatch: The signature of <secret> is wrong"},
		"wrong clock":   {403, "RequestTimeTooSkewed", "The difference is too large.", "RequestTimeTooSkewed: The difference is too large.; the clock of this host is 20m"},
		"no message":    {404, "NoSuchBucket", "", "404 Not Found: NoSuchBucket"},
		"another place": {301, "PermanentRedirect", "Use the endpoint.", "301 Moved Permanently: PermanentRedirect: Use the endpoint."},
		"strange":       {400, "a\x1b[31m", strings.Repeat("x", 5000), "400 Bad Request: "},
		"no XML":        {403, "</Code>", "", `403 Forbidden: "<?xml`},
	} {
		t.Run(name, func(t *testing.T) {
			d, told := bucketAt(t, startDouble(t, saying(100, test.status, test.code, test.message)))
			r, _ := newFile(1000)
			_, err := d.Store(t.Context(), r)
			if !store.IsRefusal(err) || !strings.Contains(err.Error(), test.want) || len(told.retries) > 0 {
				t.Errorf("want %s at once, got %v, %v", test.want, err, told.retries)
			}
			if strings.ContainsAny(err.Error(), "\x1b") || len(err.Error()) > 400 {
				t.Errorf("want it short and printable, got %q", err)
			}
		})
	}
}

// TestBucketIsRetried: what may pass is tried again, whatever its status.
func TestBucketIsRetried(t *testing.T) {
	t.Parallel()
	for code, status := range map[string]int{"SlowDown": 503, "InternalError": 500, "RequestTimeout": 400, "ExpiredToken": 400,
		"OperationAborted": 409, "ConditionalRequestConflict": 409} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			s := startDouble(t, saying(1, status, code, "Later."))
			d, told := bucketAt(t, s)
			r, content := newFile(200_000)
			place, err := d.Store(t.Context(), r)
			if err != nil || place.URL != "s3://captures/x/web1-eth0.pcap" {
				t.Fatal(place, err)
			}
			if len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), code+": Later.") {
				t.Errorf("want one retry, got %v", told.retries)
			}
			if !bytes.Equal(content, s.objects["/captures/x/web1-eth0.pcap"]) {
				t.Error("the content differs")
			}
		})
	}
}

// TestBucketForgetsKeys: keys that are refused are looked for again, because a file or a role may hold others.
func TestBucketForgetsKeys(t *testing.T) {
	for _, code := range []string{"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "AccessDenied",
		"NoSuchBucket"} {
		forgetKeys(t)
		asked := startRole(t, time.Hour, "x")
		keys, err := FindKeys(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := startDouble(t, saying(1, http.StatusForbidden, code, ""))
		d, _ := newDestination(t, "s3://captures/x?endpoint="+s.URL, Options{Keys: keys})
		for range 2 {
			r, _ := newFile(100)
			_, _ = d.Once().Store(t.Context(), r)
		}
		want := 2
		if code == "NoSuchBucket" {
			want = 1
		}
		if *asked != want {
			t.Errorf("%s: want the role asked %d times, got %d", code, want, *asked)
		}
		for _, secret := range []string{"r0lesecret", "t0ken"} {
			if said := d.server.redact("so " + secret + " said"); strings.Contains(said, secret) {
				t.Errorf("%s is shown: %s", secret, said)
			}
		}
	}
}

// TestBucketWithoutKeys: keys that are away for a while refuse nothing for good.
func TestBucketWithoutKeys(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	keys, err := FindKeys(nil)
	if err == nil {
		t.Fatal("want no keys here")
	}
	s := startDouble(t, nil)
	d, told := newDestination(t, "s3://captures/x?endpoint="+s.URL, Options{Keys: keys, Timeout: 10 * time.Second})
	told.first = func() { keys.found = newKeys("writer", "wr1tersecret").found }
	r, _ := newFile(1000)
	if _, err := d.Store(t.Context(), r); err != nil || len(told.retries) != 1 || !strings.Contains(told.retries[0].Error(), "no keys found") {
		t.Errorf("want it stored when there are keys, got %v, %v", err, told.retries)
	}
}

// TestBucketStopsReading: a capture that is read for its checksum holds up no stop.
func TestBucketStopsReading(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r, _ := newFile(8 << 20)
	if _, err := (&bucket{}).describe(ctx, r); err == nil || err.Error() != "stopped" {
		t.Errorf("want it stopped, got %v", err)
	}
	if header, err := (&bucket{}).describe(t.Context(), r); err != nil || len(header.Get("X-Amz-Content-Sha256")) != 64 {
		t.Errorf("want a checksum, got %v, %v", header, err)
	}
}

// TestClockDifference: which way the clock is wrong.
func TestClockDifference(t *testing.T) {
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for date, want := range map[string]string{at(-time.Hour): "ahead of the server's", at(time.Hour): "behind the server's",
		"": "the clock of this host is wrong"} {
		if got := clockDifference(date); !strings.Contains(got, want) {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}
