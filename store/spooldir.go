package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Endings of names in a spool directory. A capture bears its own name there, and its
// metadata that name and one of the first two.
const (
	waitingSuffix = ".waybill"
	refusedSuffix = ".refused" // metadata of a capture that is not tried again
	damagedSuffix = ".damaged" // of anything that cannot be used
)

// A spoolDirectory is a directory that holds entries. Whatever happens to the process, a
// capture is there whole with its metadata, or not at all: the metadata comes
// before the capture and goes after it, and alone it means nothing.
type spoolDirectory struct {
	path string // absolute
	disk *disk
}

// at returns the path of an entry's capture, or of what else has its name with an ending.
func (h spoolDirectory) at(p *entry, ending string) string {
	return filepath.Join(h.path, p.file+ending)
}

// put writes an entry and names it. Until done is called, no other process
// takes it for what a killed one has left.
func (h spoolDirectory) put(p *entry, content io.Reader) (done func(), err error) {
	metadata, err := h.disk.draft(h.path, bytes.NewReader(p.encode()))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			metadata.discard()
		}
	}()
	capture, err := h.disk.draft(h.path, content)
	if err != nil {
		return nil, err
	}
	defer capture.discard()
	for err = fs.ErrExist; errors.Is(err, fs.ErrExist); {
		p.file = freeName(p.Name, h.taken)
		err = metadata.publish(h.at(p, waitingSuffix))
	}
	if err != nil {
		return nil, err
	}
	if err := capture.publish(h.at(p, "")); err != nil {
		_ = h.disk.remove(h.at(p, waitingSuffix))
		return nil, err
	}
	return metadata.discard, nil
}

// rewrite puts the metadata of an entry in the place of what it was. It is never
// missing, and whoever looks finds the one or the other.
func (h spoolDirectory) rewrite(p *entry) error {
	metadata, err := h.disk.draft(h.path, bytes.NewReader(p.encode()))
	if err != nil {
		return err
	}
	defer metadata.discard()
	return h.disk.move(metadata.file.Name(), h.at(p, waitingSuffix))
}

// taken reports whether a file or anything that belongs to it bears a name.
func (h spoolDirectory) taken(name string) bool {
	for _, ending := range []string{"", waitingSuffix, refusedSuffix, damagedSuffix, waitingSuffix + damagedSuffix} {
		if exists(filepath.Join(h.path, name+ending)) {
			return true
		}
	}
	return false
}

// remove removes an entry. A capture that survives that still has its metadata.
func (h spoolDirectory) remove(p *entry) error {
	if err := unlessGone(h.disk.remove(h.at(p, ""))); err != nil {
		return err
	}
	h.disk.syncDirectory(h.path)
	return unlessGone(h.disk.remove(h.at(p, waitingSuffix)))
}

// retire leaves an entry where it is, as one that is not tried again.
func (h spoolDirectory) retire(p *entry) error {
	return unlessGone(h.disk.move(h.at(p, waitingSuffix), h.at(p, refusedSuffix)))
}

// setAside takes what there is of an entry out of the way.
func (h spoolDirectory) setAside(p *entry) error {
	for _, ending := range []string{"", waitingSuffix} { // a metadata file that is left alone means nothing
		if err := unlessGone(h.disk.move(h.at(p, ending), h.at(p, ending+damagedSuffix))); err != nil {
			return err
		}
	}
	return nil
}

// unlessGone takes a file that is not there for one that is dealt with.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// read returns the entry of a name, or nil if there is none: it is being written just
// now, or there is metadata alone, which read removes.
func (h spoolDirectory) read(name string) (*entry, error) {
	at := &entry{file: name}
	metadata, size, err := openRegular(h.at(at, waitingSuffix))
	if err != nil {
		return nil, unlessGone(err)
	}
	defer metadata.Close()
	if !tryLock(metadata) {
		return nil, nil
	}
	capture, err := os.Lstat(h.at(at, ""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unlessGone(h.disk.remove(h.at(at, waitingSuffix)))
	}
	if err != nil {
		return nil, err
	}
	p, err := readEntry(metadata, size)
	if err != nil {
		return nil, err
	}
	p.file = name
	p.bytes += min(capture.Size(), maxSize) // what is there counts, not what the metadata says
	return p, nil
}

// isStray reports whether a capture has no metadata. One that is being written has
// its metadata before, and one that is being removed still has it then.
func (h spoolDirectory) isStray(name string) bool {
	path := filepath.Join(h.path, name)
	described := func() bool { return exists(path+waitingSuffix) || exists(path+refusedSuffix) }
	return !described() && exists(path) && !described()
}
