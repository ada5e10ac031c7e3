package e2e

import (
	"os"
	"path/filepath"
	"strings"
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
			got := l.await(t, 5*time.Second, "done", "failed")
			if got.State != "failed" || !strings.Contains(got.Error, test.want) || got.File != "" || got.URL == "" || *got.Packets != 50 {
				t.Errorf("want %q and an upload, got %+v", test.want, got)
			}
			if len(s.Received()) != 1 {
				t.Error("the upload has not gone out")
			}
			if _, err := os.Stat(dir); err == nil {
				checkDirectory(t, dir, 0)
			}
		})
	}
}
