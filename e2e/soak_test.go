//go:build soak

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// soakMemory is what all captures of the soak may hold together, in bytes.
const soakMemory = 256 << 20

// TestSoak lets mixed and hostile requests, messages of 20 MB, a Redis that dies,
// hangs, moves and lies, an interface that loses its name, connections that say
// nothing, and a CloudShark that fails and stalls run into each other for ten
// minutes, or for SOAK, a duration. Then every capture that began must have got its one
// final result, every file must be whole, and all that was taken must have been
// given back.
func TestSoak(t *testing.T) {
	if !testbed.Inside(t, "soak", "") {
		return
	}
	duration := 10 * time.Minute
	if text := os.Getenv("SOAK"); text != "" {
		duration = parseDuration(t, text)
	}
	s := newSoak(t)
	atRest := usage(t, s.daemon, s.port)
	began := time.Now()
	for n := 0; time.Since(began) < duration; n++ {
		s.shark.sick.Store(n%1000 > 500)
		switch n % 2400 {
		case 200, 1800:
			renameLink(t)
		case 600:
			s.redis.publish(t, strings.Repeat(" ", 20<<20))
		case 1000:
			s.redis.lie(t)
		case 1400, 2200:
			idle(t, s.port)
		case 400, 2000:
			s.redis.kill(t)
		case 800:
			s.redis.hang(t, time.Duration(rand.IntN(2000))*time.Millisecond)
		case 1200:
			s.redis.hang(t, 17*time.Second) // longer than anybody waits for an answer
		case 1600:
			s.redis.move(t)
		}
		s.redis.publish(t, soakRequest(n, s.stream))
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
	}
	s.shark.sick.Store(false)
	testbed.Eventually(t, 2*time.Minute, "all captures have ended and are delivered", func() bool {
		return s.tally.running() == 0 && series(t, s.port, "pcapdaemon_memory_held_bytes") == 0
	})
	time.Sleep(2 * time.Second) // for results that come twice
	s.redis.deafen()
	s.judge(t, atRest)
	fmt.Printf("%v: %s, %d uploads, resident memory %.1f MiB at rest, %.1f MiB at the end, %.1f MiB at its peak\n",
		duration, s.tally, len(s.shark.Received()), mebibyte(atRest["memory"]),
		mebibyte(int(memory(t, s.daemon, "VmRSS"))), mebibyte(int(memory(t, s.daemon, "VmHWM"))))
}

// mebibyte returns bytes in MiB.
func mebibyte(bytes int) float64 { return float64(bytes) / (1 << 20) }

// A soak is a daemon and all that it is exposed to.
type soak struct {
	daemon *testbed.Process
	port   int    // of its endpoint
	dir    string // of its captures
	redis  *soakRedis
	shark  *soakShark
	stream *testbed.Stream
	tally  *tally
}

// newSoak starts everything.
func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{dir: t.TempDir(), shark: startSoakShark(t), tally: newTally()}
	s.stream = testbed.StartStream(t, time.Millisecond)
	addSoakLink(t)
	s.redis = startSoakRedis(t, s.tally)
	var args []string
	args, s.port = listening(t)
	// With a quarter of -cstimeout below 15 s, those count.
	args = append(args, "-redisnode", "127.0.0.1", "-cstimeout", "40s", "-maxmemory", fmt.Sprint(soakMemory), "-record", soakLink, "-recordsize", "8MiB")
	s.daemon = testbed.Start(t, s.redis.command(slices.Concat(args, uploading(t, s.shark.Server), keeping(s.dir))...))
	s.redis.awaitDaemon(t)
	return s
}

// judge looks at what is left.
func (s *soak) judge(t *testing.T, atRest map[string]int) {
	t.Helper()
	s.tally.judge(t, int(series(t, s.port, `pcapdaemon_requests_total{outcome="accepted"}`)))
	if code, body := get(t, s.port, "/healthz"); code != 200 {
		t.Errorf("want a healthy daemon, got %d: %s", code, body)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if want, got := len(s.tally.files), len(files); want != got {
		t.Errorf("%d files are said to be written, %d are there", want, got)
	}
	for _, name := range files {
		if !s.tally.files[name] {
			t.Errorf("nobody was told of %s", name)
		}
		readPackets(t, name)
	}
	if peak := memory(t, s.daemon, "VmHWM"); peak > soakMemory+96<<20 {
		t.Errorf("resident memory was up to %d bytes", peak)
	}
	time.Sleep(20 * time.Second) // memory that nobody wants is given back after 15 s
	late := usage(t, s.daemon, s.port)
	for what, slack := range map[string]int{"descriptors": 8, "packet sockets": 0, "goroutines": 8, "memory": 32 << 20} {
		if late[what] > atRest[what]+slack {
			t.Errorf("%s: %d before, %d after it", what, atRest[what], late[what])
		}
	}
	if log := s.daemon.Output.String(); strings.Contains(log, "panic") {
		t.Error("something panicked")
	}
}
