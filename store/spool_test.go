package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
)

// A fakeShark is a CloudShark that answers as it is told, in virtual time.
type fakeShark struct {
	title  string                      // empty: cloudshark
	answer func(r File, try int) error // nil: takes everything
	takes  time.Duration               // each upload

	mu      sync.Mutex
	tries   map[string]int // by name
	got     []taken
	running int
	most    int // at one time
}

// taken is an upload that a fakeShark has taken.
type taken struct {
	name, tags, comments string
	content              []byte
	at                   time.Time
}

// Name implements Destination.
func (f *fakeShark) Name() string { return cmp.Or(f.title, "cloudshark") }

// Store implements Destination.
func (f *fakeShark) Store(ctx context.Context, r File) (Place, error) {
	content, err := io.ReadAll(r.Content())
	if err != nil {
		return Place{}, err
	}
	f.mu.Lock()
	if f.tries == nil {
		f.tries = map[string]int{}
	}
	f.tries[r.Name]++
	try := f.tries[r.Name]
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	if err == nil && f.answer != nil {
		err = f.answer(r, try)
	}
	if err != nil {
		return Place{}, err
	}
	f.got = append(f.got, taken{r.Name, strings.Join(r.Tags, ","), r.Comments, content, time.Now()})
	return Place{URL: "http://" + f.title + r.Name}, nil
}

// names returns what was taken, in order.
func (f *fakeShark) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, upload := range f.got {
		names = append(names, upload.name)
	}
	return names
}

// A settlement is what became of a recording in the end.
type settlement struct {
	note  string
	place Place
	err   string
}

// A testSpool is a spool and what it told.
type testSpool struct {
	*spool
	shark *fakeShark
	seen  *countingObserver
	mu    sync.Mutex
	ends  []settlement
}

// newTestSpool returns a spool in a directory, which fakeSharks take from.
func newTestSpool(dir string, sharks ...*fakeShark) *testSpool {
	s := &testSpool{seen: &countingObserver{}}
	var remotes []Remote
	for _, shark := range sharks {
		s.shark = cmp.Or(s.shark, shark)
		remotes = append(remotes, Remote{Once: shark, Destination: shark})
	}
	s.spool = newSpool(spoolDirectory{dir, &disk{}}, remotes)
	s.observer, s.settled = s.seen, s.over
	return s
}

// over notes what became of a recording.
func (s *testSpool) over(note []byte, place Place, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := settlement{note: string(note), place: place}
	if err != nil {
		end.err = err.Error()
	}
	s.ends = append(s.ends, end)
}

// work runs the spool for a while, stops it and waits for its end.
func (s *testSpool) work(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx, stop) })
	time.Sleep(d)
	close(stop)
	cancel()
	running.Wait()
}

// waiting is the fate of a capture file of which CloudShark is to get all.
var waiting = fate{Pending: []string{"cloudshark"}}

// insert puts a capture file into the spool, where it is due soon.
func (s *testSpool) insert(r File, so fate) error {
	p, err := s.keep(r, so)
	if err != nil {
		return err
	}
	for name := range p.retries {
		s.release(p, name, nil)
	}
	return nil
}

// fill keeps recordings of these names, a second apart, and returns their contents.
func (s *testSpool) fill(t *testing.T, names ...string) [][]byte {
	t.Helper()
	var contents [][]byte
	for i, name := range names {
		r, content := newRecording(1000 + i)
		r.Name, r.Note = name, []byte("note of "+name)
		if err := s.insert(r, waiting); err != nil {
			t.Fatal(err)
		}
		contents = append(contents, content)
		time.Sleep(time.Second)
	}
	return contents
}

