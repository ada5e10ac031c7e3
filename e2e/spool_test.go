package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// An absence is a daemon with a spool, whose CloudShark is away at times.
type absence struct {
	redis  *testbed.Redis
	heard  *listener
	stream *testbed.Stream
	shark  *sharktest.Server // nil: nothing listens at its address
	answer atomic.Pointer[sharktest.Answer]
	spool  string // directory
	args   []string
}

// newAbsence sets up what the daemon needs; CloudShark is away in that way, or
// not there at all if that is nil.
func newAbsence(t testing.TB, away sharktest.Answer, args ...string) *absence {
	t.Helper()
	a := &absence{redis: testbed.StartRedis(t), stream: testbed.StartStream(t, time.Millisecond), spool: t.TempDir()}
	a.heard = listen(t, a.redis)
	address := "127.0.0.1:" + strconv.Itoa(testbed.FreePort(t))
	if away != nil {
		a.shark = sharktest.StartAt(t, address, a.serve)
		a.leave(away)
	}
	flags := []string{"-spooldir", a.spool, "-cstimeout", "5s"}
	a.args = slices.Concat(uploadingTo(t, address), flags, args)
	return a
}

// serve is the double's answer.
func (a *absence) serve(w http.ResponseWriter, r *http.Request, try int) bool {
	answer := a.answer.Load()
	return answer != nil && (*answer)(w, r, try)
}

// leave lets CloudShark be away in a way.
func (a *absence) leave(away sharktest.Answer) { a.answer.Store(&away) }

// back lets CloudShark be there.
func (a *absence) back(t testing.TB) {
	t.Helper()
	a.answer.Store(nil)
	if a.shark == nil {
		address := a.args[slices.Index(a.args, "-cshost")+1]
		a.shark = sharktest.StartAt(t, address, a.serve)
	}
}

// start starts the daemon, which is patient with a CloudShark that is there:
// a busy machine may take its time.
func (a *absence) start(t testing.TB, args ...string) *testbed.Process {
	t.Helper()
	var patience []string
	if a.shark != nil && a.answer.Load() == nil {
		patience = []string{"-cstimeout", "10s"}
	}
	return startDaemon(t, a.redis, slices.Concat(a.args, patience, args)...)
}

// stop ends the daemon in the usual way, which has to be a success.
func (a *absence) stop(t testing.TB, d *testbed.Process) {
	t.Helper()
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	a.redis.AwaitSubscribers(t, time.Minute, 0)
}

