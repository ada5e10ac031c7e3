package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A directory is a local destination.
type directory struct{ path string }

func (directory) name() string { return "local" }

// unused returns the name, with -2, -3 … before its extension if it is taken.
func (d directory) unused(name string) string {
	base, extension := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
	for n := 2; ; n++ {
		if _, err := os.Lstat(filepath.Join(d.path, name)); err != nil {
			return name
		}
		name = base + "-" + strconv.Itoa(n) + extension
	}
}

// store writes the file under a temporary name and renames it when it is on
// the disk, so that no reader sees part of it and a failure leaves nothing.
func (d directory) store(_ context.Context, r recording) (_ receipt, err error) {
	path := filepath.Join(d.path, r.name)
	defer func() {
		// The kernel's own words, without those paths that only we know.
		if cause := errors.Unwrap(err); cause != nil {
			err = fmt.Errorf("write %s: %w", path, cause)
		}
	}()
	file, err := os.CreateTemp(d.path, ".pcapdaemon-*")
	if err != nil {
		return receipt{}, err
	}
	defer os.Remove(file.Name()) // gone already if all went well
	defer file.Close()
	if _, err := io.Copy(file, r.content()); err != nil {
		return receipt{}, err
	}
	if err := file.Chmod(0o640); err != nil {
		return receipt{}, err
	}
	if err := file.Sync(); err != nil {
		return receipt{}, err
	}
	for {
		err := rename(file.Name(), path)
		if errors.Is(err, os.ErrExist) { // taken since unused looked
			path = filepath.Join(d.path, d.unused(r.name))
			continue
		}
		if err != nil {
			return receipt{}, err
		}
		break
	}
	// The name has to survive a power failure too.
	if parent, err := os.Open(d.path); err == nil {
		_ = parent.Sync() // not every file system can
		parent.Close()
	}
	return receipt{file: path}, nil
}

// rename renames a file and never overwrites one.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS, for one
		return os.Link(from, to) // the old name is removed by the caller
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
