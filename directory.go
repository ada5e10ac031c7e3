package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A directory is a local destination.
type directory struct {
	path string // absolute
	disk *disk
}

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

// store writes a recording to a file of its own. A context that ends does not
// stop it: part of a capture is worth nothing.
func (d directory) store(_ context.Context, r recording) (receipt, error) {
	path := filepath.Join(d.path, r.name)
	draft, err := d.disk.draft(d.path, r.content())
	if err != nil {
		return receipt{}, fmt.Errorf("write %s: %w", path, cause(err))
	}
	defer draft.discard()
	for {
		err := draft.publish(path)
		if errors.Is(err, fs.ErrExist) { // taken since unused looked
			path = filepath.Join(d.path, d.unused(r.name))
			continue
		}
		if err != nil {
			return receipt{}, fmt.Errorf("write %s: %w", path, cause(err))
		}
		return receipt{file: path}, nil
	}
}

// cause returns the kernel's own words, without those paths that only we know.
func cause(err error) error {
	if number := syscall.Errno(0); errors.As(err, &number) {
		return number
	}
	return err
}