// request returns a request for so many packets.
func (a *absence) request(id string, packets int) string {
	return fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"id":%q,"tags":"dns,slow","customer":"ACME",`+
		`"alertid":4711,"bpf":%q}`, packets, id, a.stream.Filter())
}

// capture makes a capture and returns its result: that it is kept, if CloudShark is away.
func (a *absence) capture(t testing.TB, id string) result {
	t.Helper()
	a.redis.Publish(t, a.request(id, 20))
	return a.heard.final(t, time.Minute)
}

// kept makes a capture that has to wait, and returns its content.
func (a *absence) kept(t testing.TB, id string) []byte {
	t.Helper()
	r := a.capture(t, id)
	r.check(t, says{"id": id, "state": "kept", "packets": 20, "url": nil})
	content, err := os.ReadFile(filepath.Join(a.spool, uploadName(r)))
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, content, r)
	return content
}

// upload returns what CloudShark got under the name of a result.
func (a *absence) upload(t testing.TB, r result) sharktest.Upload {
	t.Helper()
	for _, u := range a.shark.Received() {
		if u.File == uploadName(r) {
			return u
		}
	}
	t.Fatal("not uploaded: ", r.text)
	panic("unreachable")
}

// isAway is an Answer of one who is away for longer than -cstimeout, and says so: a
// capture is kept at once, however slow the machine is.
func isAway(w http.ResponseWriter, r *http.Request, try int) bool {
	w.Header().Set("Retry-After", "6") // seconds
	return sharktest.Unavailable(w, r, try)
}

// takingTime is an Answer that leaves it to CloudShark, after a while.
func takingTime(d time.Duration) sharktest.Answer {
	return func(http.ResponseWriter, *http.Request, int) bool {
		time.Sleep(d)
		return false
	}
}

// uploadName returns the name under which the capture of a result is uploaded.
func uploadName(r result) string {
	return r.Node + "-" + r.Interface + "-" + r.Started.Format("20060102T150405.000000000Z") + ".pcap"
}

// checkContent fails unless a capture is what its result says, without a gap.
func checkContent(t testing.TB, content []byte, r result) {
	t.Helper()
	packets, err := sharktest.Upload{Content: content}.Packets()
	if want, got := []int64{r.Packets, r.Bytes}, []int64{int64(packets), int64(len(content))}; !slices.Equal(want, got) {
		t.Errorf("want packets and bytes %v, got %v (%v)", want, got, err)
	}
	if fmt.Sprint(r.said["dropped"]) == "0" {
		checkGapless(t, content, uploadName(r))
	}
}

// checkGapless fails for each gap between a stream's packets in a capture.
// Before the start that its name tells, while the interface was being opened,
// some may be missing.
func checkGapless(t testing.TB, content []byte, name string) {
	t.Helper()
	_, stamp, _ := strings.Cut(name, "-lo-")
	start, err := time.Parse("20060102T150405.000000000Z", strings.TrimSuffix(stamp, ".pcap"))
	if err != nil {
		t.Error("no start in the name: ", err)
	}
	packets, _ := testbed.ReadPcap(t, bytes.NewReader(content))
	numbers := testbed.Numbers(t, bytes.NewReader(content))
	if len(numbers) != len(packets) {
		t.Fatalf("%s: want %d packets of the stream, got %d", name, len(packets), len(numbers))
	}
	for i := 1; i < len(numbers); i++ {
		if numbers[i] != numbers[i-1]+1 && !packets[i-1].Timestamp.Before(start) {
			t.Errorf("%s: packet %d comes after %d", name, numbers[i], numbers[i-1])
		}
	}
}

// checkNames fails unless a directory holds these names.
func checkNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(want, got) {
		t.Errorf("want %q in %s, got %q", want, filepath.Base(dir), got)
	}
}

// TestSpool: what CloudShark does not take now waits, and is uploaded at once
// by the next daemon, with all that the capture was asked with.
func TestSpool(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		away    sharktest.Answer
		timeout string // -cstimeout
		why     string // it is kept
	}{
		"answers 503":  {isAway, "5s", "503 Service Unavailable"},
		"is not there": {nil, "2s", "connection refused"},
		"hangs":        {sharktest.Hang, "300ms", "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAbsence(t, test.away, "-cstimeout", test.timeout)
			d := a.start(t)
			kept := a.capture(t, "x")
			kept.check(t, says{"id": "x", "state": "kept", "stop": "packets", "packets": 20, "url": nil, "file": nil,
				"error": about(test.why), "customer": "ACME"})
			name := uploadName(kept)
			checkNames(t, a.spool, name, name+".waybill")
			content, err := os.ReadFile(filepath.Join(a.spool, name))
			if err != nil {
				t.Fatal(err)
			}
			checkContent(t, content, kept)
			a.stop(t, d)

			a.back(t)
			a.start(t)
			done := a.heard.next(t, time.Minute)
			done.check(t, says{"id": "x", "state": "done", "stop": "packets", "packets": 20, "error": nil,
				"url": "http://" + a.shark.Address() + "/captures/cafe1", "started": kept.said["started"],
				"ended": kept.said["ended"], "tags": "dns,slow", "customer": "ACME", "alertid": 4711,
				"bpf": a.stream.Filter(), "received": kept.said["received"], "dropped": kept.said["dropped"]})
			u := a.upload(t, done)
			if !bytes.Equal(content, u.Content) {
				t.Error("the upload is not what was kept")
			}
			if want := "dns,slow,customer:ACME,alertid:4711,node:web1,interface:lo"; want != u.Tags {
				t.Errorf("want tags %s, got %s", want, u.Tags)
			}
			if want := "packets: 20; dropped: 0; request: x"; !strings.HasSuffix(u.Comments, want) {
				t.Errorf("want %q at the end of the comments, got %s", want, u.Comments)
			}
			checkNames(t, a.spool)
			a.heard.quiet(t, 300*time.Millisecond)
		})
	}
}

// TestSpoolWithoutRestart: the daemon itself uploads when CloudShark is back.
func TestSpoolWithoutRestart(t *testing.T) {
	t.Parallel()
	a := newAbsence(t, isAway)
	a.start(t)
	content := a.kept(t, "x")
	a.back(t)
	done := a.heard.next(t, time.Minute) // the first wait is 7.5 s at most
	done.check(t, says{"id": "x", "state": "done", "url": anything{}})
	if !bytes.Equal(content, a.upload(t, done).Content) {
		t.Error("the upload is not what was kept")
	}
	testbed.Eventually(t, time.Minute, "the spool is empty", func() bool {
		entries, err := os.ReadDir(a.spool)
		return err == nil && len(entries) == 0
	})
}

// TestSpoolAndPublish: who asks follows until the capture is kept, which is a success.
func TestSpoolAndPublish(t *testing.T) {
	a := newAbsence(t, isAway)
	a.start(t)
	out, _, code := ask(t, "redis://"+a.redis.Address(), a.request("x", 20), time.Minute)
	if want, got := "started kept", states(parseResults(out)); want != got || code != 0 {
		t.Errorf("want %s and exit code 0, got %s and %d", want, got, code)
	}
}

// TestSpoolRefused: what CloudShark refuses for good goes to -destdir, else
// stays and is not tried again.
func TestSpoolRefused(t *testing.T) {
	t.Parallel()
	refuse := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"status":401,"exceptions":["Invalid API token"]}`)
		return true
	}
	for name, withDirectory := range map[string]bool{"with -destdir": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			var args []string
			dir := t.TempDir()
			if withDirectory {
				args = []string{"-destdir", dir}
			}
			a := newAbsence(t, isAway, args...)
			d := a.start(t)
			content := a.kept(t, "x")
			a.stop(t, d)
			a.leave(refuse)
			d = a.start(t, "-cstimeout", "10s")
			failed := a.heard.next(t, time.Minute)
			failed.check(t, says{"id": "x", "state": "failed", "error": about("401 Unauthorized: Invalid API token"),
				"url": nil, "packets": 20})
			file := uploadName(failed)
			if withDirectory {
				failed.check(t, says{"file": filepath.Join(dir, file)})
				checkNames(t, a.spool)
				checkFile(t, filepath.Join(dir, file), content)
			} else {
				failed.check(t, says{"file": nil})
				checkNames(t, a.spool, file, file+".refused")
				checkFile(t, filepath.Join(a.spool, file), content)
			}
			a.stop(t, d)
			tries := a.shark.Count()
			a.back(t)
			a.start(t)
			a.heard.quiet(t, time.Second)
			if got := a.shark.Count(); got != tries {
				t.Errorf("want no try after the refusal, got %d", got-tries)
			}
		})
	}
}

