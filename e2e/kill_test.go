package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestKill: whenever the daemon is killed, no capture is lost whose result
// says that it is safe.
func TestKill(t *testing.T) {
	t.Parallel()
	kill(t, 15)
}

// kill kills a daemon that many times, then lets one work off what is left.
func kill(t *testing.T, rounds int) {
	b := newBattlefield(t)
	for range rounds {
		if !t.Run("", b.round) {
			return
		}
	}
	t.Run("the last one lives", b.last)
	b.mu.Lock()
	defer b.mu.Unlock()
	kept, done, uploads, again := 0, 0, 0, 0
	for _, f := range b.fates {
		uploads += len(f.uploads)
		again += max(0, len(f.uploads)-1)
		if _, said := f.said["kept"]; said {
			kept++
		}
		if _, said := f.said["done"]; said {
			done++
		}
	}
	t.Logf("%d captures, %d said to be kept, %d to be done, %d uploads, %d of them again",
		len(b.fates), kept, done, uploads, again)
	if kept < rounds || done < rounds {
		t.Errorf("want at least %d captures kept and done, got %d and %d: nothing has been tested", rounds, kept, done)
	}
}

// A battlefield is where daemons are killed, and what is known of their captures.
type battlefield struct {
	redis        *testbed.Redis
	small, large *testbed.Stream
	spool, dir   string
	shark        *httptest.Server
	watch        testbed.Watch
	lives        int         // daemons until now
	requests     int         // until now
	news         chan string // the states of results, if somebody waits for them

	mu    sync.Mutex
	fates map[string]*fate // of captures, by the ids of their requests
	mood  func() mood      // of CloudShark
	ends  int              // captures that were said to be kept, done or failed
	open  int              // requests that the daemon of today has got and not answered
}

// A fate is what is known of a capture.
type fate struct {
	said    map[string]result    // by state
	heard   map[string]time.Time // when that was
	uploads []taken
}

// taken is an upload that CloudShark has got.
type taken struct {
	sharktest.Upload
	life int       // of the daemon that made it
	came time.Time // when it began
	lost bool      // its answer has not come to the daemon
}

// A mood is how CloudShark treats an upload.
type mood int

const (
	takes mood = iota
	isUnavailable
	isAwayLong // and says so: what it is asked to take is kept at once
	hangs
	hangsUp     // in the middle
	losesAnswer // takes it, and says nothing
	refuses     // for good
)

