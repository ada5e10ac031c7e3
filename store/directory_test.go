package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// newTestDirectory returns an empty directory without bounds.
func newTestDirectory(t *testing.T) *Directory {
	return &Directory{path: t.TempDir(), disk: &disk{}, node: "web1", observer: &countingObserver{}}
}

func TestDirectory(t *testing.T) {
	d := newTestDirectory(t)
	r, content := newRecording(2_500_000)
	for _, want := range []string{"web1-eth0.pcap", "web1-eth0-2.pcap", "web1-eth0-3.pcap"} {
		got, err := d.Store(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(d.path, want); got.File != want {
			t.Errorf("want %s, got %s", want, got.File)
		}
		read, _ := os.ReadFile(got.File)
		info, err := os.Stat(got.File)
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
	d := newTestDirectory(t)
	r, content := newRecording(1_000_000)
	reads := 0
	inner := bytes.NewReader(content)
	r.Content = func() io.Reader {
		return readerFunc(func(p []byte) (int, error) {
			reads++
			if names, _ := filepath.Glob(filepath.Join(d.path, "[^.]*")); len(names) > 0 {
				t.Fatalf("visible after %d reads: %v", reads, names)
			}
			return inner.Read(p)
		})
	}
	if _, err := d.Store(t.Context(), r); err != nil || reads < 3 {
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
			d := newTestDirectory(t)
			d.disk = without(broken)
			for n := range 3 {
				r, content := newRecording(1000 + n)
				got, err := d.Store(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if read, _ := os.ReadFile(got.File); !bytes.Equal(content, read) {
					t.Errorf("%s: the content differs", got.File)
				}
			}
			checkDirectory(t, d.path, 3)
		})
	}
}

func TestDirectoryFails(t *testing.T) {
	r, _ := newRecording(100)
	gone := newTestDirectory(t)
	gone.path += "/gone"
	_, err := gone.Store(t.Context(), r)
	want := "write " + filepath.Join(gone.path, r.Name) + ": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
	broken := newTestDirectory(t)
	r.Content = func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 50)), errorReader{}) }
	if _, err := broken.Store(t.Context(), r); err == nil {
		t.Error("want an error")
	}
	checkDirectory(t, broken.path, 0)
}

// TestDirectoryFull fills a small file system.
func TestDirectoryFull(t *testing.T) {
	testbed.NeedRoot(t)
	d := newTestDirectory(t)
	testbed.MountTmpfs(t, d.path, "size=1m")
	r, _ := newRecording(3 << 20)
	_, err := d.Store(t.Context(), r)
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
	d := newTestDirectory(t)
	d.path = dir
	r, _ := newRecording(100)
	asNobody(t, func() {
		_, err := d.Store(t.Context(), r)
		if want := "write " + filepath.Join(dir, r.Name) + ": permission denied"; err == nil || err.Error() != want {
			t.Errorf("want %s, got %v", want, err)
		}
		if err := CheckWritable(dir); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("want it refused, got %v", err)
		}
	})
	checkDirectory(t, dir, 0)
}

// files returns the names in a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// checkEqual fails unless two values look the same.
func checkEqual(t *testing.T, what string, want, got any) {
	t.Helper()
	if fmt.Sprintf("%+v", want) != fmt.Sprintf("%+v", got) {
		t.Errorf("%s: want %+v, got %+v", what, want, got)
	}
}

