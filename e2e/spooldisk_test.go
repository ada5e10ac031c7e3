package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestSpoolIsBroken: a spool that cannot take a capture is said and counted,
// and the capture gets what it would have got without one.
func TestSpoolIsBroken(t *testing.T) {
	t.Parallel()
	inside := func(mount string) string { return filepath.Join(mount, "spool") }
	for name, test := range map[string]struct {
		size          string // of the spool at most
		breakIt, mend func(t *testing.T, mount string)
		want          string
	}{
		"at -spoolsize": {"2000B", nil, nil, "bytes are too many: 0 of 2000 are in use"},
		"full": {"1GiB", func(t *testing.T, mount string) { testbed.Fill(t, mount) }, func(t *testing.T, mount string) {
			if err := os.Remove(filepath.Join(mount, "filler")); err != nil {
				t.Fatal(err)
			}
		}, "no space left on device"},
		"read-only": {"1GiB", func(t *testing.T, mount string) { testbed.RemountReadOnly(t, mount) }, nil,
			"read-only file system"},
		"removed": {"1GiB", func(t *testing.T, mount string) {
			if err := os.RemoveAll(inside(mount)); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, mount string) {
			if err := os.Mkdir(inside(mount), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			testbed.NeedRoot(t)
			mount, dir := t.TempDir(), t.TempDir()
			testbed.MountTmpfs(t, mount, "size=200k")
			if err := os.Mkdir(inside(mount), 0o700); err != nil {
				t.Fatal(err)
			}
			args, port := listening(t)
			a := newAbsence(t, isAway, append(args, "-destdir", dir,
				"-spooldir", inside(mount), "-spoolsize", test.size)...)
			a.spool = inside(mount)
			d := a.start(t)
			if test.breakIt != nil {
				test.breakIt(t, mount)
			}
			r := a.capture(t, "x")
			r.check(t, says{"state": "failed", "packets": 20, "url": nil, "error": about(test.want)})
			r.check(t, says{"error": about("503 Service Unavailable")})
			content, err := os.ReadFile(r.File)
			if err != nil {
				t.Fatal(err)
			}
			checkContent(t, content, r)
			checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 0, "pcapdaemon_spool_bytes": 0,
				`pcapdaemon_deliveries_total{destination="spool",outcome="error"}`: 1,
				`pcapdaemon_deliveries_total{destination="local",outcome="ok"}`:    1})
			if got := d.Output.String(); !strings.Contains(got, test.want) {
				t.Errorf("want %q in the log, got %s", test.want, got)
			}
			if test.mend != nil {
				test.mend(t, mount)
				a.kept(t, "y")
			}
		})
	}
}

// TestSpoolIsDamaged: what cannot be used is set aside and said, what a killed
// daemon has left goes, and the rest is uploaded.
func TestSpoolIsDamaged(t *testing.T) {
	dir := t.TempDir()
	a := newAbsence(t, isAway, "-destdir", dir)
	d := a.start(t)
	names := map[string]string{}
	for _, id := range []string{"flipped", "short", "unbilled", "misbilled", "good"} {
		r := a.capture(t, id)
		r.check(t, says{"state": "kept"})
		names[id] = filepath.Join(a.spool, uploadName(r))
	}
	a.stop(t, d)
	change(t, names["flipped"], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	change(t, names["short"], func(b []byte) []byte { return b[:len(b)-10] })
	change(t, names["misbilled"]+".waybill", func(b []byte) []byte { return b[:100] })
	if err := os.Remove(names["unbilled"] + ".waybill"); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{filepath.Join(a.spool, ".pcapdaemon-1"), filepath.Join(dir, ".pcapdaemon-2"),
		filepath.Join(a.spool, "notes.txt")} {
		if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	a.back(t)
	d = a.start(t)
	for range 3 {
		r := a.heard.next(t, time.Minute)
		switch r.ID {
		case "good":
			r.check(t, says{"state": "done", "url": anything{}})
			checkContent(t, a.upload(t, r).Content, r)
		default:
			r.check(t, says{"state": "failed", "url": nil, "error": about("damaged")})
		}
	}
	a.heard.quiet(t, 300*time.Millisecond)
	var want []string
	for id, name := range names {
		name = filepath.Base(name)
		if n := strings.Count(d.Output.String(), "read "+name); id != "good" && n < 1 {
			t.Errorf("%s is not said to be damaged", id)
		}
		switch id {
		case "unbilled":
			want = append(want, name+".damaged")
		case "good":
		default:
			want = append(want, name+".damaged", name+".waybill.damaged")
		}
	}
	checkNames(t, a.spool, append(want, "notes.txt")...)
	checkNames(t, dir)
	if got := len(a.shark.Received()); got != 1 {
		t.Errorf("want one upload, got %d", got)
	}
}

// change changes the content of a file.
func change(t testing.TB, name string, how func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, how(content), 0o640); err != nil {
		t.Fatal(err)
	}
}
