package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	spoolUploads = 2               // to one destination at one time
	spoolRest    = 5 * time.Minute // between two looks at the directory, or two lines about failures
)

// run works the spool off until stop; uploads that are under way then go on
// until the context ends. Only one process at a time does so.
func (s *spool) run(ctx context.Context, stop <-chan struct{}) {
	lock := s.lock(stop)
	if lock == nil {
		return
	}
	defer lock.Close()
	s.look()
	var uploading sync.WaitGroup
	defer uploading.Wait()
	for i := range s.remotes {
		uploading.Go(func() { s.upload(ctx, stop, i) })
	}
	again := time.NewTicker(spoolRest)
	defer again.Stop()
	for {
		select {
		case <-stop:
			return
		case <-again.C:
			s.look()
		}
	}
}

// lock waits until the spool is this process's alone; nil means that it has to stop.
func (s *spool) lock(stop <-chan struct{}) *os.File {
	for {
		dir, err := os.Open(s.path)
		if err == nil {
			if err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
				return dir // not every file system can lock
			}
			dir.Close()
			err = errors.New("another process does")
		}
		s.trouble("lock", fmt.Errorf("work %s off: %w", s.path, cause(err)))
		select {
		case <-stop:
			return nil
		case <-time.After(time.Second):
		}
	}
}

// upload brings the entries that are due to one of the remote destinations until
// stop. None of these waits for another one.
func (s *spool) upload(ctx context.Context, stop <-chan struct{}, remote int) {
	var trying sync.WaitGroup
	defer trying.Wait()
	slots := make(chan struct{}, spoolUploads)
	for {
		select {
		case slots <- struct{}{}:
		case <-stop:
			return
		}
		p := s.await(stop, s.remotes[remote].Name())
		if p == nil {
			return
		}
		trying.Go(func() {
			s.try(ctx, p, remote)
			<-slots
		})
	}
}

// await waits for an entry that is due at a destination and returns it as busy; nil means stop.
func (s *spool) await(stop <-chan struct{}, name string) *entry {
	for {
		p, wait, changed := s.due(name)
		if p != nil {
			return p
		}
		select {
		case <-stop:
			return nil
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// due returns the oldest entry that is due at a destination, as busy, or when the
// next one is, and what is closed if that may change.
func (s *spool) due(name string) (oldest *entry, wait time.Duration, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	wait = spoolRest
	for _, p := range s.entries {
		next := p.retries[name]
		switch {
		case next == nil, next.busy:
		case next.next.After(now):
			wait = min(wait, next.next.Sub(now))
		case oldest == nil, p.older(oldest):
			oldest = p
		}
	}
	if oldest != nil {
		oldest.retries[name].busy = true
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return oldest, wait, s.changed
}

// try uploads an entry once, and settles it unless it has to wait on.
func (s *spool) try(ctx context.Context, p *entry, remote int) {
	to := s.remotes[remote].Once
	file, err := p.open(ctx, s.at(p, ""))
	if err != nil && ctx.Err() != nil { // a later process reads it again
		return
	}
	if err != nil {
		s.unreadable(p, to.Name(), fmt.Errorf("read %s in %s: %w", p.file, s.path, cause(err)))
		return
	}
	defer file.Close()
	r := p.capture(file)
	began := time.Now()
	place, err := to.Store(ctx, r)
	got := answer{to.Name(), remote == 0, place, err}
	if !got.isFinal() {
		if wait := s.release(p, got.name, err); !s.silent("upload to " + got.name) {
			s.observer.Retried(got.name, r, err, wait)
		}
		return
	}
	s.observer.Delivered(got.name, time.Since(began), err) // not each try
	// Before anything is told: a killed daemon would upload it again.
	if s.settle(p, r, func(f *fate) { f.take(got) }) {
		s.settled(p.Note, p.place(), p.problem())
	}
}

// unreadable settles an entry that is damaged or gone; anything else may pass.
func (s *spool) unreadable(p *entry, name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.clear != nil: // another upload has noticed it, too
		return
	case errors.Is(err, errDamaged):
		p.clear = func() error { return s.setAside(p) }
	case errors.Is(err, fs.ErrNotExist):
		p.clear = func() error { return s.remove(p) }
	default:
		s.trouble("read", err)
		s.release(p, name, nil)
		return
	}
	s.observer.Troubled(err)
	s.tidy(p)
	s.settled(p.Note, p.place(), err)
}

// look finds what is in the spool, and takes out of the way what a killed
// daemon has left and what cannot be used.
func (s *spool) look() {
	s.mu.Lock()
	uncleared := s.uncleared
	s.uncleared = nil
	s.mu.Unlock()
	for _, p := range uncleared {
		s.tidy(p)
	}
	err := s.disk.sweep(s.path)
	entries, listing := os.ReadDir(s.path)
	if err = cmp.Or(err, listing); err != nil {
		s.trouble("look", fmt.Errorf("look through %s: %w", s.path, cause(err)))
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case filepath.Ext(name) == waitingSuffix: // even if it is no file: then it is damaged
			s.adopt(strings.TrimSuffix(name, waitingSuffix))
		case !entry.Type().IsRegular():
		case isCapture(name) && s.isStray(name):
			s.reject(name, fmt.Errorf("read %s in %s: no metadata: %w", name, s.path, errDamaged))
		}
	}
	s.tellStranded(entries)
}

// adopt takes up an entry that is in the directory, unless it is known.
func (s *spool) adopt(name string) {
	if s.knows(name) {
		return
	}
	p, err := s.read(name)
	if err != nil {
		s.reject(name, fmt.Errorf("read %s in %s: %w", name+waitingSuffix, s.path, cause(err)))
		return
	}
	if p == nil {
		return
	}
	claimed := s.claims(p) // an upload may change that from here on
	if s.takeUp(p) && !claimed {
		s.leave(p)
	}
}

// takeUp puts an entry that was read among the others, unless it has been written since.
func (s *spool) takeUp(p *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[p.file] != nil {
		return false
	}
	s.size += p.bytes
	s.add(p)
	return true
}

// knows reports whether an entry of that name is among the others, or left alone.
func (s *spool) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[name] != nil || s.unclaimed[name] != ""
}

// reject sets aside what cannot become an entry. Nobody can be told of it but the operator.
func (s *spool) reject(name string, err error) {
	if !errors.Is(err, errDamaged) {
		s.trouble("read", err)
		return
	}
	s.observer.Troubled(err)
	if err := s.setAside(&entry{file: name}); err != nil {
		s.trouble("clear", fmt.Errorf("set %s aside in %s: %w", name, s.path, cause(err)))
	}
}
