package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestResultsSurviveOutage: a capture that runs while Redis is away is
// delivered, and its result comes when Redis is back.
func TestResultsSurviveOutage(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	startDaemon(t, r, keeping(dir)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"first","timeout":2,"bpf":"`+stream.Filter()+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"second","timeout":3,"bpf":"`+stream.Filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	l.await(t, 5*time.Second, "started")
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 5*time.Second)
	testbed.Eventually(t, 10*time.Second, "both captures are written", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
		return len(files) == 2
	})
	r.Restart(t)
	l = listen(t, r)
	for _, want := range []string{"first", "second"} {
		if got := l.next(t, 6*time.Second); got.ID != want || got.State != "done" {
			t.Errorf("want %s done, got %+v", want, got)
		}
	}
}

// TestFailingUploadHoldsUpNobody: while one upload is retried, others go out.
func TestFailingUploadHoldsUpNobody(t *testing.T) {
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
	testbed.Eventually(t, 5*time.Second, "the first try", func() bool { return s.Count() == 1 })
	r.Publish(t, fmt.Sprintf(request, "lucky"))
	for _, want := range []string{"lucky", "unlucky"} {
		if got := l.await(t, 10*time.Second, "done", "failed"); got.ID != want || got.State != "done" {
			t.Errorf("want %s done, got %+v", want, got)
		}
	}
}

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
	got := l.await(t, 5*time.Second, "done", "failed")
	if got.State != "failed" || !strings.Contains(got.Error, "403") || !strings.Contains(got.Error, "Invalid token") || got.URL != "" {
		t.Errorf("want the server's words, got %+v", got)
	}
	if _, err := os.Stat(got.File); err != nil {
		t.Errorf("the capture is lost: %v", err)
	}
	if strings.Contains(got.Error+d.Output.String(), sharktest.Token) {
		t.Error("the token was shown")
	}
}
