//go:build soak

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestSoak lets mixed requests, outages of Redis and failures of CloudShark
// run into each other for ten minutes, or for SOAK, a duration. Then every
// accepted request must have got exactly one final result, every file must be
// whole, and memory must be where it was.
func TestSoak(t *testing.T) {
	duration := 10 * time.Minute
	if d, err := time.ParseDuration(os.Getenv("SOAK")); err == nil {
		duration = d
	}
	// Redis forgets what it has not sent when it is killed. So results are let
	// through only while somebody hears them, and no more just before a kill.
	users := "--user default on nopass ~* resetchannels &capture +@all --user ear on >ear allchannels +@all"
	r := testbed.StartRedis(t, strings.Fields(users)...)
	var sick atomic.Bool // CloudShark
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if !sick.Load() || try%3 == 0 {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		if try%3 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
		return true
	})
	dir := t.TempDir()
	args, port := listening(t)
	args = append(args, "-cstimeout", "20s", "-maxmemory", "64MiB")
	startDaemon(t, r, slices.Concat(args, uploading(t, s), keeping(dir))...)
	stream := testbed.StartStream(t, time.Millisecond)

	tally := newTally()
	var listening sync.WaitGroup
	hear := func(l *listener, until <-chan struct{}) {
		listening.Go(func() {
			for {
				select {
				case message := <-l.messages:
					tally.take(parseResult(message))
				case <-until:
					return
				}
			}
		})
	}
	ended := make(chan struct{})
	hear(listenAs(t, r, "ear", "ear"), ended)
	r.Do(t, "ACL", "SETUSER", "default", "allchannels")

	memory := func() float64 { return series(t, port, "process_resident_memory_bytes") }
	var early float64
	began := time.Now()
	for n := 0; time.Since(began) < duration; n++ {
		if early == 0 && time.Since(began) > duration/5 {
			early = memory()
		}
		sick.Store(n%1000 > 500)
		switch {
		case n%800 == 400:
			r.Do(t, "ACL", "SETUSER", "default", "resetchannels", "&capture")
			time.Sleep(100 * time.Millisecond)
			r.Signal(t, syscall.SIGKILL)
			r.Wait(t, 5*time.Second)
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
			r.Restart(t)
			hear(listenAs(t, r, "ear", "ear"), ended)
			r.Do(t, "ACL", "SETUSER", "default", "allchannels")
			r.AwaitSubscribers(t, 10*time.Second, 1)
		case n%800 == 600:
			r.Signal(t, syscall.SIGSTOP)
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
			r.Signal(t, syscall.SIGCONT)
		}
		r.Publish(t, soakRequest(n, stream))
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
	}
	sick.Store(false)
	testbed.Eventually(t, time.Minute, "all captures have ended", func() bool {
		return tally.running() == 0 && series(t, port, "pcapdaemon_memory_held_bytes") == 0
	})
	time.Sleep(time.Second)
	close(ended)
	listening.Wait()

	accepted := series(t, port, `pcapdaemon_requests_total{outcome="accepted"}`)
	if int(accepted) != len(tally.started) {
		t.Errorf("%v accepted, %d said to have started", accepted, len(tally.started))
	}
	for id := range tally.started {
		if tally.final[id] != 1 {
			t.Errorf("%s: %d final results", id, tally.final[id])
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != tally.files {
		t.Errorf("%d files are said to be written, %d are there", tally.files, len(files))
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		testbed.ReadPcap(t, file)
		file.Close()
	}
	time.Sleep(20 * time.Second) // memory that nobody wants is given back after 15 s
	if late := memory(); late > early+16<<20 {
		t.Errorf("resident memory grew from %.0f to %.0f bytes", early, late)
	}
	fmt.Printf("%v: %d captures, %d refused, %d failed, %d files, %d uploads, "+
		"resident memory %.1f MiB early and %.1f MiB at the end\n",
		duration, len(tally.started), tally.refused, tally.failed, len(files), len(s.Received()),
		early/(1<<20), memory()/(1<<20))
}

// soakRequest returns the n-th request: good, bad, for others, or no request at all.
func soakRequest(n int, s *testbed.Stream) string {
	switch n % 10 {
	case 0:
		return `{"node":"web1","interface":"lo","bpf":"nonsense","id":"bad` + strconv.Itoa(n) + `"}`
	case 1:
		return `{"node":"web2","interface":"lo"}`
	case 2:
		return `{"node":"web1","interface":"nosuch0"}`
	case 3:
		return `{broken`
	case 4:
		return fmt.Sprintf(`{"nodere":"^web","interface":"any","timeout":1,"bpf":"%s","id":"n%d"}`, s.Filter(), n)
	case 5:
		return fmt.Sprintf(`{"node":"any","interface":"lo","bytes":%d,"timeout":2,"bpf":"%s","id":"n%d"}`,
			24+rand.IntN(20000), s.Filter(), n)
	}
	return fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"timeout":2,"bpf":"%s","id":"n%d"}`,
		1+rand.IntN(500), s.Filter(), n)
}

// A tally counts results by request.
type tally struct {
	mu      sync.Mutex
	started map[string]bool
	final   map[string]int
	files   int
	refused int
	failed  int
}

func newTally() *tally { return &tally{started: map[string]bool{}, final: map[string]int{}} }

// take counts a result.
func (c *tally) take(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.State {
	case "started":
		c.started[r.ID] = true
		return
	case "refused":
		c.refused++
		return
	case "failed":
		c.failed++
	}
	c.final[r.ID]++
	if r.File != "" {
		c.files++
	}
}

// running returns how many have started and not ended.
func (c *tally) running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.started) - len(c.final)
}