// touch makes files of a size.
func touch(t *testing.T, dir string, size int, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// captureNames returns names of captures that began so many hours ago.
func captureNames(hours ...int) []string {
	var names []string
	for _, n := range hours {
		names = append(names, FileName("web1", "eth0", time.Now().Add(-time.Duration(n)*time.Hour), ".pcap"))
	}
	return names
}

// TestDirectoryBounds: the oldest captures make room, and nothing else does.
func TestDirectoryBounds(t *testing.T) {
	for name, test := range map[string]struct {
		size   int64
		age    time.Duration
		hours  []int // since the captures that are there, 1000 bytes each
		writes int   // hours since a capture of 1000 bytes that is written; -1: none
		want   []int
	}{
		"no bounds":              {0, 0, []int{3, 2, 1}, 0, []int{3, 2, 1, 0}},
		"size":                   {2500, 0, []int{3, 2, 1}, 0, []int{1, 0}},
		"size, exactly":          {4000, 0, []int{3, 2, 1}, 0, []int{3, 2, 1, 0}},
		"age":                    {0, 90 * time.Minute, []int{3, 2, 1}, 0, []int{1, 0}},
		"both":                   {3000, 150 * time.Minute, []int{5, 4, 2, 1}, 0, []int{2, 1, 0}},
		"the written one stays":  {1500, 0, []int{3, 2, 1}, 4, []int{4, 1}},
		"written, old and large": {500, time.Hour, []int{3, 2}, 4, []int{4, 2}},
		"the newest one stays":   {500, time.Minute, []int{3, 2}, -1, []int{2}},
		"one alone":              {1, time.Minute, nil, 3, []int{3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newTestDirectory(t)
				d.maxSize, d.maxAge = test.size, test.age
				touch(t, d.path, 1000, captureNames(test.hours...)...)
				if test.writes >= 0 {
					r, _ := newRecording(1000)
					r.Name = captureNames(test.writes)[0]
					if _, err := d.Store(t.Context(), r); err != nil {
						t.Fatal(err)
					}
				} else {
					d.tidy()
				}
				want := captureNames(test.want...)
				slices.Sort(want)
				checkEqual(t, "left", want, files(t, d.path))
				told := d.observer.(*countingObserver).room()
				all := append(captureNames(test.hours...), captureNames(test.writes)...)
				if test.writes < 0 {
					all = all[:len(all)-1]
				}
				checkEqual(t, "told", len(all)-len(want), len(told))
			})
		})
	}
}

// TestDirectoryTouchesNothingElse: only what bears a name as this node gives them is removed.
func TestDirectoryTouchesNothingElse(t *testing.T) {
	const stamp = "20200102T030405.000000006Z"
	theirs := []string{
		"web2-eth0-" + stamp + ".pcap", "web-eth0-" + stamp + ".pcap",
		"web1--" + stamp + ".pcap", "web1-" + stamp + ".pcap",
		"web1-eth0-" + stamp + ".pcap.gz", "web1-eth0-" + stamp, "web1-eth0-20201302T030405.000000006Z.pcap",
		"web1-eth0-20200102T030405Z.pcap", "web1-eth0-" + stamp + "-1.pcap", "web1-eth0-" + stamp + "-x.pcap",
		"xweb1-eth0-" + stamp + ".pcap", "web1-spare-rack7-eth0-" + stamp + ".pcap", "web1-eth0-" + stamp + ".txt", "notes.pcap", "web1-eth0.pcap", "README",
	}
	ours := []string{
		"web1-eth0-" + stamp + ".pcap", "web1-eth0-" + stamp + "-2.pcap", "web1-eth0.5-" + stamp + "-12.pcapng",
		"web1-a-b-" + stamp + ".pcap", "web1-Z-1-" + stamp + ".pcap",
	}
	d := newTestDirectory(t)
	d.maxSize = 1
	newest := captureNames(0)
	touch(t, d.path, 10, slices.Concat(theirs, ours, newest)...)
	for _, name := range []string{"web1-dir-", "web1-link-"} {
		name = filepath.Join(d.path, name+stamp+".pcap")
		theirs = append(theirs, filepath.Base(name))
		err := os.Mkdir(name, 0o700)
		if strings.Contains(name, "link") {
			err = errors.Join(os.Remove(name), os.Symlink("/nowhere", name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d.tidy()
	want := slices.Concat(theirs, newest)
	slices.Sort(want)
	checkEqual(t, "left", want, files(t, d.path))
}

// TestDirectoryIsNotReadAgain: one look at the directory serves all captures of
// an hour; the next one finds what others have done meanwhile.
func TestDirectoryIsNotReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDirectory(t)
		d.maxSize = 3500
		first := captureNames(9)
		touch(t, d.path, 1000, first...)
		var running sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		running.Go(func() { d.run(ctx) })
		time.Sleep(time.Minute)
		unseen := captureNames(20, 19)
		touch(t, d.path, 1000, unseen...)
		for _, name := range captureNames(3, 2, 1) {
			r, _ := newRecording(1000)
			r.Name = name
			if _, err := d.Store(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		checkEqual(t, "told before the hour", first, d.observer.(*countingObserver).room())
		time.Sleep(time.Hour)
		synctest.Wait()
		checkEqual(t, "told", append(first, unseen...), d.observer.(*countingObserver).room())
		cancel()
		running.Wait()
	})
}

// TestDirectoryMeetsOthers: files that others have removed are no trouble, and
// one that cannot be removed is told and tried again.
func TestDirectoryMeetsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDirectory(t)
		d.maxSize = 1
		old := captureNames(5, 4, 3, 2, 1)
		touch(t, d.path, 1000, old...)
		readOnly := true
		d.disk.fault = func(operation, path string) error {
			if operation == "remove" && readOnly && filepath.Ext(path) == ".pcap" {
				return unix.EROFS
			}
			return nil
		}
		seen := d.observer.(*countingObserver)
		write := func() {
			r, _ := newRecording(1000)
			r.Name = captureNames(0)[0]
			if _, err := d.Store(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		write()
		want := "keep " + d.path + " within its bounds: remove " + old[0] + ": read-only file system"
		checkEqual(t, "troubles", []string{want}, seen.troubles)
		readOnly = false
		for _, name := range old[2:4] {
			if err := os.Remove(filepath.Join(d.path, name)); err != nil {
				t.Fatal(err)
			}
		}
		write()
		checkEqual(t, "left", 1, len(files(t, d.path)))
		checkEqual(t, "told", 4, len(seen.gone)) // three old ones and the first one written
		checkEqual(t, "troubles in all", 1, len(seen.troubles))
	})
}

// TestDirectoryPassesOver: a file that cannot be removed keeps no other one.
func TestDirectoryPassesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDirectory(t)
		d.maxSize = 2000
		names := captureNames(5, 4, 3, 2, 1)
		touch(t, d.path, 1000, names...)
		d.disk.fault = func(operation, path string) error {
			if operation == "remove" && slices.Contains(names[:2], filepath.Base(path)) {
				return unix.EPERM
			}
			return nil
		}
		d.tidy()
		checkEqual(t, "left", []string{names[0], names[1], names[4]}, files(t, d.path))
		d.tidy()
		checkEqual(t, "troubles", 2, len(d.observer.(*countingObserver).troubles))
	})
}