// TestSpoolNight: CloudShark is away for the night, the daemon is started anew
// in it, and in the morning every capture is there, whole and once.
func TestSpoolNight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, morning := t.TempDir(), time.Now().Add(8*time.Hour)
		shark := &fakeShark{takes: time.Second, answer: func(File, int) error {
			if time.Now().Before(morning) {
				return errors.New("connection refused")
			}
			return nil
		}}
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprintf("web1-eth0-%02d.pcap", i))
		}
		evening := newTestSpool(dir, shark)
		contents := evening.fill(t, names[:10]...)
		evening.work(t, 3*time.Hour)
		night := newTestSpool(dir, shark)
		night.fill(t, "web1-eth0-00.pcap") // as another capture of one name would be
		contents = append(contents, night.fill(t, names[10:]...)...)
		night.work(t, time.Until(morning)+6*time.Minute)

		if got := shark.names(); len(got) != 21 || len(night.ends) != 21 || len(evening.ends) != 0 {
			t.Fatalf("want 21 uploads that are told, got %v and %v", got, night.ends)
		}
		for i, name := range names {
			if !slices.ContainsFunc(shark.got, func(u taken) bool {
				return u.name == name && u.comments == "filter: none" && bytes.Equal(contents[i], u.content)
			}) {
				t.Errorf("%s: not as it was kept", name)
			}
		}
		for _, end := range night.ends {
			want := Place{URL: "http://" + strings.TrimPrefix(end.note, "note of ")}
			checkEqual(t, "end", settlement{end.note, want, ""}, end)
		}
		checkEqual(t, "what is left", []string{}, files(t, dir))
		captures, size, oldest := night.stats()
		checkEqual(t, "statistics", "0 0 true", fmt.Sprint(captures, size, oldest.IsZero()))
		// Told that often: each five minutes at most, by two processes.
		if n := len(evening.seen.retries) + len(night.seen.retries); n > 100 || n < 90 {
			t.Errorf("want failures told every five minutes, got %d in 8 hours", n)
		}
	})
}

// TestSpoolOrder: after a start, the oldest come first and at once, two at a time.
func TestSpoolOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		shark := &fakeShark{takes: 10 * time.Second}
		names := []string{"d.pcap", "b.pcap", "c.pcapng", "a.pcap"}
		newTestSpool(dir, shark).fill(t, names...)
		s := newTestSpool(dir, shark)
		began := time.Now()
		captures, _, _ := s.stats()
		checkEqual(t, "captures before run", 0, captures)
		s.work(t, 20*time.Second+time.Millisecond)
		got := shark.names()
		slices.Sort(got[:2]) // they end at one time
		slices.Sort(got[2:])
		checkEqual(t, "order", []string{"b.pcap", "d.pcap", "a.pcap", "c.pcapng"}, got)
		checkEqual(t, "at one time", 2, shark.most)
		checkEqual(t, "first ended after", 10*time.Second, shark.got[0].at.Sub(began))
	})
}

// TestSpoolWaits: each capture has waits of its own, of five minutes at most,
// whatever CloudShark asks for; none stops another one.
func TestSpoolWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries, asked []time.Time
		shark := &fakeShark{answer: func(r File, try int) error {
			switch r.Name {
			case "never.pcap":
				tries = append(tries, time.Now())
				return errors.New("500")
			case "later.pcap":
				if asked = append(asked, time.Now()); try == 1 {
					return &backoff.RetryAfterError{Duration: 365 * 24 * time.Hour}
				}
			}
			return nil
		}}
		s := newTestSpool(t.TempDir(), shark)
		s.fill(t, "never.pcap", "later.pcap")
		began := time.Now()
		time.AfterFunc(time.Hour, func() { s.fill(t, "good.pcap") })
		s.work(t, 10*time.Hour)
		longest := time.Duration(0)
		for i := range tries[1:] {
			longest = max(longest, tries[i+1].Sub(tries[i]))
		}
		first := max(tries[0].Sub(began), tries[1].Sub(tries[0]))
		if first > 16*time.Second || longest < 4*time.Minute || longest > 5*time.Minute+time.Second {
			t.Errorf("want waits from some seconds to five minutes, got %v to %v", first, longest)
		}
		if len(asked) != 2 || asked[1].Sub(asked[0]) != longestWait {
			t.Errorf("want no longer a wait than %v, got tries at %v", longestWait, asked)
		}
		checkEqual(t, "files left open", []string(nil), openFiles(t, s.path))
		if last := shark.got[len(shark.got)-1]; last.name != "good.pcap" || last.at.Sub(began) > time.Hour+10*time.Second {
			t.Errorf("want the good one at once, got %s after %v", last.name, last.at.Sub(began))
		}
	})
}

