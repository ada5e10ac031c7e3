package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// captureName returns the name of a capture of node web1 that began a while ago.
func captureName(ago time.Duration) string {
	return "web1-eth0-" + time.Now().Add(-ago).UTC().Format("20060102T150405.000000000Z") + ".pcap"
}

// strangers are files that no bound of web1's captures concerns.
var strangers = []string{"web2-eth0-20200101T000000.000000000Z.pcap", "web1-eth0-20200101T000000.pcap", "notes.txt",
	"web1-eth0-20200101T000000.000000000Z.pcap.gz"}

// fill makes files of a hundred bytes.
func fill(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSizeOfDirectory: beyond -destsize the oldest captures go after each
// write, and nothing else does.
func TestSizeOfDirectory(t *testing.T) {
	const size = 24 + 20*(16+57) // of a capture
	r := testbed.StartRedis(t)
	l, dir := listen(t, r), t.TempDir()
	fill(t, dir, strangers...)
	args, port := listening(t)
	args = append(args, keeping(dir)...)
	d := startDaemon(t, r, append(args, "-destsize", fmt.Sprint(2*size))...)
	stream := testbed.StartStream(t, time.Millisecond)
	var files []string
	for range 5 {
		r.Publish(t, `{"node":"web1","interface":"lo","packets":20,"bpf":"`+stream.Filter()+`"}`)
		got := l.final(t, time.Minute)
		got.check(t, says{"state": "done", "bytes": size})
		files = append(files, filepath.Base(got.File))
		checkNames(t, dir, slices.Concat(files[max(0, len(files)-2):], strangers)...)
	}
	checkSeries(t, port, map[string]float64{"pcapdaemon_removed_captures_total": 3})
	for i, file := range files {
		said := strings.Contains(d.Output.String(), `"old capture removed" file=`+file)
		if want := i < 3; want != said {
			t.Errorf("capture %d: want its removal said: %v, got %v", i, want, said)
		}
	}
}

// TestAgeOfDirectory: what is beyond -destage goes at the start, but never the newest one.
func TestAgeOfDirectory(t *testing.T) {
	for name, test := range map[string]struct {
		minutes []int // of age
		stay    int   // of them, from the first on
		said    string
	}{
		"some are too old":  {[]int{1, 29, 31, 60}, 2, "old capture removed"},
		"more than ten are": {[]int{0, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50}, 1, "captures=11"},
		"all of them are":   {[]int{60, 120}, 1, "old capture removed"},
		"none is":           {[]int{1, 2}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var names []string
			for _, ago := range test.minutes {
				names = append(names, captureName(time.Duration(ago)*time.Minute))
			}
			fill(t, dir, slices.Concat(strangers, names)...)
			args, port := listening(t)
			args = append(args, keeping(dir)...)
			d := startDaemon(t, testbed.StartRedis(t), append(args, "-destage", "30m")...)
			gone := len(names) - test.stay
			testbed.Eventually(t, time.Minute, "the old ones are removed", func() bool {
				return series(t, port, "pcapdaemon_removed_captures_total") == float64(gone)
			})
			checkNames(t, dir, slices.Concat(names[:test.stay], strangers)...)
			if !strings.Contains(d.Output.String(), test.said) {
				t.Errorf("want %q in the log, got %s", test.said, d.Output.String())
			}
		})
	}
}

// TestDirectoryIsNearlyFull: that is no reason not to write, but one to say so.
func TestDirectoryIsNearlyFull(t *testing.T) {
	testbed.NeedRoot(t)
	dir := t.TempDir()
	testbed.MountTmpfs(t, dir, "size=1m")
	r := testbed.StartRedis(t)
	l := listen(t, r)
	args, port := listening(t)
	startDaemon(t, r, append(args, keeping(dir)...)...)
	stream := testbed.StartStream(t, time.Millisecond)
	health := func(want string) {
		t.Helper()
		if code, got := get(t, port, "/healthz"); code != 200 || got != want {
			t.Errorf("want 200, %q, got %d, %q", want, code, got)
		}
	}
	health("subscribed\n")
	checkSeries(t, port, map[string]float64{"pcapdaemon_destdir_free_bytes": 1 << 20})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20-40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	checkSeries(t, port, map[string]float64{"pcapdaemon_destdir_free_bytes": 40 << 10})
	health("subscribed\n" + dir + " is nearly full: 40 KiB free of 1.0 MiB\n")
	r.Publish(t, `{"node":"web1","interface":"lo","packets":20,"bpf":"`+stream.Filter()+`"}`)
	l.final(t, time.Minute).check(t, says{"state": "done", "file": anything{}})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	health("subscribed\n")
}