// TestDirectoryIsSwept: drafts of a killed daemon go at the start, those of a living one do not.
func TestDirectoryIsSwept(t *testing.T) {
	d := newTestDirectory(t)
	touch(t, d.path, 10, draftPrefix+"left")
	living, err := d.disk.draft(d.path, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.run(ctx)
	checkEqual(t, "left", []string{filepath.Base(living.file.Name())}, files(t, d.path))
}

// TestDirectoryIsLarge: 50,000 captures are looked through, and removed, in less than half a
// second; on a busy machine and with the race detector in ten.
func TestDirectoryIsLarge(t *testing.T) {
	testbed.Long(t)
	const count = 50_000
	testbed.NeedRoot(t)
	d := newTestDirectory(t)
	testbed.MountTmpfs(t, d.path, "size=100m")
	d.maxSize = 1
	start := time.Now().Add(-count * time.Second)
	for n := range time.Duration(count) {
		name := FileName("web1", "eth0", start.Add(n*time.Second), ".pcap")
		file, err := os.Create(filepath.Join(d.path, name))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	used := func() time.Duration {
		var usage unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	before, began := used(), time.Now()
	d.tidy()
	t.Logf("looked after %v, %v of the processor", time.Since(began), used()-before)
	if took := used() - before; took > 10*time.Second || len(d.files) != count {
		t.Errorf("want %d files within 10 s, got %d after %v", count, len(d.files), took)
	}
	touch(t, d.path, 10, captureNames(0)...)
	before, began = used(), time.Now()
	d.tidy()
	t.Logf("removed after %v, %v of the processor", time.Since(began), used()-before)
	if took := used() - before; took > 10*time.Second {
		t.Errorf("want them removed within 10 s, got %v", took)
	}
	checkEqual(t, "left", 1, len(files(t, d.path)))
}

// TestDirectoryIsNearlyFull: that is said from five per cent on, and files are written all the same.
func TestDirectoryIsNearlyFull(t *testing.T) {
	testbed.NeedRoot(t)
	d := newTestDirectory(t)
	testbed.MountTmpfs(t, d.path, "size=1m")
	checkEqual(t, "empty", nil, d.nearlyFull())
	touch(t, d.path, 1_010_000, "filler")
	want := d.path + " is nearly full: "
	if err := d.nearlyFull(); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("want %s, got %v", want, err)
	}
	r, _ := newRecording(1000)
	if _, err := d.Store(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// errorReader is a reader that fails.
type errorReader struct{}

func (errorReader) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
}

// TestDirectoryForgetsVanished: what others have removed counts no more.
func TestDirectoryForgetsVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDirectory(t)
		d.maxSize = 2500
		names := captureNames(5, 4, 3)
		touch(t, d.path, 1000, names[:2]...)
		d.tidy()
		if err := os.Remove(filepath.Join(d.path, names[0])); err != nil {
			t.Fatal(err)
		}
		touch(t, d.path, 1000, names[2])
		d.wrote(names[2], 1000)
		checkEqual(t, "left", names[1:], files(t, d.path))
		checkEqual(t, "size", 2000, d.size)
	})
}