// checkFile fails unless a file has this content.
func checkFile(t testing.TB, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s is not what was kept", filepath.Base(name))
	}
}

// TestSpoolAtStop: what is not uploaded within -draintimeout waits, which is no failure.
func TestSpoolAtStop(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer sharktest.Answer
		drain  string // -draintimeout
		state  string
	}{
		"CloudShark hangs":   {sharktest.Hang, "1s", "kept"},
		"CloudShark is slow": {takingTime(300 * time.Millisecond), "1m", "done"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAbsence(t, test.answer, "-cstimeout", "1m", "-draintimeout", test.drain, "-destdir", t.TempDir())
			d := a.start(t)
			a.redis.Publish(t, a.request("x", 0))
			a.heard.await(t, time.Minute, "started")
			a.stream.Await(t, 100)
			a.stop(t, d)
			end := a.heard.next(t, time.Minute)
			end.check(t, says{"id": "x", "state": test.state, "stop": "shutdown", "file": nil})
			if test.state == "done" {
				end.check(t, says{"error": nil})
				checkContent(t, a.upload(t, end).Content, end)
				checkNames(t, a.spool)
				return
			}
			end.check(t, says{"error": about("stopped: no answer")})
			name := uploadName(end)
			checkNames(t, a.spool, name, name+".waybill")
			a.back(t)
			a.start(t)
			done := a.heard.next(t, time.Minute)
			done.check(t, says{"id": "x", "state": "done", "stop": "shutdown", "packets": end.Packets})
			checkContent(t, a.upload(t, done).Content, done)
		})
	}
}

