package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestSpoolDirectoryIsDamaged: what cannot be used is set aside and said, and stops nothing.
func TestSpoolDirectoryIsDamaged(t *testing.T) {
	const capture, meta = "bad.pcap", "bad.pcap.waybill"
	change := func(name string, how func([]byte) []byte) func(string) error {
		return func(dir string) error {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), how(content), 0o640)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	half := func(b []byte) []byte { return b[:len(b)/2] }
	both := []string{"bad.pcap.damaged", "bad.pcap.waybill.damaged"}
	for name, test := range map[string]struct {
		damage func(dir string) error
		left   []string
		said   string
		told   bool // to whoever asked
	}{
		"bit of the capture":   {change(capture, flip), both, "damaged", true},
		"half of the capture":  {change(capture, half), both, "damaged", true},
		"capture is too long":  {change(capture, func(b []byte) []byte { return append(b, 0) }), both, "damaged", true},
		"bit of the metadata":  {change(meta, flip), both, "damaged", false},
		"half of the metadata": {change(meta, half), both, "damaged", false},
		"metadata is empty":    {change(meta, func([]byte) []byte { return nil }), both, "damaged", false},
		"capture is a FIFO": {replaceBy(capture, func(path string) error { return unix.Mkfifo(path, 0o600) }),
			both, "damaged", true},
		"capture is a link to /dev/zero": {replaceBy(capture, func(path string) error {
			return os.Symlink("/dev/zero", path)
		}), both, "damaged", true},
		"metadata is a link": {replaceBy(meta, func(path string) error { return os.Symlink("good.pcap.waybill", path) }),
			both, "damaged", false},
		"metadata is a FIFO": {replaceBy(meta, func(path string) error { return unix.Mkfifo(path, 0o600) }),
			both, "damaged", false},
		"metadata is a directory": {replaceBy(meta, func(path string) error { return os.Mkdir(path, 0o700) }),
			both, "damaged", false},
		"metadata is a socket": {replaceBy(meta, func(path string) error {
			return unix.Mknod(path, unix.S_IFSOCK|0o600, 0)
		}), both, "damaged", false},
		"metadata of 3 GB": {func(dir string) error { return os.Truncate(filepath.Join(dir, meta), 3<<30) },
			both, "damaged", false},
		"size below zero":      {rewrite(meta, func(m *metadata) { m.Size = -1 << 62 }), both, "damaged", false},
		"size without end":     {rewrite(meta, func(m *metadata) { m.Size = 1<<63 - 1 }), both, "damaged", false},
		"size of another file": {rewrite(meta, func(m *metadata) { m.Size = 1 << 39 }), both, "damaged", true},
		"no name":              {rewrite(meta, func(m *metadata) { m.Name = "" }), both, "damaged", false},
		"name of a directory":  {rewrite(meta, func(m *metadata) { m.Name = ".." }), both, "damaged", false},
		"name of another place": {rewrite(meta, func(m *metadata) { m.Name = "../x.pcap" }),
			both, "damaged", false},
		"capture without metadata": {func(dir string) error { return os.Remove(filepath.Join(dir, meta)) },
			[]string{"bad.pcap.damaged"}, "no metadata", false},
		"metadata without capture": {func(dir string) error { return os.Remove(filepath.Join(dir, capture)) },
			[]string{}, "", false},
		"left by a killed daemon": {func(dir string) error {
			err := os.WriteFile(filepath.Join(dir, draftPrefix+"123"), []byte("x"), 0o600)
			return errors.Join(err, os.Remove(filepath.Join(dir, capture)))
		}, []string{}, "", false},
		"of somebody else": {func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "lost+found"), 0o700),
				os.WriteFile(filepath.Join(dir, "README"), nil, 0o600), os.Remove(filepath.Join(dir, capture)))
		}, []string{"README", "lost+found"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, shark := t.TempDir(), &fakeShark{}
				newTestSpool(dir, shark).fill(t, capture, "good.pcap")
				if err := test.damage(dir); err != nil {
					t.Fatal(err)
				}
				s := newTestSpool(dir, shark)
				s.work(t, time.Hour)
				checkEqual(t, "uploads", []string{"good.pcap"}, shark.names())
				checkEqual(t, "left", test.left, files(t, dir))
				if said := fmt.Sprint(s.seen.troubles); len(s.seen.troubles) > 1 || !strings.Contains(said, test.said) {
					t.Errorf("want %q said once, got %s", test.said, said)
				}
				checkEqual(t, "told", test.told, len(s.ends) == 2)
				again := newTestSpool(dir, shark)
				again.work(t, time.Hour)
				checkEqual(t, "said again", 0, len(again.seen.troubles))
			})
		})
	}
}

