package testbed

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Watch sees what changes in a directory, at the moment when it does.
type Watch struct {
	file  *os.File
	piece []byte
	rest  []byte // events that were read and not returned
}

// NewWatch watches a directory until the test ends.
func NewWatch(t testing.TB, dir string) *Watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "inotify"), piece: make([]byte, 64<<10)}
	t.Cleanup(func() { w.file.Close() })
	const changes = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_MOVE | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, dir, changes); err != nil {
		t.Fatal(err)
	}
	return w
}

// Forget forgets all changes until now.
func (w *Watch) Forget(t testing.TB) {
	t.Helper()
	for w.Next(t, time.Now()) != 0 {
	}
}

// Next waits for a change and returns what kind it is, as of inotify(7), or 0
// if there is none until the deadline.
func (w *Watch) Next(t testing.TB, deadline time.Time) uint32 {
	t.Helper()
	if len(w.rest) == 0 {
		if err := w.file.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, err := w.file.Read(w.piece)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0
		}
		if err != nil {
			t.Fatal(err)
		}
		w.rest = w.piece[:n]
	}
	mask, name := binary.NativeEndian.Uint32(w.rest[4:]), binary.NativeEndian.Uint32(w.rest[12:])
	w.rest = w.rest[unix.SizeofInotifyEvent+name:]
	return mask
}
