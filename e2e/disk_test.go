package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestBrokenDisk: the error says what the kernel said, and the upload goes out.
func TestBrokenDisk(t *testing.T) {
	for name, test := range map[string]struct {
		breakIt func(t *testing.T, dir string)
		want    string
	}{
		"full":      {func(t *testing.T, dir string) { testbed.Fill(t, dir) }, "no space left on device"},
		"read-only": {func(t *testing.T, dir string) { testbed.RemountReadOnly(t, dir) }, "read-only file system"},
		"removed": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "captures")); err != nil {
				t.Fatal(err)
			}
		}, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			testbed.NeedRoot(t)
			mount := t.TempDir()
			testbed.MountTmpfs(t, mount, "size=200k")
			dir := filepath.Join(mount, "captures")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			r := testbed.StartRedis(t)
			l := listen(t, r)
			s := sharktest.Start(t, nil)
			startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
			test.breakIt(t, mount)
			stream := testbed.StartStream(t, time.Millisecond)
			r.Publish(t, `{"node":"web1","interface":"lo","packets":50,"bpf":"`+stream.Filter()+`"}`)
			l.final(t, time.Minute).check(t, says{"state": "failed", "error": about(test.want),
				"file": nil, "url": anything{}, "packets": 50})
			if got := len(s.Received()); got != 1 {
				t.Errorf("want one upload, got %d", got)
			}
			if _, err := os.Stat(dir); err == nil {
				checkDirectory(t, dir, 0)
			}
		})
	}
}

// checkDirectory fails unless a directory holds so many files, none of them half written.
func checkDirectory(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pcap" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if len(entries) != want {
		t.Errorf("want %d files, got %d", want, len(entries))
	}
}