// replaceBy returns a damage that puts something else in the place of a file.
func replaceBy(name string, make func(path string) error) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.Remove(path), make(path))
	}
}

// rewrite returns a damage that changes metadata and keeps its checksum right.
func rewrite(name string, change func(*metadata)) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line, _, _ := bytes.Cut(text, []byte("\n"))
		var m metadata
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		change(&m)
		return os.WriteFile(path, m.encode(), 0o640)
	}
}

// TestSpoolCountsFiles: what a file has counts, not what its metadata says.
func TestSpoolCountsFiles(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { newTestSpool(dir, &fakeShark{}).fill(t, "x.pcap") })
	for _, size := range []int64{0, 1 << 40} {
		if err := rewrite("x.pcap.waybill", func(m *metadata) { m.Size = size })(dir); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "x.pcap.waybill"))
		if err != nil {
			t.Fatal(err)
		}
		s := newTestSpool(dir, &fakeShark{})
		s.look()
		_, got, _ := s.stats()
		checkEqual(t, "size", 1000+info.Size(), got)
	}
}

// TestSpoolEndsWhileReading: a large capture that is being checked holds up no end.
func TestSpoolEndsWhileReading(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { newTestSpool(dir, &fakeShark{}).fill(t, "x.pcap") })
	const size = 1 << 40
	err := errors.Join(rewrite("x.pcap.waybill", func(m *metadata) { m.Size = size })(dir),
		os.Truncate(filepath.Join(dir, "x.pcap"), size)) // holes
	if err != nil {
		t.Fatal(err)
	}
	s := newTestSpool(dir, &fakeShark{})
	s.work(t, 100*time.Millisecond)
	checkEqual(t, "troubles", 0, len(s.seen.troubles))
	checkEqual(t, "left", []string{"x.pcap", "x.pcap.waybill"}, files(t, dir))
}

// A killing ends a process, as far as others can see, at one operation on its
// disk: that one and whatever it does later have no effect.
type killing struct {
	at         int // number of the operation, from 0
	mu         sync.Mutex
	operations []string
	dead       bool
}

// errKilled is what a dead process hears.
var errKilled = errors.New("killed")

// fault implements the fault of a disk.
func (k *killing) fault(operation, path string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.dead {
		k.operations = append(k.operations, operation+filepath.Ext(path))
		k.dead = len(k.operations)-1 == k.at
	}
	if k.dead {
		return errKilled
	}
	return nil
}

// isDead reports whether the process has ended.
func (k *killing) isDead() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead
}

