package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

func TestDirectory(t *testing.T) {
	d := directory{t.TempDir(), &disk{}}
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

// TestDirectoryShowsNoPart: while a file is being written, nothing has its name.
func TestDirectoryShowsNoPart(t *testing.T) {
	d := directory{t.TempDir(), &disk{}}
	r, content := newRecording(1_000_000)
	reads := 0
	inner := bytes.NewReader(content)
	r.content = func() io.Reader {
		return readerFunc(func(p []byte) (int, error) {
			reads++
			if names, _ := filepath.Glob(filepath.Join(d.path, "[^.]*")); len(names) > 0 {
				t.Fatalf("visible after %d reads: %v", reads, names)
			}
			return inner.Read(p)
		})
	}
	if _, err := d.store(t.Context(), r); err != nil || reads < 3 {
		t.Errorf("want it stored in several reads, got %d, %v", reads, err)
	}
	checkDirectory(t, d.path, 1)
}

// TestDirectoryOnStrangeDisk: names are found where the kernel cannot rename without overwriting.
func TestDirectoryOnStrangeDisk(t *testing.T) {
	for name, broken := range map[string]map[string]error{
		"no such rename": {"rename": unix.EINVAL},
		"no link either": {"rename": unix.EINVAL, "link": unix.EPERM},
	} {
		t.Run(name, func(t *testing.T) {
			d := directory{t.TempDir(), without(broken)}
			for n := range 3 {
				r, content := newRecording(1000 + n)
				got, err := d.store(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if read, _ := os.ReadFile(got.file); !bytes.Equal(content, read) {
					t.Errorf("%s: the content differs", got.file)
				}
			}
			checkDirectory(t, d.path, 3)
		})
	}
}

func TestDirectoryFails(t *testing.T) {
	r, _ := newRecording(100)
	gone := directory{filepath.Join(t.TempDir(), "gone"), &disk{}}
	_, err := gone.store(t.Context(), r)
	want := "write " + filepath.Join(gone.path, r.name) + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
	broken := directory{t.TempDir(), &disk{}}
	r.content = func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 50)), errorReader{}) }
	if _, err := broken.store(t.Context(), r); err == nil {
		t.Error("want an error")
	}
	checkDirectory(t, broken.path, 0)
}

// TestDirectoryFull fills a small file system.
func TestDirectoryFull(t *testing.T) {
	testbed.NeedRoot(t)
	d := directory{t.TempDir(), &disk{}}
	testbed.MountTmpfs(t, d.path, "size=1m")
	r, _ := newRecording(3 << 20)
	_, err := d.store(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("want the kernel's words, got %v", err)
	}
	checkDirectory(t, d.path, 0)
}

// asNobody runs a function on a thread that has the rights of nobody.
func asNobody(t *testing.T, run func()) {
	testbed.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
			return
		}
		run()
	}()
	<-done
}

// TestDirectoryOfSomebodyElse: a directory that this user cannot write is
// wrong usage at the start, and an error with the kernel's words later.
func TestDirectoryOfSomebodyElse(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pcapdaemon-test-") // which everybody can reach
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := directory{dir, &disk{}}
	r, _ := newRecording(100)
	asNobody(t, func() {
		_, err := d.store(t.Context(), r)
		if want := "write " + filepath.Join(dir, r.name) + ": permission denied"; err == nil || err.Error() != want {
			t.Errorf("want %s, got %v", want, err)
		}
		_, err = parseConfig([]string{"-writelocal", "-destdir", dir}, io.Discard)
		want := "-destdir takes a directory that can be written: " + dir + ": permission denied"
		if err == nil || err.Error() != want {
			t.Errorf("want %s, got %v", want, err)
		}
	})
	checkDirectory(t, dir, 0)
}

// TestDirectoryIsRelative: a relative -destdir is the one of the start, and told as an absolute path.
func TestDirectoryIsRelative(t *testing.T) {
	parent := t.TempDir()
	t.Chdir(parent)
	if err := os.Mkdir("captures", 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig([]string{"-writelocal", "-destdir", "captures"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("/")
	r, _ := newRecording(100)
	got, err := directory{c.delivery.dir, &disk{}}.store(t.Context(), r)
	if want := filepath.Join(parent, "captures", r.name); err != nil || got.file != want {
		t.Errorf("want %s, got %s, %v", want, got.file, err)
	}
}

// errorReader is a reader that fails.
type errorReader struct{}

func (errorReader) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
}