// TestDirectoryCountsBoth: a capture whose name was taken meanwhile counts beside the one that has it.
func TestDirectoryCountsBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTestDirectory(t)
		d.maxSize = 2500
		names := captureNames(5, 4)
		touch(t, d.path, 1000, names...)
		d.tidy()
		r, _ := newRecording(1000)
		r.Name = names[1]
		place, err := d.Store(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{names[1], filepath.Base(place.File)}
		slices.Sort(want)
		checkEqual(t, "left", want, files(t, d.path))
		checkEqual(t, "size", 2000, d.size)
	})
}

// TestDirectoryOfOddNode: a node's captures are known by the name that files can have.
func TestDirectoryOfOddNode(t *testing.T) {
	for _, node := range []string{"web 1", "büro/1", "-", "a-b", "web1-", "*", "..", "Z-2"} {
		t.Run(node, func(t *testing.T) {
			d := newTestDirectory(t)
			d.node, d.maxSize = node, 1500
			var names []string
			for hours := range 3 {
				start := time.Now().Add(-time.Duration(hours) * time.Hour)
				names = append(names, FileName(node, "eth0", start, ".pcap"))
			}
			touch(t, d.path, 1000, names...)
			d.tidy()
			checkEqual(t, "left", names[:1], files(t, d.path))
		})
	}
}

// TestDirectoryOfEncrypted: encrypted captures are bounded as others are, and numbered before
// all of their extension.
func TestDirectoryOfEncrypted(t *testing.T) {
	d := newTestDirectory(t)
	names := captureNames(3, 2, 1)
	names[0] += ".age"
	names[1] = strings.TrimSuffix(names[1], ".pcap") + "-2.pcapng.age"
	touch(t, d.path, 1000, names...)
	d.maxSize = 1500
	d.tidy()
	checkEqual(t, "left", names[2:], files(t, d.path))
	touch(t, d.path, 1, "x.pcap.age", "y.age", "z.pcap")
	for name, want := range map[string]string{"x.pcap.age": "x-2.pcap.age", "x.pcap": "x.pcap", "y.age": "y-2.age",
		"z.pcap": "z-2.pcap"} {
		checkEqual(t, name, want, d.Unused(name))
	}
}

// TestCheckWritable: a directory in which nothing can be found is as good as one that cannot be written.
func TestCheckWritable(t *testing.T) {
	testbed.NeedRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // on a thread of its own, which ends with it: another user
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		for mode, want := range map[fs.FileMode]error{0o777: nil, 0o755: unix.EACCES, 0o776: unix.EACCES, 0o775: unix.EACCES} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Error(err)
			}
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // access(2) asks for the real ones
				_, _, _ = unix.RawSyscall(call, nobody, ^uintptr(0), ^uintptr(0))
			}
			if got := CheckWritable(dir); got != want {
				t.Errorf("%v: want %v, got %v", mode, want, got)
			}
		}
	}()
	<-done
}