// TestSpoolDirectoryIsKilled ends the process at every moment of a capture's way through
// the spool. Afterwards the capture is whole with what its upload needs, or not
// there; it is uploaded once, or again if the end came between the answer and
// the removal; and nothing is in the way.
func TestSpoolDirectoryIsKilled(t *testing.T) {
	for name, test := range map[string]struct {
		answer error
		local  bool
		left   []string // in the spool, once it was answered
	}{
		"uploaded":              {nil, false, []string{}},
		"refused, directory":    {Refusal{errors.New("401")}, true, []string{}},
		"refused, no directory": {Refusal{errors.New("401")}, false, []string{"x.pcap", "x.pcap.refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			killed := &killing{}
			for at := 0; at == 0 || killed.dead; at++ {
				killed = &killing{at: at}
				synctest.Test(t, func(t *testing.T) {
					b := &buried{spool: t.TempDir(), killed: killed, answer: test.answer}
					if test.local {
						b.local = newTestDirectory(t)
					}
					b.liveTwice(t)
					left := test.left
					if b.before+b.after == 0 {
						left = []string{}
					}
					checkEqual(t, "spool", left, files(t, b.spool))
					if t.Failed() {
						t.Fatalf("killed at %d of %v", at, killed.operations)
					}
				})
			}
			if n := len(killed.operations); n < 12 {
				t.Errorf("want many moments, got %d", n)
			}
		})
	}
}

// buried is a spool whose first process is killed.
type buried struct {
	spool         string
	local         *Directory // nil: none
	killed        *killing
	answer        error // of CloudShark
	before, after int   // answers that a process heard
}

// liveTwice keeps a capture and works the spool off in a process that is
// killed, then in another one, and checks what came out.
func (b *buried) liveTwice(t *testing.T) {
	r, content := newRecording(100_000)
	r.Name = "x.pcap"
	r.Content = func() io.Reader { return struct{ io.Reader }{bytes.NewReader(content)} } // in pieces
	first := newTestSpool(b.spool, &fakeShark{answer: func(File, int) error {
		if b.killed.isDead() {
			return errKilled
		}
		b.before++
		return b.answer
	}})
	first.disk = &disk{fault: b.killed.fault}
	second := newTestSpool(b.spool, &fakeShark{answer: func(File, int) error {
		b.after++
		return b.answer
	}})
	if b.local != nil {
		first.local = &Directory{path: b.local.path, disk: first.disk, node: "web1", observer: first.seen}
		second.local = b.local
	}
	err := first.insert(r, waiting)
	kept := err == nil && !b.killed.isDead()
	if err == nil {
		first.work(t, time.Minute)
	}
	second.work(t, time.Hour)
	answers := b.before + b.after
	if kept && answers == 0 || b.before > 1 || b.after > 1 || b.after > 0 && !b.killed.dead {
		t.Errorf("want it uploaded once by each at most, got %d before and %d after", b.before, b.after)
	}
	uploads := append(first.shark.got, second.shark.got...)
	for _, upload := range uploads {
		if !bytes.Equal(content, upload.content) || upload.comments != r.Comments {
			t.Error("the upload differs")
		}
	}
	if b.local != nil {
		b.checkLocal(t, content, answers)
	}
}

// checkLocal checks that what was refused is whole in the directory.
func (b *buried) checkLocal(t *testing.T, content []byte, most int) {
	if err := b.local.disk.sweep(b.local.path); err != nil {
		t.Error(err)
	}
	names := files(t, b.local.path)
	if len(names) > most || len(names) == 0 && most > 0 {
		t.Errorf("want 1 to %d files, got %v", most, names)
	}
	for _, name := range names {
		if got, err := os.ReadFile(filepath.Join(b.local.path, name)); err != nil || !bytes.Equal(content, got) {
			t.Errorf("%s: the content differs, %v", name, err)
		}
	}
}

// TestSpoolDirectoryIsWritten: a process that starts while another one writes a capture
// takes nothing of that for damaged, at no moment.
func TestSpoolDirectoryIsWritten(t *testing.T) {
	dir := t.TempDir()
	writing, starting := newTestSpool(dir, &fakeShark{}), newTestSpool(dir, &fakeShark{})
	writing.disk.fault = func(string, string) error { starting.look(); return nil }
	r, _ := newRecording(100)
	p, err := writing.keep(r, waiting)
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "files", []string{"web1-eth0.pcap", "web1-eth0.pcap.waybill"}, files(t, dir))
	writing.settle(p, r, func(f *fate) { f.Pending = nil })
	checkEqual(t, "files", []string{}, files(t, dir))
	checkEqual(t, "troubles", 0, len(starting.seen.troubles))
}

