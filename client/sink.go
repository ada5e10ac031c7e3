package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeWrite is how many bytes a pipe takes at once when it takes any: its pages.
	pipeWrite = 4096
	// pipePeriod is how often a write that waits for a reader looks whether it is to be given up.
	pipePeriod = 100 * time.Millisecond
	// lastWrite is the time for what is left to be written when the client leaves.
	lastWrite = 300 * time.Millisecond
)

// errReaderGone says that whoever read the packets has closed the pipe.
var errReaderGone = errors.New("the reader has closed it")

// A sink is the file or pipe into which packets are written. Each write is whole, or leaves
// nothing in a file. It is written from one goroutine, the other methods may be called from others.
type sink struct {
	file      *os.File
	isRegular bool
	deadline  atomic.Int64 // of all writes, in nanoseconds since 1970; 0: none
}

// newSink returns a sink that writes to a file.
func newSink(file *os.File) *sink {
	info, err := file.Stat()
	return &sink{file: file, isRegular: err == nil && info.Mode().IsRegular()}
}

// Write implements io.Writer. It waits for the reader of a pipe.
func (s *sink) Write(p []byte) (int, error) {
	n, err := 0, error(nil)
	if s.isRegular {
		if n, err = s.file.Write(p); err != nil {
			s.cut(n)
		}
	} else {
		for n < len(p) && err == nil {
			if err = s.await(); err == nil {
				var wrote int
				wrote, err = s.file.Write(p[n:min(n+pipeWrite, len(p))])
				n += wrote
			}
		}
	}
	var path *os.PathError
	switch {
	case errors.Is(err, unix.EPIPE):
		err = errReaderGone
	case errors.As(err, &path):
		err = path.Err
	}
	if err != nil {
		return n, fmt.Errorf("write %s: %w", s.file.Name(), err)
	}
	return n, nil
}

// cut removes what was written of a write that failed.
func (s *sink) cut(n int) {
	end, err := s.file.Seek(0, io.SeekCurrent)
	if err == nil && n > 0 && s.file.Truncate(end-int64(n)) == nil {
		_, _ = s.file.Seek(end-int64(n), io.SeekStart)
	}
}

// await waits until a pipe takes something. A write never blocks then, so that it can be given up.
func (s *sink) await() error {
	for {
		switch state := s.poll(unix.POLLOUT, pipePeriod); {
		case state&unix.POLLERR != 0:
			return errReaderGone
		case state&unix.POLLOUT != 0:
			return nil
		}
		if d := s.deadline.Load(); d != 0 && time.Now().UnixNano() > d {
			return errors.New("the reader takes nothing")
		}
	}
}

// poll returns what is true of the file.
func (s *sink) poll(events int16, wait time.Duration) int16 {
	fds := []unix.PollFd{{Fd: int32(s.file.Fd()), Events: events}}
	if _, err := unix.Poll(fds, int(wait.Milliseconds())); err != nil {
		return 0 // interrupted
	}
	return fds[0].Revents
}

// isGone reports whether nobody can read any more what is written.
func (s *sink) isGone() bool { return !s.isRegular && s.poll(0, 0)&unix.POLLERR != 0 }

// hurry gives little time to what is left to be written.
func (s *sink) hurry() { s.deadline.Store(time.Now().Add(lastWrite).UnixNano()) }