// TestSpoolTriesSoonAgain: what was being tried when it was looked for what is due next does not wait longer.
func TestSpoolTriesSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		s := newTestSpool(t.TempDir(), &fakeShark{takes: time.Second, answer: func(_ File, try int) error {
			if tries = append(tries, time.Now()); try == 1 {
				return errors.New("500")
			}
			return nil
		}})
		s.fill(t, "x.pcap")
		s.work(t, time.Hour)
		if len(tries) != 2 || tries[1].Sub(tries[0]) > 20*time.Second {
			t.Errorf("want two tries soon after each other, got %v", tries)
		}
	})
}

// TestSpoolRefused: what CloudShark refuses goes to the directory, else stays
// and is not tried again, nor counted.
func TestSpoolRefused(t *testing.T) {
	refuse := func(File, int) error { return fmt.Errorf("upload: %w", Refusal{errors.New("401 no")}) }
	for name, test := range map[string]struct {
		local Archive
		spool []string
		place string // of the file
		err   string
	}{
		"no directory": {nil, []string{"x.pcap", "x.pcap.refused"}, "", "upload: 401 no"},
		"a directory":  {&fakeDestination{title: "local"}, []string{}, "/x.pcap", "upload: 401 no"},
		"a broken directory": {&fakeDestination{title: "local", err: errors.New("broken")},
			[]string{"x.pcap", "x.pcap.refused"}, "", "upload: 401 no\nbroken"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				shark := &fakeShark{answer: refuse}
				s := newTestSpool(dir, shark)
				s.local = test.local
				s.fill(t, "x.pcap")
				s.work(t, time.Hour)
				checkEqual(t, "ends", []settlement{{"note of x.pcap", Place{File: test.place}, test.err}}, s.ends)
				checkEqual(t, "spool", test.spool, files(t, dir))
				again := newTestSpool(dir, shark)
				again.work(t, time.Hour)
				captures, size, _ := again.stats()
				checkEqual(t, "statistics", "0 0", fmt.Sprint(captures, size))
				checkEqual(t, "tries", 1, shark.tries["x.pcap"])
				checkEqual(t, "spool later", test.spool, files(t, dir))
				again.fill(t, "x.pcap")
				checkEqual(t, "another of that name", len(test.spool)+2, len(files(t, dir)))
			})
		})
	}
}

// TestSpoolCarries: what was known of the file comes back with the end.
func TestSpoolCarries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{})
		for _, r := range []struct {
			place   Place
			problem error
		}{{Place{File: "/here"}, nil}, {Place{}, errors.New("disk broken")}} {
			recording, _ := newRecording(100)
			so := waiting
			so.takeLocal(r.place, r.problem)
			if err := s.insert(recording, so); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		s.work(t, time.Minute)
		url := "http://web1-eth0.pcap"
		want := []settlement{{"", Place{File: "/here", URL: url}, ""}, {"", Place{URL: url}, "disk broken"}}
		slices.SortFunc(s.ends, func(a, b settlement) int { return strings.Compare(a.err, b.err) })
		checkEqual(t, "ends", want, s.ends)
	})
}

