package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// without returns a disk on which these operations fail with their errors.
func without(broken map[string]error) *disk {
	return &disk{fault: func(operation, _ string) error { return broken[operation] }}
}

// TestDiskOrder: content is on the disk before it has a name, and the name is before it is told.
func TestDiskOrder(t *testing.T) {
	noRename := map[string]error{"rename": unix.EINVAL}
	neither := map[string]error{"rename": unix.ENOSYS, "link": unix.EPERM}
	noSync := map[string]error{"sync-directory": unix.EINVAL}
	for name, test := range map[string]struct {
		broken map[string]error
		want   string
	}{
		"a common disk":          {nil, "create write sync-range chmod sync rename sync-directory remove"},
		"no such rename":         {noRename, "create write sync-range chmod sync rename link sync-directory remove"},
		"no link either":         {neither, "create write sync-range chmod sync rename link reserve replace sync-directory remove"},
		"no sync of directories": {noSync, "create write sync-range chmod sync rename sync-directory remove"},
	} {
		t.Run(name, func(t *testing.T) {
			var operations []string
			dir := t.TempDir()
			path := filepath.Join(dir, "name")
			d := &disk{fault: func(operation, _ string) error {
				if _, err := os.Lstat(path); err == nil && slices.Index(operations, "rename") < 0 {
					t.Errorf("before %s: the file bears its name already", operation)
				}
				operations = append(operations, operation)
				return test.broken[operation]
			}}
			content := testbed.RandomBytes(3*flushSize + 1)
			f, err := d.draft(dir, bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			if got := d.written.Load(); got != int64(len(content)) {
				t.Errorf("want %d bytes said to be on the disk, got %d", len(content), got)
			}
			if err := f.publish(path); err != nil {
				t.Fatal(err)
			}
			f.discard()
			if got := strings.Join(slices.Compact(operations), " "); got != test.want {
				t.Errorf("want %s, got %s", test.want, got)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(content, got) {
				t.Errorf("want the content, got %d bytes, %v", len(got), err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("want the file alone, got %v", entries)
			}
		})
	}
}

// TestDiskProgress: what has reached the disk is told on the way.
func TestDiskProgress(t *testing.T) {
	d := &disk{}
	var told []int64
	content := io.MultiReader(bytes.NewReader(make([]byte, 10*flushSize)), readerFunc(func([]byte) (int, error) {
		told = append(told, d.written.Load())
		return 0, io.EOF
	}))
	if _, err := d.draft(t.TempDir(), struct{ io.Reader }{content}); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || told[0] < 8*flushSize || told[0] >= 10*flushSize {
		t.Errorf("want about %d bytes on the disk before the last sync, got %v", 9*flushSize, told)
	}
}

// A readerFunc is a function that reads.
type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestDiskOverwritesNothing: whatever the file system can do, one of many
// writers gets the name, and a file that is there stays as it is.
func TestDiskOverwritesNothing(t *testing.T) {
	for name, broken := range map[string]map[string]error{
		"a common disk":  nil,
		"no such rename": {"rename": unix.EINVAL},
		"no link either": {"rename": unix.EINVAL, "link": unix.EOPNOTSUPP},
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), without(broken)
			for _, there := range []string{"", "there"} {
				path := filepath.Join(dir, "name"+there)
				if there != "" {
					if err := os.WriteFile(path, []byte(there), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				var mu sync.Mutex
				var winners []string
				var writers sync.WaitGroup
				for i := range 20 {
					writers.Go(func() {
						content := string(rune('a' + i))
						f, err := d.draft(dir, strings.NewReader(content))
						if err != nil {
							t.Error(err)
							return
						}
						defer f.discard()
						err = f.publish(path)
						if err == nil {
							mu.Lock()
							winners = append(winners, content)
							mu.Unlock()
						} else if !errors.Is(err, fs.ErrExist) {
							t.Error(err)
						}
					})
				}
				writers.Wait()
				if there != "" {
					winners = append(winners, there)
				}
				if got, err := os.ReadFile(path); err != nil || len(winners) != 1 || string(got) != winners[0] {
					t.Errorf("want one winner and its content, got %q of %q, %v", winners, got, err)
				}
			}
		})
	}
}

// TestDiskFails: whatever fails, nothing is left behind.
func TestDiskFails(t *testing.T) {
	strange := map[string]error{"rename": unix.EINVAL, "link": unix.EPERM}
	for _, operation := range []string{"create", "write", "chmod", "sync", "rename", "link", "reserve", "replace"} {
		t.Run(operation, func(t *testing.T) {
			dir := t.TempDir()
			d := &disk{fault: func(o, _ string) error {
				if o == operation {
					return unix.EIO
				}
				return strange[o]
			}}
			f, err := d.draft(dir, bytes.NewReader(testbed.RandomBytes(100)))
			if err == nil {
				err = f.publish(filepath.Join(dir, "name"))
				f.discard()
			}
			if !errors.Is(err, unix.EIO) {
				t.Errorf("want the disk's error, got %v", err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

// TestDiskIsSwept: what is being written is never taken for what was left.
func TestDiskIsSwept(t *testing.T) {
	testbed.Long(t)
	d, dir := &disk{}, t.TempDir()
	done := make(chan struct{})
	var sweeping sync.WaitGroup
	for range 4 {
		sweeping.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = d.sweep(dir)
				}
			}
		})
	}
	for range 100 {
		f, err := d.draft(dir, strings.NewReader("x"))
		if err != nil {
			t.Error(err)
			break
		}
		path := filepath.Join(dir, "name")
		if err := errors.Join(f.publish(path), os.Remove(path)); err != nil {
			t.Error(err)
		}
		f.discard()
		if t.Failed() {
			break
		}
	}
	close(done)
	sweeping.Wait()
}

// TestDiskFailsOnTheWay: the kernel tells only once that it could not write what
// was pushed to the disk; a file system that cannot be asked for that is no failure.
func TestDiskFailsOnTheWay(t *testing.T) {
	for _, test := range []struct {
		err, want error
	}{{unix.EIO, unix.EIO}, {unix.ENOSPC, unix.ENOSPC}, {unix.EINVAL, nil}, {unix.ENOSYS, nil}, {unix.ESPIPE, nil}} {
		for failing := range 3 { // the first push, the first wait, the push after it
			t.Run(fmt.Sprintf("%v in call %d", test.err, failing), func(t *testing.T) {
				dir, calls := t.TempDir(), 0
				d := &disk{fault: func(operation, _ string) error {
					if operation != "sync-range" {
						return nil
					}
					calls++
					if calls-1 == failing {
						return test.err
					}
					return nil
				}}
				f, err := d.draft(dir, struct{ io.Reader }{bytes.NewReader(make([]byte, 4*flushSize))})
				if !errors.Is(err, test.want) || calls <= failing {
					t.Errorf("want %v, got %v after %d calls", test.want, err, calls)
				}
				if err == nil {
					f.discard()
				}
				checkEqual(t, "left", []string{}, files(t, dir))
			})
		}
	}
}

// TestDiskMoves: a move is on the disk before it is told.
func TestDiskMoves(t *testing.T) {
	var operations []string
	dir := t.TempDir()
	touch(t, dir, 1, "a")
	d := &disk{fault: func(operation, path string) error {
		operations = append(operations, operation+" "+filepath.Base(path))
		return nil
	}}
	if err := d.move(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "operations", []string{"move a", "sync-directory " + filepath.Base(dir)}, operations)
	checkEqual(t, "left", []string{"b"}, files(t, dir))
}
