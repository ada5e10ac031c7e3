package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// draftPrefix begins the names of files that are not whole yet.
	draftPrefix = ".pcapdaemon-"
	// flushSize is the piece in which content is pushed to the disk, in bytes.
	flushSize = 4 << 20
)

// A disk is the file system as captures are written to it: a file bears its
// name when all of it is on the disk, and no file takes the name of another one.
type disk struct {
	// written counts the bytes that have reached the disk, so that whoever
	// waits can tell a slow disk from one that hangs.
	written atomic.Int64
	// fault, if set, may fail an operation in its place: a broken or strange
	// file system, or the end of the process, for tests.
	fault func(operation, path string) error
}

// do carries an operation out, unless it is to fail.
func (d *disk) do(operation, path string, act func() error) error {
	if d.fault != nil {
		if err := d.fault(operation, path); err != nil {
			return err
		}
	}
	return act()
}

// A draft is a file that is whole and on the disk, and does not bear its name
// yet. It is locked until it is discarded, so that a daemon that starts does
// not take it for what a killed one has left.
type draft struct {
	disk *disk
	file *os.File
}

// draft writes content to a new file in a directory. The caller discards it.
func (d *disk) draft(dir string, content io.Reader) (_ *draft, err error) {
	f := &draft{disk: d}
	err = d.do("create", dir, func() (err error) {
		f.file, err = createLocked(dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.discard()
		}
	}()
	to := &flusher{disk: d, file: f.file}
	if _, err := io.Copy(to, content); err != nil {
		return nil, err
	}
	if err := d.do("chmod", f.file.Name(), func() error { return f.file.Chmod(0o640) }); err != nil {
		return nil, err
	}
	return f, to.sync()
}

// createLocked makes a file for a draft. One that a sweep has come upon before
// it was locked is lost, and another one takes its place.
func createLocked(dir string) (*os.File, error) {
	for {
		file, err := os.CreateTemp(dir, draftPrefix+"*")
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) // not every file system can
		if !errors.Is(err, unix.EWOULDBLOCK) && exists(file.Name()) {
			return file, nil
		}
		_ = os.Remove(file.Name())
		file.Close()
	}
}

// sweep removes the drafts that a killed daemon has left in a directory.
func (d *disk) sweep(dir string) error {
	entries, err := readDirectory(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), draftPrefix) && entry.Type().IsRegular() {
			d.removeAbandoned(filepath.Join(dir, entry.Name()))
		}
	}
	return err
}

// removeAbandoned removes a draft on which nobody works. It is locked until it
// has gone, so that whoever has just made it notices.
func (d *disk) removeAbandoned(path string) {
	if file := lockAbandoned(path); file != nil {
		_ = d.remove(path)
		file.Close()
	}
}

// readDirectory returns what is in a directory, in no order: sorting 100,000
// names costs more than reading them.
func readDirectory(path string) ([]fs.DirEntry, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.ReadDir(-1)
}

// lockAbandoned opens and locks a file on which nobody works, or returns nil.
func lockAbandoned(path string) *os.File {
	file, _, err := openRegular(path)
	if err != nil {
		return nil
	}
	if !tryLock(file) {
		file.Close()
		return nil
	}
	return file
}

// tryLock locks a file until it is closed, and reports whether that was possible.
func tryLock(file *os.File) bool {
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// openRegular opens a file that is neither a link nor a pipe nor a device, on
// which a read might wait for ever or never end, and returns its size. Anything
// else is damaged.
func openRegular(path string) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a socket
		return nil, 0, errDamaged
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errDamaged
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// publish gives the draft its name, which survives a power failure. It fails
// with fs.ErrExist if something bears it.
func (f *draft) publish(path string) error {
	if err := f.rename(path); err != nil {
		return err
	}
	f.disk.syncDirectory(filepath.Dir(path))
	return nil
}

// rename renames the draft and never overwrites a file.
func (f *draft) rename(path string) error {
	err := f.disk.do("rename", path, func() error {
		return unix.Renameat2(unix.AT_FDCWD, f.file.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS, for one
		// The old name goes when the draft is discarded.
		err = f.disk.do("link", path, func() error { return os.Link(f.file.Name(), path) })
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			return f.replace(path) // neither, as FUSE may have it
		}
	}
	return err
}

// replace makes an empty file of that name, which only one can do, and puts
// the draft in its place.
func (f *draft) replace(path string) error {
	err := f.disk.do("reserve", path, func() error {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		return file.Close()
	})
	if err != nil {
		return err
	}
	err = f.disk.do("replace", path, func() error { return os.Rename(f.file.Name(), path) })
	if err != nil {
		_ = f.disk.remove(path)
	}
	return err
}

// discard removes the draft, if it has not been published, and unlocks it.
func (f *draft) discard() {
	_ = f.disk.remove(f.file.Name())
	f.file.Close() // what matters has been synced
}

// remove removes a file.
func (d *disk) remove(path string) error {
	return d.do("remove", path, func() error { return os.Remove(path) })
}

// move renames a file within its directory.
func (d *disk) move(from, to string) error {
	err := d.do("move", from, func() error { return os.Rename(from, to) })
	if err == nil {
		d.syncDirectory(filepath.Dir(to))
	}
	return err
}

// syncDirectory brings the names in a directory to the disk.
func (d *disk) syncDirectory(dir string) {
	_ = d.do("sync-directory", dir, func() error { // not every file system can
		parent, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer parent.Close()
		return parent.Sync()
	})
}

// A flusher writes to a file and pushes what is written to the disk on the way,
// at the disk's own pace. Otherwise all would be left to the sync at the end,
// of which nobody could say how far it is.
type flusher struct {
	disk   *disk
	file   *os.File
	size   int64 // written
	sent   int64 // on the way to the disk
	synced int64 // there
}

// Write implements io.Writer.
func (w *flusher) Write(p []byte) (int, error) {
	var n int
	err := w.disk.do("write", w.file.Name(), func() (err error) {
		n, err = w.file.Write(p)
		return err
	})
	if w.size += int64(n); err == nil && w.size-w.sent >= flushSize {
		err = w.flush()
	}
	return n, err
}

// flush waits for the piece that is on the way and sends the next one.
func (w *flusher) flush() error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	var err error
	if w.sent > w.synced { // a length of 0 would mean the whole file
		err = w.syncRange(w.synced, w.sent-w.synced, wait)
	}
	if err == nil {
		err = w.syncRange(w.sent, w.size-w.sent, unix.SYNC_FILE_RANGE_WRITE)
	}
	w.disk.written.Add(w.sent - w.synced)
	w.synced, w.sent = w.sent, w.size
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // the sync at the end will do
	}
	return err // the kernel would not tell the sync at the end again
}

// syncRange pushes a part of the file to the disk, or waits until it is there.
func (w *flusher) syncRange(from, length int64, flags int) error {
	return w.disk.do("sync-range", w.file.Name(), func() error {
		return unix.SyncFileRange(int(w.file.Fd()), from, length, flags)
	})
}

// sync returns when all is on the disk.
func (w *flusher) sync() error {
	err := w.disk.do("sync", w.file.Name(), w.file.Sync)
	if err == nil {
		w.disk.written.Add(w.size - w.synced)
	}
	return err
}

// exists reports whether there is something of that name.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