// TestSpoolFull: a spool that is full takes nothing more, and takes again when there is room.
func TestSpoolFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{})
		s.maxSize = 5000
		r, _ := newRecording(2000)
		for n, want := range []bool{true, true, false} {
			if err := s.insert(r, waiting); (err == nil) != want {
				t.Fatalf("%d: want %v, got %v", n, want, err)
			}
		}
		_, size, _ := s.stats()
		var onDisk int64
		for _, name := range files(t, s.path) {
			info, err := os.Stat(filepath.Join(s.path, name))
			if err != nil {
				t.Fatal(err)
			}
			onDisk += info.Size()
		}
		checkEqual(t, "size", onDisk, size)
		s.work(t, time.Minute)
		p, err := s.keep(r, waiting)
		if err != nil {
			t.Fatal(err)
		}
		s.settle(p, r, func(f *fate) { f.Pending = nil })
		s.maxSize = p.bytes // and not one byte more
		s.disk.fault = func(operation, _ string) error {
			if operation == "rename" {
				return unix.ENOSPC
			}
			return nil
		}
		if _, err := s.keep(r, waiting); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("want %v, got %v", unix.ENOSPC, err)
		}
		s.disk.fault = nil
		if _, err := s.keep(r, waiting); err != nil {
			t.Errorf("want what failed to take no room, got %v", err)
		}
	})
}

// TestSpoolClearsLater: what was uploaded and cannot be removed is not uploaded
// again, and is removed when that is possible.
func TestSpoolClearsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{})
		s.fill(t, "x.pcap")
		mended := time.Now().Add(time.Hour)
		s.disk.fault = func(operation, _ string) error {
			if operation == "remove" && time.Now().Before(mended) {
				return unix.EROFS
			}
			return nil
		}
		s.work(t, 2*time.Hour)
		checkEqual(t, "uploads", []string{"x.pcap"}, s.shark.names())
		checkEqual(t, "left", []string{}, files(t, s.path))
		checkEqual(t, "ends", 1, len(s.ends))
		if n := len(s.seen.troubles); n < 1 || n > 13 {
			t.Errorf("want the trouble told now and then, got %d times", n)
		}
		captures, size, _ := s.stats()
		checkEqual(t, "statistics", "0 0", fmt.Sprint(captures, size))
	})
}

// TestSpoolCannotRead: a capture that cannot be read for a while is tried again.
func TestSpoolCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s := newTestSpool(dir, &fakeShark{})
		s.fill(t, "x.pcap")
		move := func(from, to string) {
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
			}
		}
		away := dir + " away"
		move(dir, away)
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // then everything in it is ENOTDIR
			t.Fatal(err)
		}
		time.AfterFunc(time.Hour, func() {
			_ = os.Remove(dir)
			move(away, dir)
		})
		s.work(t, 2*time.Hour)
		checkEqual(t, "uploads", []string{"x.pcap"}, s.shark.names())
		checkEqual(t, "files left open", []string(nil), openFiles(t, dir))
	})
}

// TestSpoolLosesACapture: one that somebody has removed is said once, and is not waited for.
func TestSpoolLosesACapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{})
		s.fill(t, "x.pcap")
		if err := os.Remove(filepath.Join(s.path, "x.pcap")); err != nil {
			t.Fatal(err)
		}
		s.work(t, time.Hour)
		if said := fmt.Sprint(s.seen.troubles); len(s.seen.troubles) != 1 || !strings.Contains(said, "no such file") {
			t.Errorf("want it said once, got %s", said)
		}
		captures, size, _ := s.stats()
		checkEqual(t, "statistics", "0 0", fmt.Sprint(captures, size))
		checkEqual(t, "ends", 1, len(s.ends))
		checkEqual(t, "left", []string{}, files(t, s.path))
	})
}

// TestSpoolGoes: a directory that vanishes is said, and taken up again.
func TestSpoolGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		s := newTestSpool(dir, &fakeShark{})
		r, _ := newRecording(100)
		_, err := s.keep(r, waiting)
		if want := "keep web1-eth0.pcap in " + dir + ": no such file or directory"; err == nil || err.Error() != want {
			t.Errorf("want %s, got %v", want, err)
		}
		time.AfterFunc(time.Hour, func() {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
			newTestSpool(dir, nil).fill(t, "x.pcap") // as another process might
		})
		s.work(t, 2*time.Hour)
		checkEqual(t, "uploads", []string{"x.pcap"}, s.shark.names())
		if n := len(s.seen.troubles); n < 1 || n > 13 {
			t.Errorf("want the trouble told now and then, got %v", s.seen.troubles)
		}
	})
}