// TestSpoolDirectoryIsBeingWritten: until it is among the others, an entry is nobody else's, and of
// one that could not be written nothing is left.
func TestSpoolDirectoryIsBeingWritten(t *testing.T) {
	dir := spoolDirectory{t.TempDir(), &disk{}}
	r, content := newRecording(100)
	p, err := newEntry(r, waiting)
	if err != nil {
		t.Fatal(err)
	}
	done, err := dir.put(p, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if other, err := dir.read(p.file); other != nil || err != nil {
		t.Errorf("want it left to who writes it, got %v, %v", other, err)
	}
	done()
	if other, err := dir.read(p.file); other == nil || err != nil {
		t.Errorf("want it there then, got %v, %v", other, err)
	}
	if err := dir.remove(p); err != nil {
		t.Fatal(err)
	}
	dir.disk.fault = func(operation, path string) error {
		if operation == "rename" && filepath.Ext(path) != waitingSuffix {
			return unix.ENOSPC
		}
		return nil
	}
	if _, err := dir.put(p, bytes.NewReader(content)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("want %v, got %v", unix.ENOSPC, err)
	}
	checkEqual(t, "left", []string{}, files(t, dir.path))
}

// TestSpoolRemovesInOrder: that the capture is gone is on the disk before its
// metadata goes: a power failure must not leave a capture without metadata.
func TestSpoolRemovesInOrder(t *testing.T) {
	dir := t.TempDir()
	s := newTestSpool(dir, &fakeShark{})
	synctest.Test(t, func(t *testing.T) { s.fill(t, "x.pcap") })
	var operations []string
	s.disk.fault = func(operation, path string) error {
		operations = append(operations, operation+" "+filepath.Base(path))
		return nil
	}
	if err := s.remove(&entry{file: "x.pcap"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"remove x.pcap", "sync-directory " + filepath.Base(dir), "remove x.pcap.waybill"}
	checkEqual(t, "operations", want, operations)
}

// TestSpoolRewritesInOrder: new metadata is on the disk before it takes the place of
// the old one, which is never gone.
func TestSpoolRewritesInOrder(t *testing.T) {
	dir := t.TempDir()
	s := newTestSpool(dir, &fakeShark{})
	synctest.Test(t, func(t *testing.T) { s.fill(t, "x.pcap") })
	p := s.entries["x.pcap"]
	p.URL = "https://here"
	var operations []string
	s.disk.fault = func(operation, _ string) error {
		operations = append(operations, operation)
		checkEqual(t, "metadata is there", true, exists(filepath.Join(dir, "x.pcap.waybill")))
		return nil
	}
	s.save(p)
	checkEqual(t, "operations", "create write chmod sync move sync-directory remove", strings.Join(operations, " "))
	s.disk.fault = nil
	again, err := s.read("x.pcap")
	if err != nil || again == nil || again.URL != p.URL {
		t.Fatalf("want the new metadata, got %v, %v", again, err)
	}
	_, size, _ := s.stats()
	checkEqual(t, "size", again.bytes, size)
}

// TestSpoolSparesNames: no name is given twice, not even that of what was set aside.
func TestSpoolSparesNames(t *testing.T) {
	for _, suffix := range []string{"", waitingSuffix, refusedSuffix, damagedSuffix, waitingSuffix + damagedSuffix} {
		t.Run("x.pcap"+suffix, func(t *testing.T) {
			dir := t.TempDir()
			touch(t, dir, 1, "x.pcap"+suffix)
			synctest.Test(t, func(t *testing.T) { newTestSpool(dir, &fakeShark{}).fill(t, "x.pcap") })
			checkEqual(t, "files", []string{"x-2.pcap", "x-2.pcap.waybill", "x.pcap" + suffix}, files(t, dir))
		})
	}
}
