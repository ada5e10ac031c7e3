package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/dustin/go-humanize/english"
)

// A spool keeps capture files whose upload has to wait, on the disk, and uploads
// them when that is possible again, by this process or by a later one.
type spool struct {
	spoolDirectory
	maxSize  int64 // bytes
	remotes  []Remote
	local    Archive // for what is refused; nil: that stays in the spool
	observer Observer
	// settled is called with what became of a capture file in the end, and the note
	// that came with it.
	settled func(note []byte, place Place, err error)

	mu        sync.Mutex
	entries   map[string]*entry    // by name in the spool
	uncleared []*entry             // settled, but still on the disk
	unclaimed map[string]string    // destinations that there are no more, by names of entries that wait for them
	stranded  int                  // of unclaimed, when that was logged
	size      int64                // bytes of the entries, and of those being written
	changed   chan struct{}        // closed when another entry may be due; nil: nobody waits for that
	told      map[string]time.Time // when failures were told, by what they concern
}

// newSpool returns a spool in a directory, without bound, from which remote destinations take.
func newSpool(dir spoolDirectory, remotes []Remote) *spool {
	return &spool{spoolDirectory: dir, maxSize: math.MaxInt64, remotes: remotes,
		entries: map[string]*entry{}, unclaimed: map[string]string{}, told: map[string]time.Time{}}
}

// name is what deliveries to the spool are counted under.
func (*spool) name() string { return "spool" }

// keep puts a capture file into the spool for the destinations that are to get it.
// The entry is busy until what has become of its uploads is concluded.
func (s *spool) keep(r File, so fate) (*entry, error) {
	p, err := newEntry(r, so)
	if err == nil {
		for _, next := range p.retries {
			next.busy = true
		}
		err = s.write(p, r.Content())
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s in %s: %w", r.Name, s.path, cause(err))
	}
	return p, nil
}

// write writes an entry and puts it among the others.
func (s *spool) write(p *entry, content io.Reader) error {
	if err := s.book(p.bytes); err != nil {
		return err
	}
	done, err := s.put(p, content)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.size -= p.bytes
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
	if size > s.maxSize-s.size {
		return fmt.Errorf("%d bytes are too many: %d of %d are in use", size, s.size, s.maxSize)
	}
	s.size += size
	return nil
}

// add puts an entry, for which there is room, among the others; mu is held.
func (s *spool) add(p *entry) {
	s.entries[p.file] = p
	s.wake()
}

// wake lets whoever waits for an entry look for one that is due; mu is held.
func (s *spool) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// forget takes an entry from among the others.
func (s *spool) forget(p *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, p.file)
	s.size -= p.bytes
}

// release lets an entry be brought to a destination again after the next wait,
// which it returns. The error may ask for a longer one.
func (s *spool) release(p *entry, name string, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := p.retries[name]
	if next == nil { // the entry was settled meanwhile
		return 0
	}
	wait := next.backoff.NextBackOff()
	if asked := (*backoff.RetryAfterError)(nil); errors.As(err, &asked) {
		wait = max(wait, min(asked.Duration, longestWait))
	}
	next.next, next.busy = time.Now().Add(wait), false
	s.wake()
	return wait
}

// conclude notes what has become of the uploads that went on while their file was
// put into the spool, and lets those that failed be tried again.
func (s *spool) conclude(c *copies) (Place, error) {
	p := c.entry
	over := s.settle(p, c.file, func(f *fate) {
		if c.written != nil && !c.noted {
			f.takeLocal(c.place, c.problem)
		}
		for _, a := range c.answers {
			f.take(a)
		}
	})
	place, err := p.place(), p.problem()
	if over {
		return place, err
	}
	var why error
	for _, a := range c.answers {
		if !a.isFinal() {
			why = errors.Join(why, a.err)
			c.observer.Retried(a.name, c.file, a.err, s.release(p, a.name, a.err))
		}
	}
	place.Kept, place.Why = true, why.Error()
	return place, err
}

// settle changes what is known of the fate of an entry, on the disk too. It takes the
// entry out of the spool and returns true if nothing more is to come.
func (s *spool) settle(p *entry, r File, change func(*fate)) (over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clear != nil { // it is over already, because it is damaged
		return false
	}
	before := fmt.Sprint(p.fate)
	change(&p.fate)
	if p.Refused && p.File == "" && s.local != nil {
		r.Name = s.local.Unused(r.Name)
		p.takeLocal(storeAt(context.Background(), s.local, r, s.observer))
	}
	if len(p.Pending) == 0 {
		p.clear = func() error { return s.remove(p) }
		if p.Refused && p.File == "" {
			p.clear = func() error { return s.retire(p) }
		}
		s.tidy(p)
		return true
	}
	if fmt.Sprint(p.fate) != before {
		s.save(p)
	}
	if !s.claims(p) {
		s.leave(p)
	}
	return false
}

// save writes the metadata of an entry anew. If that fails, a later process brings
// the capture to a destination that has it already: twice is better than never.
func (s *spool) save(p *entry) {
	if err := s.rewrite(p); err != nil {
		s.trouble("save", fmt.Errorf("note who has %s in %s: %w", p.file, s.path, cause(err)))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := p.Size + int64(len(p.encode()))
	s.size += bytes - p.bytes
	p.bytes = bytes
}

// tidy takes a settled entry out of the spool, now or later.
func (s *spool) tidy(p *entry) {
	err := p.clear()
	if err == nil {
		s.forget(p)
		return
	}
	s.trouble("clear", fmt.Errorf("clear %s in %s: %w", p.file, s.path, cause(err)))
	s.mu.Lock()
	defer s.mu.Unlock()
	p.retries = nil
	s.uncleared = append(s.uncleared, p)
}

// claims reports whether an entry waits for a destination that there is.
func (s *spool) claims(p *entry) bool {
	return slices.ContainsFunc(s.remotes, func(r Remote) bool { return slices.Contains(p.Pending, r.Name()) })
}

// leave leaves an entry that only waits for destinations which are not configured
// on the disk. A process that knows them again takes it up.
func (s *spool) leave(p *entry) {
	s.forget(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unclaimed[p.file] = strings.Join(p.Pending, " and ")
}

// remark says what is left on the disk, and what can be done about it, or returns nil.
func (s *spool) remark() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unclaimed) == 0 {
		return nil
	}
	missing := slices.Compact(slices.Sorted(maps.Values(s.unclaimed)))
	return fmt.Errorf("%s in %s: waiting for %s, not configured any more; configure it again, or move the files away",
		english.Plural(len(s.unclaimed), "capture", ""), s.path, strings.Join(missing, ", "))
}

// tellStranded tells what is left on the disk, once, and again when it has become more. What is
// not in the directory any more was moved away.
func (s *spool) tellStranded(directory []os.DirEntry) {
	there := map[string]bool{}
	for _, entry := range directory {
		there[entry.Name()] = true
	}
	s.mu.Lock()
	maps.DeleteFunc(s.unclaimed, func(name, _ string) bool { return !there[name+waitingSuffix] })
	more := len(s.unclaimed) > s.stranded
	s.stranded = len(s.unclaimed)
	s.mu.Unlock()
	if more {
		s.observer.Troubled(s.remark())
	}
}

// silent reports whether a failure of this kind was told not long ago: when
// CloudShark is away, every entry fails, and each of them again and again.
func (s *spool) silent(kind string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if told, ever := s.told[kind]; ever && time.Since(told) < spoolRest {
		return true
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
