package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
)

const (
	spoolUploads = 2               // at one time
	spoolRest    = 5 * time.Minute // between two looks at the directory, or two lines about failures
)

// A spool keeps capture files whose upload has to wait, on the disk, and uploads
// them when that is possible again, by this process or by a later one.
type spool struct {
	spoolDirectory
	maxSize  int64       // bytes
	upload   Destination // that tries once
	local    Archive     // for what is refused; nil: that stays in the spool
	observer Observer
	// settled is told what became of a capture file in the end, with the note
	// that came with it.
	settled func(note []byte, place Place, err error)

	looked time.Time // through the directory, by run

	mu      sync.Mutex
	entries map[string]*entry    // by name in the spool
	size    int64                // bytes of the entries, and of those being written
	changed chan struct{}        // holds a token when another entry may be due; nil until run
	told    map[string]time.Time // when failures were told, by what they concern
}

// name is what deliveries to the spool are counted under.
func (*spool) name() string { return "spool" }

// keep puts a capture file into the spool, with where it is besides and what went
// wrong there. The entry is busy until it is released, dropped or refused.
func (s *spool) keep(r File, place Place, problem error) (*entry, error) {
	p, err := newEntry(r, place, problem)
	if err == nil {
		p.busy = true
		err = s.write(p, r.Content())
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s in %s: %w", r.Name, s.path, cause(err))
	}
	return p, nil
}

// write writes an entry and puts it among the others.
func (s *spool) write(p *entry, content io.Reader) error {
	if err := s.book(p.bytes()); err != nil {
		return err
	}
	done, err := s.put(p, content)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.size -= p.bytes()
		return err
	}
	defer done()
	s.add(p)
	return nil
}

// book takes room for bytes.
func (s *spool) book(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+size > s.maxSize {
		return fmt.Errorf("%d bytes are too many: %d of %d are in use", size, s.size, s.maxSize)
	}
	s.size += size
	return nil
}

// add puts an entry, for which there is room, among the others; mu is held.
func (s *spool) add(p *entry) {
	if s.entries == nil {
		s.entries = map[string]*entry{}
	}
	s.entries[p.file] = p
	s.wake()
}

// wake lets run look for an entry that is due; mu is held.
func (s *spool) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // run has not looked since the last time, or does not run
	}
}

// forget takes an entry from among the others.
func (s *spool) forget(p *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, p.file)
	s.size -= p.bytes()
}

// release lets an entry be tried again after its next wait, which it returns.
// The error may ask for a longer one.
func (s *spool) release(p *entry, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := p.backoff.NextBackOff()
	if asked := (*backoff.RetryAfterError)(nil); errors.As(err, &asked) {
		wait = max(wait, min(asked.Duration, longestWait))
	}
	p.next, p.busy = time.Now().Add(wait), false
	s.wake()
	return wait
}

// drop takes an entry out of the spool.
func (s *spool) drop(p *entry) {
	p.clear = func() error { return s.remove(p) }
	s.tidy(p)
}

// refuse settles an entry that CloudShark does not take: it goes to the local
// destination if it is not there yet, and stays in the spool if that fails.
func (s *spool) refuse(p *entry, r File, err error) (Place, error) {
	place := Place{File: p.File}
	if s.local != nil && place.File == "" {
		r.Name = s.local.Unused(r.Name)
		moved, failure := storeAt(context.Background(), s.local, r, s.observer)
		place.File, err = moved.File, errors.Join(err, failure)
	}
	p.clear = func() error { return s.remove(p) }
	if place.File == "" {
		p.clear = func() error { return s.retire(p) }
	}
	s.tidy(p)
	return place, errors.Join(err, p.problem())
}

// tidy takes a settled entry out of the spool, now or later.
func (s *spool) tidy(p *entry) {
	if err := p.clear(); err != nil {
		s.trouble("clear", fmt.Errorf("clear %s in %s: %w", p.file, s.path, cause(err)))
		s.release(p, nil)
		return
	}
	s.forget(p)
}

// silent reports whether a failure of this kind was told not long ago: when
// CloudShark is away, every entry fails, and each of them again and again.
func (s *spool) silent(kind string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if told, ever := s.told[kind]; ever && time.Since(told) < spoolRest {
		return true
	}
	if s.told == nil {
		s.told = map[string]time.Time{}
	}
	s.told[kind] = time.Now()
	return false
}

// trouble tells of a failure that may come again soon.
func (s *spool) trouble(kind string, err error) {
	if !s.silent(kind) {
		s.observer.Troubled(err)
	}
}