// TestSpoolOrder: after a start, what waits is uploaded oldest first and two
// at a time, and new captures do not wait for that.
func TestSpoolOrder(t *testing.T) {
	t.Parallel()
	a := newAbsence(t, isAway)
	d := a.start(t)
	for n := range 6 {
		a.kept(t, strconv.Itoa(n))
	}
	a.stop(t, d)
	var running, most atomic.Int32
	through := make(chan struct{})
	a.leave(func(http.ResponseWriter, *http.Request, int) bool {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		select {
		case <-through:
		case <-t.Context().Done():
		}
		return false
	})
	a.start(t, "-cstimeout", "1h")
	// next waits until so many uploads are under way, lets them end and returns whose they were.
	next := func(n int32) (got []string) {
		t.Helper()
		testbed.Eventually(t, time.Minute, "uploads have begun", func() bool { return running.Load() >= n })
		for range n {
			through <- struct{}{}
		}
		for range n {
			got = append(got, a.heard.await(t, time.Minute, "done").ID)
		}
		slices.Sort(got)
		return got
	}
	testbed.Eventually(t, time.Minute, "the first have begun", func() bool { return running.Load() == 2 })
	a.redis.Publish(t, a.request("new", 20))
	got := [][]string{next(3), next(2), next(2)}
	if want := [][]string{{"0", "1", "new"}, {"2", "3"}, {"4", "5"}}; !reflect.DeepEqual(want, got) {
		t.Errorf("want two at a time, and the new one not to wait for those before it: %v, got %v", want, got)
	}
	if n := most.Load(); n != 3 {
		t.Errorf("want two uploads at a time and the new one, got %d", n)
	}
}

// TestSpoolMetrics: what waits can be seen.
func TestSpoolMetrics(t *testing.T) {
	t.Parallel()
	args, port := listening(t)
	a := newAbsence(t, isAway, args...)
	d := a.start(t)
	checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 0, "pcapdaemon_spool_bytes": 0,
		"pcapdaemon_spool_oldest_seconds": 0})
	began := time.Now()
	a.kept(t, "a")
	first := time.Now()
	time.Sleep(500 * time.Millisecond)
	a.kept(t, "b")
	check := func() {
		t.Helper()
		checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 2,
			"pcapdaemon_spool_bytes": float64(sizeOf(t, a.spool))})
		least := time.Since(first).Seconds()
		age := series(t, port, "pcapdaemon_spool_oldest_seconds")
		if most := time.Since(began).Seconds(); age < least || age > most {
			t.Errorf("want an age of %v to %v, got %v", least, most, age)
		}
	}
	check()
	checkSeries(t, port, map[string]float64{`pcapdaemon_deliveries_total{destination="spool",outcome="ok"}`: 2})
	a.stop(t, d)
	a.start(t)
	check()
	a.back(t)
	for range 2 {
		a.heard.next(t, time.Minute).check(t, says{"state": "done"})
	}
	checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 0, "pcapdaemon_spool_bytes": 0,
		"pcapdaemon_spool_oldest_seconds": 0})
}

// sizeOf returns how many bytes the files of a directory have.
func sizeOf(t testing.TB, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}
