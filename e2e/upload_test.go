package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

func TestFailedUploadIsKept(t *testing.T) {
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(403)
		fmt.Fprint(w, `{"status":403,"exceptions":["Invalid token for `+sharktest.Token+`"]}`)
		return true
	})
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	d := startDaemon(t, r, append(uploading(t, s), "-destdir", dir)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","packets":5,"bpf":"`+stream.Filter()+`"}`)
	got := l.final(t, time.Minute)
	got.check(t, says{"state": "failed", "error": about("403"), "url": nil})
	got.check(t, says{"error": about("Invalid token")})
	if _, err := os.Stat(got.File); err != nil {
		t.Errorf("the capture is lost: %v", err)
	}
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 0 { // it failed before the stop
		t.Errorf("want exit code 0, got %d", code)
	}
	if !regexp.MustCompile(`level=error msg="capture failed" .*403`).MatchString(d.Output.String()) {
		t.Errorf("want an error in the log for evidence that has not arrived, got %s", d.Output.String())
	}
	if strings.Contains(got.Error+d.Output.String(), sharktest.Token) {
		t.Error("the token was shown")
	}
}

// TestFailingUploadHoldsUpNobody: while one upload is retried, others go out.
func TestFailingUploadHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try == 1 {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(503)
		}
		return try == 1
	})
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, uploading(t, s)...)
	stream := testbed.StartStream(t, time.Millisecond)
	request := `{"node":"web1","interface":"lo","packets":5,"id":"%s","bpf":"` + stream.Filter() + `"}`
	r.Publish(t, fmt.Sprintf(request, "unlucky"))
	testbed.Eventually(t, time.Minute, "the first try", func() bool { return s.Count() == 1 })
	r.Publish(t, fmt.Sprintf(request, "lucky"))
	for _, want := range []string{"lucky", "unlucky"} {
		l.final(t, time.Minute).check(t, says{"id": want, "state": "done"})
	}
}
