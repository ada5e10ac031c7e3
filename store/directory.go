package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

const (
	// tidyPeriod is how often a directory is looked at as a whole.
	tidyPeriod = time.Hour
	// mostStuck is how many files that cannot be removed are passed over.
	mostStuck = 100
)

// A Directory is a local destination. What it removes when its bounds are
// passed are captures that bear a name as this node gives them, the oldest
// first, and never the newest.
type Directory struct {
	path     string // absolute
	disk     *disk
	node     string
	maxSize  int64         // bytes of all captures of this node; 0: no bound
	maxAge   time.Duration // of a capture; 0: no bound
	observer Observer
	probe    spaceProbe

	mu    sync.Mutex
	files []captureFile // sorted; nil: not looked yet
	size  int64         // of the files, in bytes
}

// NewDirectory returns a directory without bounds, of which nothing is ever removed.
func NewDirectory(path string) *Directory { return &Directory{path: path, disk: &disk{}} }

// A captureFile is a file that bears a capture's name.
type captureFile struct {
	start time.Time // of the capture, as the name says
	name  string
	size  int64 // bytes
}

// compare orders files by age, the oldest first.
func (f captureFile) compare(other captureFile) int {
	return cmp.Or(f.start.Compare(other.start), strings.Compare(f.name, other.name))
}

// Name implements Destination.
func (*Directory) Name() string { return "local" }

// Unused implements Archive.
func (d *Directory) Unused(name string) string {
	return freeName(name, func(name string) bool { return exists(filepath.Join(d.path, name)) })
}

// Store writes a capture file to a file of its own. A context that ends does not
// stop it: part of a capture is worth nothing.
func (d *Directory) Store(_ context.Context, r File) (Place, error) {
	path, err := d.write(r)
	if err != nil {
		return Place{}, fmt.Errorf("write %s: %w", path, cause(err))
	}
	d.wrote(filepath.Base(path), r.Size)
	return Place{File: path}, nil
}

// write writes the file and returns its path.
func (d *Directory) write(r File) (string, error) {
	path := filepath.Join(d.path, r.Name)
	draft, err := d.disk.draft(d.path, r.Content())
	if err != nil {
		return path, err
	}
	defer draft.discard()
	for {
		if err = draft.publish(path); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
		path = filepath.Join(d.path, d.Unused(r.Name)) // taken since unused looked
	}
}

// cause returns the kernel's own words, without those paths that only we know.
func cause(err error) error {
	if number := syscall.Errno(0); errors.As(err, &number) {
		return number
	}
	return err
}

// run removes what a killed daemon has left, and keeps the directory within its
// bounds until the context ends.
func (d *Directory) run(ctx context.Context) {
	if err := d.disk.sweep(d.path); err != nil {
		d.observer.Troubled(fmt.Errorf("remove what was left in %s: %w", d.path, cause(err)))
	}
	again := time.NewTicker(tidyPeriod)
	defer again.Stop()
	for {
		d.tidy()
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// bounded reports whether anything is ever removed.
func (d *Directory) bounded() bool { return d.maxSize > 0 || d.maxAge > 0 }

// tidy looks at all files anew, because others may have removed some, and
// removes what is beyond the bounds.
func (d *Directory) tidy() {
	if !d.bounded() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.look() {
		d.prune("")
	}
}

// wrote takes a file that has just been written into account, and removes what
// is beyond the bounds now.
func (d *Directory) wrote(name string, size int64) {
	if !d.bounded() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil && !d.look() {
		return
	}
	if start, ours := captureTime(d.node, name); ours {
		file := captureFile{start, name, size}
		if i, found := slices.BinarySearchFunc(d.files, file, captureFile.compare); !found {
			d.files = slices.Insert(d.files, i, file)
			d.size += size
		}
	}
	d.prune(name)
}

// look reads the directory; false means that it cannot.
func (d *Directory) look() bool {
	entries, err := readDirectory(d.path)
	if err != nil {
		d.observer.Troubled(fmt.Errorf("keep %s within its bounds: %w", d.path, cause(err)))
		return false
	}
	d.files, d.size = make([]captureFile, 0, len(entries)), 0
	for _, entry := range entries {
		start, ours := captureTime(d.node, entry.Name())
		if !ours || !entry.Type().IsRegular() {
			continue
		}
		if info, err := entry.Info(); err == nil { // else it has just gone
			d.files = append(d.files, captureFile{start, entry.Name(), info.Size()})
			d.size += info.Size()
		}
	}
	slices.SortFunc(d.files, captureFile.compare)
	return true
}

// prune removes the oldest files beyond the bounds, but neither the newest one
// nor the one that has just been written.
func (d *Directory) prune(written string) {
	var removed, spared []captureFile
	var trouble error // the first one: a disk that cannot be written has it with each file
	at := 0
	for ; at < len(d.files)-1 && len(spared) <= mostStuck && d.isBeyond(d.files[at]); at++ {
		file := d.files[at]
		if file.name == written {
			spared = append(spared, file)
			continue
		}
		switch err := d.disk.remove(filepath.Join(d.path, file.name)); {
		case err == nil:
			removed = append(removed, file)
			d.size -= file.size
		case errors.Is(err, fs.ErrNotExist): // others have removed it
			d.size -= file.size
		default:
			trouble = cmp.Or(trouble, fmt.Errorf("keep %s within its bounds: remove %s: %w", d.path, file.name, cause(err)))
			spared = append(spared, file)
		}
	}
	d.files = slices.Insert(d.files[at:], 0, spared...)
	if trouble != nil {
		d.observer.Troubled(trouble)
	}
	d.tellRemoved(removed)
}

// isBeyond reports whether the oldest file has to go, because of its age or the size of all.
func (d *Directory) isBeyond(file captureFile) bool {
	tooOld := d.maxAge > 0 && time.Since(file.start) > d.maxAge
	return tooOld || d.maxSize > 0 && d.size > d.maxSize
}

// tellRemoved tells the observer which files have made room, if any have.
func (d *Directory) tellRemoved(files []captureFile) {
	var names []string
	var size int64
	for _, file := range files {
		names, size = append(names, file.name), size+file.size
	}
	if len(names) > 0 {
		d.observer.Removed(names, size)
	}
}

// nearlyFull says that less than a twentieth of the file system is free, or
// nothing. Writing is tried all the same.
func (d *Directory) nearlyFull() error {
	s, err := d.space()
	if err == nil && s.free < s.size/20 {
		err = fmt.Errorf("%s is nearly full: %s free of %s", d.path, humanize.IBytes(s.free), humanize.IBytes(s.size))
	}
	return err
}

// space returns what its file system has.
func (d *Directory) space() (space, error) { return d.probe.measure(d.path, readSpace) }

// CheckWritable returns why files cannot be made in a directory, without its name, or nil.
func CheckWritable(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err // the caller names the directory
	}
	return err
}