// run works the spool off until stop; uploads that are under way then go on
// until the context ends. Only one process at a time does so.
func (s *spool) run(ctx context.Context, stop <-chan struct{}) {
	s.mu.Lock()
	s.changed = make(chan struct{}, 1)
	s.mu.Unlock()
	lock := s.lock(stop)
	if lock == nil {
		return
	}
	defer lock.Close()
	var uploading sync.WaitGroup
	defer uploading.Wait()
	slots := make(chan struct{}, spoolUploads)
	for {
		select {
		case slots <- struct{}{}:
		case <-stop:
			return
		}
		p := s.await(stop)
		if p == nil {
			return
		}
		uploading.Go(func() {
			s.try(ctx, p)
			<-slots
		})
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

// await waits for an entry that is due and takes it in hand; nil means stop.
func (s *spool) await(stop <-chan struct{}) *entry {
	for {
		if time.Since(s.looked) >= spoolRest {
			s.look()
			s.looked = time.Now()
		}
		p, wait := s.due()
		if p != nil {
			return p
		}
		select {
		case <-stop:
			return nil
		case <-s.changed:
		case <-time.After(min(wait, spoolRest-time.Since(s.looked))):
		}
	}
}

// due takes the oldest entry that is due in hand, or returns when the next one is.
func (s *spool) due() (*entry, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var oldest *entry
	wait := spoolRest
	for _, p := range s.entries {
		switch {
		case p.busy:
		case p.next.After(now):
			wait = min(wait, p.next.Sub(now))
		case oldest == nil, p.older(oldest):
			oldest = p
		}
	}
	if oldest != nil {
		oldest.busy = true
	}
	return oldest, wait
}

// try uploads an entry once, and settles it unless it has to wait on.
func (s *spool) try(ctx context.Context, p *entry) {
	if p.clear != nil { // settled, but not cleared
		s.tidy(p)
		return
	}
	file, err := p.open(s.at(p, ""))
	if err != nil {
		s.unreadable(p, fmt.Errorf("read %s in %s: %w", p.file, s.path, cause(err)))
		return
	}
	defer file.Close()
	r := p.capture(file)
	began := time.Now()
	place, err := s.upload.Store(ctx, r)
	if err == nil || IsRefusal(err) { // not each try
		s.observer.Delivered(s.upload.Name(), time.Since(began), err)
	}
	switch {
	case err == nil:
		place.File, err = p.File, p.problem()
		s.drop(p) // before anything is told: a killed daemon would upload it again
	case IsRefusal(err):
		place, err = s.refuse(p, r, err)
	default:
		if wait := s.release(p, err); !s.silent("upload") {
			s.observer.Retried(r, err, wait)
		}
		return
	}
	s.settled(p.Note, place, err)
}

// unreadable settles an entry that is damaged or gone; anything else may pass.
func (s *spool) unreadable(p *entry, err error) {
	switch {
	case errors.Is(err, errDamaged):
		p.clear = func() error { return s.setAside(p) }
	case errors.Is(err, fs.ErrNotExist):
		p.clear = func() error { return s.remove(p) }
	default:
		s.trouble("read", err)
		s.release(p, nil)
		return
	}
	s.observer.Troubled(err)
	s.tidy(p)
	s.settled(p.Note, Place{File: p.File}, err)
}

// look finds what is in the spool, and takes out of the way what a killed
// daemon has left and what cannot be used.
func (s *spool) look() {
	err := s.disk.sweep(s.path)
	entries, listing := os.ReadDir(s.path)
	if err = cmp.Or(err, listing); err != nil {
		s.trouble("look", fmt.Errorf("look through %s: %w", s.path, cause(err)))
	}
	for _, entry := range entries {
		name, extension := entry.Name(), filepath.Ext(entry.Name())
		switch {
		case !entry.Type().IsRegular():
		case extension == waitingSuffix:
			s.adopt(strings.TrimSuffix(name, waitingSuffix))
		case extension == ".pcap", extension == ".pcapng":
			if s.isStray(name) {
				s.reject(name, fmt.Errorf("read %s in %s: no metadata: %w", name, s.path, errDamaged))
			}
		}
	}
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if p != nil && s.entries[name] == nil { // it may have been written since
		s.size += p.bytes()
		s.add(p)
	}
}

// knows reports whether an entry of that name is among the others.
func (s *spool) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[name] != nil
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

// stats returns how many captures wait, how many bytes they have, and since
// when the oldest one does.
func (s *spool) stats() (captures int, size int64, oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.entries {
		if oldest.IsZero() || p.Since.Before(oldest) {
			oldest = p.Since
		}
	}
	return len(s.entries), s.size, oldest
}