// newBattlefield sets up what daemons need.
func newBattlefield(t *testing.T) *battlefield {
	t.Helper()
	testbed.NeedRoot(t)
	b := &battlefield{redis: testbed.StartRedis(t), small: testbed.StartStream(t, time.Millisecond),
		large: testbed.StartStreamOf(t, 8000, time.Millisecond), spool: t.TempDir(), dir: t.TempDir(),
		news: make(chan string), fates: map[string]*fate{}, mood: func() mood { return takes }}
	b.watch = testbed.NewWatch(t, b.spool)
	b.shark = httptest.NewServer(b)
	l := listen(t, b.redis)
	done := make(chan struct{})
	var hearing sync.WaitGroup
	hearing.Go(func() {
		for {
			select {
			case message := <-l.messages:
				b.hear(parseResult(message))
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		hearing.Wait()
		b.shark.CloseClientConnections()
		b.shark.Close()
	})
	return b
}

// fate returns the fate of a capture; mu is held.
func (b *battlefield) fate(id string) *fate {
	if b.fates[id] == nil {
		b.fates[id] = &fate{said: map[string]result{}, heard: map[string]time.Time{}}
	}
	return b.fates[id]
}

// hear takes note of a result.
func (b *battlefield) hear(r result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fate(r.ID)
	f.said[r.State], f.heard[r.State] = r, time.Now()
	switch r.State {
	case "kept", "done", "failed":
		b.ends++
		b.open--
	case "refused":
		b.open--
	}
	select {
	case b.news <- r.State:
	default: // nobody waits for it
	}
}

// inComment finds in the comment of an upload what is checked against its content.
var inComment = regexp.MustCompile(`packets: (\d+); dropped: (\d+); request: (\S+)$`)

// ServeHTTP implements http.Handler: it is CloudShark. Each daemon has a token
// of its own, which tells from which one an upload is.
func (b *battlefield) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	came := time.Now()
	b.mu.Lock()
	mood := b.mood()
	b.mu.Unlock()
	switch mood {
	case isAwayLong:
		w.Header().Set("Retry-After", "86400")
		fallthrough
	case isUnavailable:
		sharktest.Unavailable(w, r, 0)
		return
	case hangs:
		sharktest.Hang(w, r, 0)
		return
	case hangsUp:
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		panic(http.ErrAbortHandler)
	case refuses:
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := strings.Split(r.URL.Path, "/")[3]
	life, _ := strconv.Atoi(token)
	h := sharktest.Handler{Token: token, Taken: func(u sharktest.Upload) {
		b.take(taken{u, life, came, mood == losesAnswer})
		if mood == losesAnswer {
			panic(http.ErrAbortHandler)
		}
	}}
	h.ServeHTTP(w, r)
}

// take takes note of an upload.
func (b *battlefield) take(u taken) {
	id := "no comment: " + u.Comments
	if found := inComment.FindStringSubmatch(u.Comments); found != nil {
		id = found[3]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fate(id)
	f.uploads = append(f.uploads, u)
}

// A weather is how CloudShark is while a daemon lives.
type weather struct {
	name    string
	moods   []mood
	timeout string // -cstimeout: as good as none where an upload is taken, since it may be taken slowly
}

// change changes the weather, and returns what it is.
func (b *battlefield) change() weather {
	weathers := []weather{
		{"takes all", []mood{takes}, "1h"},
		{"is unavailable", []mood{isUnavailable}, "300ms"},
		{"hangs", []mood{hangs}, "300ms"},
		{"is unreliable", []mood{takes, takes, takes, takes, isUnavailable, isAwayLong, hangsUp, losesAnswer, refuses, hangs},
			"1h"},
	}
	now := weathers[b.lives%len(weathers)]
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mood = func() mood { return now.moods[rand.IntN(len(now.moods))] }
	return now
}

// start starts the next daemon.
func (b *battlefield) start(t *testing.T, args ...string) *testbed.Process {
	t.Helper()
	b.lives++
	b.mu.Lock()
	b.open = 0
	b.mu.Unlock()
	address := b.shark.Listener.Addr().String()
	args = append([]string{"-upload", "-csscheme", "http", "-cshost", address, "-cstoken", fmt.Sprintf("%032d", b.lives),
		"-draintimeout", "300ms", "-spooldir", b.spool, "-share", "0"}, args...)
	return testbed.Start(t, testbed.OneCore(t, daemonCommand(b.redis, args...)))
}

// ask asks for a few captures of all sizes, unless the daemon is busy.
func (b *battlefield) ask(t *testing.T) {
	t.Helper()
	const most = 20
	for n := 1 + rand.IntN(3); n > 0 && b.count(&b.open) < most; n-- {
		b.requests++
		stream := b.small
		if rand.IntN(2) == 0 {
			stream = b.large
		}
		request := fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"id":"r%d","bpf":%q}`,
			1+rand.IntN(60), b.requests, stream.Filter())
		heard, _ := b.redis.Do(t, "PUBLISH", "capture", request).(int64)
		b.mu.Lock()
		b.open += int(heard)
		b.mu.Unlock()
	}
}

// count returns what one of the counters is now.
func (b *battlefield) count(counter *int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *counter
}

// round lets one daemon live for a while.
func (b *battlefield) round(t *testing.T) {
	setups := [][]string{nil, {"-destdir", b.dir}, {"-destdir", b.dir, "-writelocal"}}
	setup := setups[rand.IntN(len(setups))]
	weather := b.change()
	b.watch.Forget()
	d := b.start(t, append(setup, "-cstimeout", weather.timeout)...)
	asking, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-asking:
				return
			case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond):
				b.ask(t)
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		close(asking)
		<-done
	})
	defer stop() // also if a strike fails
	how := b.strike(t, d)
	stop()
	d.Wait(t, time.Minute)
	b.redis.AwaitSubscribers(t, time.Minute, 0)
	if b.check(t); t.Failed() {
		t.Logf("CloudShark %s, flags %q, killed %s", weather.name, setup, how)
	}
}

// until returns what reports whether so many more captures have ended. Who waits for something
// that does not come anyway waits no longer, and half a minute at most.
func (b *battlefield) until(more int) func() bool {
	end, late := b.count(&b.ends)+more, time.Now().Add(30*time.Second)
	return func() bool { return b.count(&b.ends) >= end || time.Now().After(late) }
}

// strike kills a daemon at some moment, and returns which.
func (b *battlefield) strike(t *testing.T, d *testbed.Process) string {
	t.Helper()
	defer func() { _ = d.Process.Kill() }() // it may have ended
	const most = 30                         // captures of a life
	enough := b.until(most)
	switch rand.IntN(5) {
	case 0:
		b.redis.AwaitSubscribers(t, time.Minute, 1)
		after := time.Duration(rand.IntN(1000)) * time.Millisecond
		time.Sleep(after)
		return fmt.Sprintf("after %v", after)
	case 1:
		for enough := b.until(1 + rand.IntN(10)); !enough(); {
			time.Sleep(time.Millisecond)
		}
		d.Signal(t, syscall.SIGTERM)
		b.watch.Forget()
		n := 1 + rand.IntN(20)
		b.watch.KillAt(t, d, testbed.Changes, n, b.until(most))
		return fmt.Sprintf("at change %d after SIGTERM", n)
	case 2:
		state := []string{"kept", "done"}[rand.IntN(2)]
		n := 1 + rand.IntN(10)
		for left := n; left > 0 && !enough(); {
			select {
			case news := <-b.news:
				if news == state {
					left--
				}
			case <-time.After(10 * time.Millisecond):
			}
		}
		return fmt.Sprintf("when %d were said to be %s", n, state)
	}
	kinds := []uint32{unix.IN_CREATE, unix.IN_MODIFY, unix.IN_MOVED_TO, unix.IN_MOVED_TO, unix.IN_DELETE, unix.IN_DELETE}
	kind, n := kinds[rand.IntN(len(kinds))], 1+rand.IntN(20)
	b.watch.KillAt(t, d, kind, n, enough)
	return fmt.Sprintf("at change %d of kind %#x", n, kind)
}

// last lets a daemon work off all that is left, and judges everything.
func (b *battlefield) last(t *testing.T) {
	b.mu.Lock()
	b.mood = func() mood { return takes }
	b.mu.Unlock()
	d := b.start(t, "-cstimeout", "1h", "-draintimeout", "1m")
	b.redis.AwaitSubscribers(t, time.Minute, 1)
	testbed.Eventually(t, 2*time.Minute, "nothing waits", func() bool { return len(b.glob(t, b.spool, "*.waybill")) == 0 })
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	testbed.Eventually(t, time.Minute, "what was uploaded is said to be done", b.lastIsTold)
	b.check(t)
	if left := b.glob(t, b.spool, ".pcapdaemon-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, path := range append(b.glob(t, b.spool, "*.pcap"), b.glob(t, b.dir, "*.pcap")...) {
		content, err := os.ReadFile(path)
		if err == nil {
			_, err = sharktest.Upload{Content: content}.Packets()
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// lastIsTold reports whether all that the latest daemon has uploaded was said to be done.
func (b *battlefield) lastIsTold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.fates {
		_, told := f.said["done"]
		if !told && slices.ContainsFunc(f.uploads, func(u taken) bool { return u.life == b.lives }) {
			return false
		}
	}
	return true
}

// glob returns the names of files in a directory.
func (b *battlefield) glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// check fails for every capture that is not where its results say, or not whole.
func (b *battlefield) check(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, f := range b.fates {
		b.checkUploads(t, id, f)
		for _, state := range []string{"kept", "done"} {
			if r, said := f.said[state]; said && r.Packets > 0 && len(f.uploads) == 0 {
				b.checkKept(t, r)
			}
		}
		for _, r := range f.said {
			if info, err := os.Stat(r.File); r.File != "" && (err != nil || info.Size() != r.Bytes) {
				t.Errorf("the file is not there, or not whole: %s", r.text)
			}
		}
		if r, said := f.said["failed"]; said && !strings.Contains(r.Error, "401") {
			t.Errorf("failed: %s", r.text)
		}
	}
	for _, path := range b.glob(t, b.spool, "*.pcap") {
		if !exists(path+".waybill") && !exists(path+".refused") {
			t.Errorf("no metadata: %s", path)
		}
	}
	if damaged := b.glob(t, b.spool, "*.damaged"); len(damaged) > 0 {
		t.Errorf("damaged: %v", damaged)
	}
}

// checkUploads fails if an upload is less than it says, or was made without need.
func (b *battlefield) checkUploads(t *testing.T, id string, f *fate) {
	t.Helper()
	for i, u := range f.uploads {
		found := inComment.FindStringSubmatch(u.Comments)
		n, err := u.Packets()
		if found == nil || err != nil || found[1] != strconv.Itoa(n) {
			t.Errorf("%s: an upload with %d packets says %q (%v)", id, n, u.Comments, err)
		} else if found[2] == "0" {
			checkGapless(t, u.Content, u.File)
		}
		for _, r := range f.said {
			if r.said["bytes"] != nil && r.Bytes != int64(len(u.Content)) {
				t.Errorf("%s: an upload of %d bytes for %s", id, len(u.Content), r.text)
			}
		}
		if i == 0 {
			continue
		}
		before := f.uploads[i-1]
		if !bytes.Equal(before.Content, u.Content) || before.Tags != u.Tags || before.File != u.File {
			t.Errorf("%s: two uploads that differ", id)
		}
		if before.life == u.life && !before.lost {
			t.Errorf("%s: uploaded twice by one daemon", id)
		}
		if at, told := f.heard["done"]; told && at.Before(u.came) {
			t.Errorf("%s: uploaded again %v after it was done", id, u.came.Sub(at))
		}
	}
}

// checkKept fails unless a capture that is not uploaded is in the spool, whole.
func (b *battlefield) checkKept(t *testing.T, r result) {
	t.Helper()
	path := filepath.Join(b.spool, uploadName(r))
	waits := exists(path) && exists(path+".waybill")
	left := exists(path) && exists(path+".refused") || slices.ContainsFunc(
		b.glob(t, b.dir, strings.TrimSuffix(filepath.Base(path), ".pcap")+"*.pcap"), exists)
	switch {
	case r.State == "kept" && waits:
	case r.State == "kept" && left: // CloudShark has refused it
		if !exists(path) {
			return
		}
	default:
		t.Errorf("lost: %s", r.text)
		return
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, content, r)
}

// exists reports whether there is a file of that name.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