// TestSpoolLock: one process works a spool off, another one may put into it.
func TestSpoolLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, shark := t.TempDir(), &fakeShark{takes: time.Minute}
		one, two := newTestSpool(dir, shark), newTestSpool(dir, shark)
		var working sync.WaitGroup
		working.Go(func() { one.work(t, time.Hour) })
		time.Sleep(time.Second)
		two.fill(t, "a.pcap")
		working.Go(func() { two.work(t, 2*time.Hour) })
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		checkEqual(t, "uploads of the first", []string{"a.pcap"}, shark.names())
		checkEqual(t, "told by the first", 1, len(one.ends))
		two.fill(t, "b.pcap")
		working.Wait()
		if got := fmt.Sprint(shark.names()); got != "[a.pcap b.pcap]" {
			t.Errorf("want each uploaded once, got %v", got)
		}
		if said := fmt.Sprint(two.seen.troubles); !strings.Contains(said, "another process does") {
			t.Errorf("want the other process named, got %s", said)
		}
		checkEqual(t, "files left open", []string(nil), openFiles(t, dir))
	})
}

// TestSpoolStops: what is being uploaded at a stop has the time until the
// context ends, and nothing else is begun.
func TestSpoolStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, shark := t.TempDir(), &fakeShark{takes: 20 * time.Second}
		newTestSpool(dir, shark).fill(t, "a.pcap", "b.pcap", "c.pcap")
		s := newTestSpool(dir, shark)
		stop := make(chan struct{})
		time.AfterFunc(10*time.Second, func() { close(stop) })
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		s.run(ctx, stop)
		checkEqual(t, "took", 20*time.Second, time.Since(began))
		checkEqual(t, "ends", 2, len(s.ends))
		checkEqual(t, "left", []string{"c.pcap", "c.pcap.waybill"}, files(t, dir))
	})
}

// TestSpoolIsLookedThroughSeldom: not for each upload, of which there may be many.
func TestSpoolIsLookedThroughSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newTestSpool(dir, &fakeShark{answer: func(File, int) error { return errors.New("500") }})
		s.fill(t, "a.pcap", "b.pcap", "c.pcap", "d.pcap")
		if err := os.WriteFile(filepath.Join(dir, draftPrefix+"1"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		looks := 0
		s.disk.fault = func(operation, path string) error {
			if strings.HasPrefix(filepath.Base(path), draftPrefix) {
				looks++ // to remove what a killed daemon has left
			}
			return errors.New("cannot " + operation)
		}
		s.work(t, time.Hour)
		if looks < 11 || looks > 13 {
			t.Errorf("want a look every five minutes, got %d in an hour", looks)
		}
	})
}

// TestSpoolDropsBeforeItTells: a daemon that is killed after it has told of
// an upload must not make it again.
func TestSpoolDropsBeforeItTells(t *testing.T) {
	refuse := func(File, int) error { return Refusal{errors.New("401")} }
	for name, test := range map[string]struct {
		answer func(File, int) error
		left   []string
	}{
		"uploaded": {nil, []string{}},
		"refused":  {refuse, []string{"x.pcap", "x.pcap.refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestSpool(t.TempDir(), &fakeShark{answer: test.answer})
				s.fill(t, "x.pcap")
				told := 0
				s.settled = func([]byte, Place, error) {
					told++
					checkEqual(t, "spool when it is told", test.left, files(t, s.path))
				}
				s.work(t, time.Minute)
				checkEqual(t, "told", 1, told)
			})
		})
	}
}

// openFiles returns the files in a directory that are open, and the directory if it is.
func openFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descriptors {
		if name, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && strings.HasPrefix(name, dir) {
			names = append(names, name)
		}
	}
	return names
}
