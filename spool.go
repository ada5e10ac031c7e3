package main

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

// A spool keeps recordings whose upload has to wait, on the disk, and uploads
// them when that is possible again, by this process or by a later one.
type spool struct {
	shelf
	maxSize  int64       // bytes
	upload   destination // that tries once
	local    archive     // for what is refused; nil: that stays in the spool
	observer observer
	// settled is told what became of a recording in the end, with the note
	// that came with it.
	settled func(note []byte, place receipt, err error)

	looked time.Time // through the directory, by run

	mu      sync.Mutex
	parcels map[string]*parcel   // by name in the spool
	size    int64                // bytes of the parcels, and of those being written
	changed chan struct{}        // holds a token when another parcel may be due; nil until run
	told    map[string]time.Time // when failures were told, by what they concern
}

// name is what deliveries to the spool are counted under.
func (*spool) name() string { return "spool" }

// keep puts a recording into the spool, with where it is besides and what went
// wrong there. The parcel is busy until it is released, dropped or refused.
func (s *spool) keep(r recording, place receipt, problem error) (*parcel, error) {
	p, err := newParcel(r, place, problem)
	if err == nil {
		p.busy = true
		err = s.write(p, r.content())
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s in %s: %w", r.name, s.path, cause(err))
	}
	return p, nil
}

// write writes a parcel and puts it among the others.
func (s *spool) write(p *parcel, content io.Reader) error {
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

// add puts a parcel, for which there is room, among the others; mu is held.
func (s *spool) add(p *parcel) {
	if s.parcels == nil {
		s.parcels = map[string]*parcel{}
	}
	s.parcels[p.file] = p
	s.wake()
}

// wake lets run look for a parcel that is due; mu is held.
func (s *spool) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // run has not looked since the last time, or does not run
	}
}

// forget takes a parcel from among the others.
func (s *spool) forget(p *parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.parcels, p.file)
	s.size -= p.bytes()
}

// release lets a parcel be tried again after its next wait, which it returns.
// The error may ask for a longer one.
func (s *spool) release(p *parcel, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := p.backoff.NextBackOff()
	if asked := (*backoff.RetryAfterError)(nil); errors.As(err, &asked) {
		wait = max(wait, asked.Duration)
	}
	p.next, p.busy = time.Now().Add(wait), false
	s.wake()
	return wait
}

// drop takes a parcel out of the spool.
func (s *spool) drop(p *parcel) {
	p.clear = func() error { return s.remove(p) }
	s.tidy(p)
}

// refuse settles a parcel that CloudShark does not take: it goes to the local
// destination if it is not there yet, and stays in the spool if that fails.
func (s *spool) refuse(p *parcel, r recording, err error) (receipt, error) {
	place := receipt{file: p.File}
	if s.local != nil && place.file == "" {
		r.name = s.local.unused(r.name)
		moved, failure := storeAt(context.Background(), s.local, r, s.observer)
		place.file, err = moved.file, errors.Join(err, failure)
	}
	p.clear = func() error { return s.remove(p) }
	if place.file == "" {
		p.clear = func() error { return s.retire(p) }
	}
	s.tidy(p)
	return place, errors.Join(err, p.problem())
}

// tidy takes a settled parcel out of the spool, now or later.
func (s *spool) tidy(p *parcel) {
	if err := p.clear(); err != nil {
		s.trouble("clear", fmt.Errorf("clear %s in %s: %w", p.file, s.path, cause(err)))
		s.release(p, nil)
		return
	}
	s.forget(p)
}

// silent tells whether a failure of this kind was told not long ago: when
// CloudShark is away, every parcel fails, and each of them again and again.
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
		s.observer.troubled(err)
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

// await waits for a parcel that is due and takes it in hand; nil means stop.
func (s *spool) await(stop <-chan struct{}) *parcel {
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

// due takes the oldest parcel that is due in hand, or returns when the next one is.
func (s *spool) due() (*parcel, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var oldest *parcel
	wait := spoolRest
	for _, p := range s.parcels {
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

// try uploads a parcel once, and settles it unless it has to wait on.
func (s *spool) try(ctx context.Context, p *parcel) {
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
	r := p.recording(file)
	began := time.Now()
	place, err := s.upload.store(ctx, r)
	if err == nil || isRefusal(err) { // not each try
		s.observer.delivered(s.upload.name(), time.Since(began), err)
	}
	switch {
	case err == nil:
		place.file, err = p.File, p.problem()
		s.drop(p) // before anything is told: a killed daemon would upload it again
	case isRefusal(err):
		place, err = s.refuse(p, r, err)
	default:
		if wait := s.release(p, err); !s.silent("upload") {
			s.observer.retried(r, err, wait)
		}
		return
	}
	s.settled(p.Note, place, err)
}

// unreadable settles a parcel that is damaged or gone; anything else may pass.
func (s *spool) unreadable(p *parcel, err error) {
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
	s.observer.troubled(err)
	s.tidy(p)
	s.settled(p.Note, receipt{file: p.File}, err)
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
		case extension == waitingEnding:
			s.adopt(strings.TrimSuffix(name, waitingEnding))
		case extension == ".pcap", extension == ".pcapng":
			if s.isStray(name) {
				s.reject(name, fmt.Errorf("read %s in %s: no waybill: %w", name, s.path, errDamaged))
			}
		}
	}
}

// adopt takes up a parcel that is in the directory, unless it is known.
func (s *spool) adopt(name string) {
	if s.knows(name) {
		return
	}
	p, err := s.read(name)
	if err != nil {
		s.reject(name, fmt.Errorf("read %s in %s: %w", name+waitingEnding, s.path, cause(err)))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p != nil && s.parcels[name] == nil { // it may have been written since
		s.size += p.bytes()
		s.add(p)
	}
}

// knows tells whether a parcel of that name is among the others.
func (s *spool) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parcels[name] != nil
}

// reject sets aside what cannot become a parcel. Nobody can be told of it but the operator.
func (s *spool) reject(name string, err error) {
	if !errors.Is(err, errDamaged) {
		s.trouble("read", err)
		return
	}
	s.observer.troubled(err)
	if err := s.setAside(&parcel{file: name}); err != nil {
		s.trouble("clear", fmt.Errorf("set %s aside in %s: %w", name, s.path, cause(err)))
	}
}

// stats returns how many captures wait, how many bytes they have, and since
// when the oldest one does.
func (s *spool) stats() (captures int, size int64, oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parcels {
		if oldest.IsZero() || p.Since.Before(oldest) {
			oldest = p.Since
		}
	}
	return len(s.parcels), s.size, oldest
}
