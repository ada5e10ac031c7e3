package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

func TestDirectory(t *testing.T) {
	d := directory{t.TempDir()}
	r, content := newRecording(2_500_000)
	for _, want := range []string{"web1-eth0.pcap", "web1-eth0-2.pcap", "web1-eth0-3.pcap"} {
		got, err := d.store(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(d.path, want); got.file != want {
			t.Errorf("want %s, got %s", want, got.file)
		}
		read, _ := os.ReadFile(got.file)
		info, err := os.Stat(got.file)
		if err != nil || !bytes.Equal(content, read) || info.Mode() != 0o640 {
			t.Errorf("want the content with mode 0640, got mode %v, %v", info.Mode(), err)
		}
	}
	checkDirectory(t, d.path, 3)
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

func TestDirectoryFails(t *testing.T) {
	r, _ := newRecording(100)
	gone := directory{filepath.Join(t.TempDir(), "gone")}
	_, err := gone.store(t.Context(), r)
	if want := "write " + filepath.Join(gone.path, r.name) + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
	broken := directory{t.TempDir()}
	r.content = func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 50)), errorReader{}) }
	if _, err := broken.store(t.Context(), r); err == nil {
		t.Error("want an error")
	}
	checkDirectory(t, broken.path, 0)
}

// TestDirectoryFull fills a small file system.
func TestDirectoryFull(t *testing.T) {
	testbed.NeedRoot(t)
	d := directory{t.TempDir()}
	testbed.MountTmpfs(t, d.path, "size=1m")
	r, _ := newRecording(3 << 20)
	_, err := d.store(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("want the kernel's words, got %v", err)
	}
	checkDirectory(t, d.path, 0)
}

// errorReader is a reader that fails.
type errorReader struct{}

func (errorReader) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
}
