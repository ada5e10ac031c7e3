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
	lost bool      // its answer may not have come to the daemon
}

// A mood is how CloudShark treats an upload.
type mood int

const (
	takes mood = iota
	isUnavailable
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
		b.take(taken{u, life, came, mood == losesAnswer || r.Context().Err() != nil || time.Since(came) > cloudSharkTime/3})
		if mood == losesAnswer {
			panic(http.ErrAbortHandler)
		}
	}}
	h.ServeHTTP(w, r)
}

// cloudSharkTime is the daemons' -cstimeout.
const cloudSharkTime = 300 * time.Millisecond

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

// change changes CloudShark's mood for a round, and returns what it is.
func (b *battlefield) change() string {
	weathers := []struct {
		name  string
		moods []mood
	}{
		{"takes all", []mood{takes}},
		{"is unavailable", []mood{isUnavailable}},
		{"hangs", []mood{hangs}},
		{"is unreliable", []mood{takes, takes, takes, takes, isUnavailable, isUnavailable,
			hangsUp, losesAnswer, refuses, hangs}},
	}
	weather := weathers[rand.IntN(len(weathers))]
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mood = func() mood { return weather.moods[rand.IntN(len(weather.moods))] }
	return weather.name
}

// start starts the next daemon.
func (b *battlefield) start(t *testing.T, args ...string) *testbed.Process {
	t.Helper()
	b.lives++
	address := b.shark.Listener.Addr().String()
	args = append([]string{"-upload", "-csscheme", "http", "-cshost", address, "-cstoken", fmt.Sprintf("%032d", b.lives),
		"-cstimeout", cloudSharkTime.String(), "-spooldir", b.spool, "-share", "0"}, args...)
	return testbed.Start(t, testbed.OneCore(t, daemonCommand(b.redis, args...)))
}

// ask asks for a few captures of all sizes.
func (b *battlefield) ask(t *testing.T) {
	t.Helper()
	for range 1 + rand.IntN(3) {
		b.requests++
		stream := b.small
		if rand.IntN(2) == 0 {
			stream = b.large
		}
		b.redis.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"id":"r%d","bpf":%q}`,
			1+rand.IntN(60), b.requests, stream.Filter()))
	}
}

// round lets one daemon live for a while.
func (b *battlefield) round(t *testing.T) {
	setups := [][]string{nil, {"-destdir", b.dir}, {"-destdir", b.dir, "-writelocal"}}
	setup := setups[rand.IntN(len(setups))]
	weather := b.change()
	b.watch.Forget()
	d := b.start(t, setup...)
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
	d.Wait(t, 10*time.Second)
	b.redis.AwaitSubscribers(t, 5*time.Second, 0)
	if b.check(t); t.Failed() {
		t.Logf("CloudShark %s, flags %q, killed %s", weather, setup, how)
	}
}

// strike kills a daemon at some moment, and returns which.
func (b *battlefield) strike(t *testing.T, d *testbed.Process) string {
	t.Helper()
	defer func() { _ = d.Process.Kill() }() // it may have ended
	latest := time.Now().Add(1500 * time.Millisecond)
	switch rand.IntN(5) {
	case 0:
		after := time.Duration(rand.IntN(1000)) * time.Millisecond
		time.Sleep(after)
		return fmt.Sprintf("after %v", after)
	case 1:
		time.Sleep(time.Duration(200+rand.IntN(600)) * time.Millisecond)
		d.Signal(t, syscall.SIGTERM)
		b.watch.Forget()
		n := 1 + rand.IntN(20)
		b.watch.KillAt(t, d, testbed.Changes, n, latest)
		return fmt.Sprintf("at change %d after SIGTERM", n)
	case 2:
		state := []string{"kept", "done"}[rand.IntN(2)]
		n := 1 + rand.IntN(10)
		for left, late := n, time.After(time.Until(latest)); left > 0; {
			select {
			case news := <-b.news:
				if news == state {
					left--
				}
			case <-late:
				left = 0
			}
		}
		return fmt.Sprintf("when %d were said to be %s", n, state)
	}
	kinds := []uint32{unix.IN_CREATE, unix.IN_MODIFY, unix.IN_MOVED_TO, unix.IN_MOVED_TO, unix.IN_DELETE, unix.IN_DELETE}
	kind, n := kinds[rand.IntN(len(kinds))], 1+rand.IntN(20)
	b.watch.KillAt(t, d, kind, n, latest)
	return fmt.Sprintf("at change %d of kind %#x", n, kind)
}

// last lets a daemon work off all that is left, and judges everything.
func (b *battlefield) last(t *testing.T) {
	b.mu.Lock()
	b.mood = func() mood { return takes }
	b.mu.Unlock()
	d := b.start(t)
	b.redis.AwaitSubscribers(t, 10*time.Second, 1)
	testbed.Eventually(t, time.Minute, "nothing waits", func() bool { return len(b.glob(t, b.spool, "*.waybill")) == 0 })
	time.Sleep(100 * time.Millisecond)
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
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
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, f := range b.fates {
		for _, u := range f.uploads {
			if _, told := f.said["done"]; u.life == b.lives && !told {
				t.Errorf("%s: uploaded, and nobody was told", id)
			}
		}
	}
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
