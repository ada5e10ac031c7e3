package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// TestEntryComesBack: metadata holds whatever its capture's upload needs, letter by letter.
func TestEntryComesBack(t *testing.T) {
	r, content := newRecording(5000)
	r.Tags = []string{"a<b>&", "ü", ""}
	r.Comments = "filter: \"x\"\nline \u2028 \x00 é"
	r.Note = []byte{0, 255, '\n'}
	r.Labels = []Label{{"customer", "x,y"}, {"node", "web1"}}
	so := fate{File: "/a file", Problem: "disk\nbroken", URL: "https://a/1", Stored: "https://b/2", Refused: true,
		Pending: []string{"b", "a"}}
	p, err := newEntry(r, so)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, capture := filepath.Join(dir, "metadata"), filepath.Join(dir, "capture")
	if err := errors.Join(os.WriteFile(path, p.encode(), 0o600), os.WriteFile(capture, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	metadata, size, err := openRegular(path)
	if err != nil {
		t.Fatal(err)
	}
	defer metadata.Close()
	got, err := readEntry(metadata, size)
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "metadata", p.metadata, got.metadata)
	checkEqual(t, "bytes", p.bytes, got.bytes+got.Size)
	file, err := got.open(t.Context(), capture)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	back := got.capture(file)
	checkEqual(t, "labels", r.Labels, back.Labels)
	checkEqual(t, "tags", r.Tags, back.Tags)
	for range 2 { // as a second try reads it
		var read bytes.Buffer
		if _, err := read.ReadFrom(back.Content()); err != nil || !bytes.Equal(content, read.Bytes()) {
			t.Errorf("want the content, got %d bytes, %v", read.Len(), err)
		}
	}
	r.Content, back.Content = nil, nil
	checkEqual(t, "recording", r, back)
}

// TestEntryWaits: waits grow to five minutes at most, and a long night does not end them.
func TestEntryWaits(t *testing.T) {
	waits := newBackOff()
	longest := time.Duration(0)
	for n := range 1000 {
		wait := waits.NextBackOff()
		if longest = max(longest, wait); wait <= 0 || n == 0 && wait > 10*time.Second {
			t.Fatalf("wait %d is %v", n, wait)
		}
	}
	if longest < 4*time.Minute || longest > 5*time.Minute {
		t.Errorf("want up to five minutes, got %v", longest)
	}
}

// TestEntryOfOddFiles: nothing that may be in a spool directory blocks, is read
// without end, or counts for more than it is.
func TestEntryOfOddFiles(t *testing.T) {
	r, content := newRecording(100)
	good, err := newEntry(r, waiting)
	if err != nil {
		t.Fatal(err)
	}
	sized := func(size int64) []byte {
		m := good.metadata
		m.Size = size
		return m.encode()
	}
	for name, test := range map[string]struct {
		metadata []byte
		capture  func(path string) error
	}{
		"a pipe":             {good.encode(), func(path string) error { return unix.Mkfifo(path, 0o600) }},
		"a link to a device": {good.encode(), func(path string) error { return os.Symlink("/dev/zero", path) }},
		"a directory":        {good.encode(), func(path string) error { return os.Mkdir(path, 0o700) }},
		"negative":           {sized(-1 << 40), func(path string) error { return os.WriteFile(path, content, 0o600) }},
		"huge":               {sized(1 << 60), func(path string) error { return os.WriteFile(path, content, 0o600) }},
		"longer than it was": {good.encode(), func(path string) error { return os.WriteFile(path, append(content, 0), 0o600) }},
	} {
		dir := spoolDirectory{t.TempDir(), &disk{}}
		file := filepath.Join(dir.path, "x.pcap")
		if err := errors.Join(os.WriteFile(file+waitingSuffix, test.metadata, 0o600), test.capture(file)); err != nil {
			t.Fatal(err)
		}
		p, err := dir.read("x.pcap")
		if err == nil && p != nil {
			var opened *os.File
			if opened, err = p.open(t.Context(), file); err == nil {
				opened.Close()
			}
		}
		if !errors.Is(err, errDamaged) {
			t.Errorf("%s: want it damaged, got %v", name, err)
		}
	}
}

// TestEntryIsCheckedWhole: a check that was cut short says nothing of the capture.
func TestEntryIsCheckedWhole(t *testing.T) {
	r, content := newRecording(100)
	p, err := newEntry(r, waiting)
	if err != nil {
		t.Fatal(err)
	}
	capture := filepath.Join(t.TempDir(), "capture")
	content[99]++
	if err := os.WriteFile(capture, content, 0o600); err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := p.open(stopped, capture); !errors.Is(err, context.Canceled) {
		t.Errorf("want it stopped, got %v", err)
	}
	for range 2 {
		if _, err := p.open(t.Context(), capture); !errors.Is(err, errDamaged) {
			t.Errorf("want it damaged, got %v", err)
		}
	}
}

// TestMetadataIsBounded: damaged metadata is not read into memory, however long it is,
// and longer metadata than can be read is not written.
func TestMetadataIsBounded(t *testing.T) {
	testbed.Long(t)
	sparse := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, checkLength - 1, checkLength, maxMetadata, maxMetadata + 1, 3 << 30} {
		if err := os.Truncate(sparse, size); err != nil {
			t.Fatal(err)
		}
		file, size, err := openRegular(sparse)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = readEntry(file, size)
		runtime.ReadMemStats(&after)
		file.Close()
		if took := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, errDamaged) || took > 1<<20 {
			t.Errorf("%d bytes: want them damaged and not kept, got %v with %d bytes", size, err, took)
		}
	}
	r, _ := newRecording(100)
	r.Note = make([]byte, maxMetadata)
	p, err := newEntry(r, waiting)
	if err != nil || p.Note != nil || p.bytes > 1000 {
		t.Errorf("want the entry without its note, got %d bytes, %v", p.bytes, err)
	}
	p.Note = r.Note
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, p.encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	file, size, err := openRegular(long)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := readEntry(file, size); !errors.Is(err, errDamaged) {
		t.Errorf("want what is too long not read, got %v", err)
	}
}
