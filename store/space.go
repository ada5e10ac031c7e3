package store

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/text"
)

// spaceTime is how long anybody waits to hear of the space of a file system.
const spaceTime = time.Second

// A space is what a file system has, in bytes.
type space struct{ free, size uint64 }

// readSpace returns what everybody may use of a file system, and all of it.
func readSpace(path string) (space, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return space{}, fmt.Errorf("look at the space of %s: %w", path, err)
	}
	return space{stat.Bavail * uint64(stat.Bsize), stat.Blocks * uint64(stat.Bsize)}, nil
}

// A spaceProbe tells what space there is. A file system that hangs, such as that
// of a server that is away, holds one look at it, however many want to know.
type spaceProbe struct {
	mu   sync.Mutex
	look *survey // nil: none is under way
}

// A survey is one look; space and err are there when done is closed.
type survey struct {
	done chan struct{}
	space
	err error
}

// measure returns what read returns, unless that takes too long.
func (s *spaceProbe) measure(path string, read func(string) (space, error)) (space, error) {
	s.mu.Lock()
	look := s.look
	if look == nil {
		look = &survey{done: make(chan struct{})}
		s.look = look
		go func() {
			look.space, look.err = read(path)
			s.mu.Lock()
			s.look = nil
			s.mu.Unlock()
			close(look.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-look.done:
		return look.space, look.err
	case <-time.After(spaceTime):
		return space{}, fmt.Errorf("look at the space of %s: no answer for %s", path, text.FormatDuration(spaceTime))
	}
}
