package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFlusher: what is written is pushed to the disk a piece at a time, and counted when
// it is there: one piece later, or after the sync.
func TestFlusher(t *testing.T) {
	for name, unsupported := range map[string]error{"supported": nil, "not supported": unix.EINVAL} {
		t.Run(name, func(t *testing.T) {
			file, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			pushes := 0
			d := &disk{fault: func(operation, _ string) error {
				if operation != "sync-range" {
					return nil
				}
				pushes++
				return unsupported
			}}
			w := &flusher{disk: d, file: file}
			const piece = flushSize / 2
			var written []string
			for range 7 {
				if _, err := w.Write(make([]byte, piece)); err != nil {
					t.Fatal(err)
				}
				written = append(written, fmt.Sprint(d.written.Load()/piece))
			}
			if want := []string{"0", "0", "0", "2", "2", "4", "4"}; !slices.Equal(want, written) {
				t.Errorf("want %q of them counted after each write, got %q", want, written)
			}
			want := 1 + 2 + 2 // the first one waits for nothing
			if unsupported != nil {
				want = 3 // waiting fails, and nothing is sent
			}
			if pushes != want {
				t.Errorf("want %d pushes, got %d", want, pushes)
			}
			if err := w.sync(); err != nil || d.written.Load() != 7*piece {
				t.Errorf("want all of them counted, got %d bytes, %v", d.written.Load(), err)
			}
		})
	}
}

// TestFlusherFails: the kernel says once that a piece did not reach the disk.
func TestFlusherFails(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := &flusher{disk: without(map[string]error{"sync-range": unix.EIO}), file: file}
	if _, err := w.Write(make([]byte, flushSize)); err != unix.EIO {
		t.Errorf("want %v, got %v", unix.EIO, err)
	}
}
