//go:build compare

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"pcapdaemon/testbed"

	"github.com/dustin/go-humanize"
	"github.com/gomodule/redigo/redis"
	"golang.org/x/sys/unix"
)

const (
	// compareRounds is how often daemon and tcpdump take turns for one row, an
	// odd number so that the median is a run that took place.
	compareRounds = 7
	startRounds   = 11
	// captureCore is the core of whoever captures. The first one is the
	// sender's: trafgen binds its sending process to it, whatever taskset says.
	captureCore = 1
	// senderVariable hands the name of the sender's namespace to the test that runs in the other one.
	senderVariable = "COMPARE_SENDER"

	floodFilter = "udp dst port 4242" // what flood sends
	quietFilter = "udp dst port 4243" // what nobody sends
	// evidenceSize is the file of the captures whose memory is measured, in bytes.
	evidenceSize = 140_000_000
	// recordHeader is what a packet has before it in a pcap file, in bytes.
	recordHeader = 16
	// daemonDrain and tcpdumpDrain are how long the last packets of a flood
	// may stay in the kernel: a read timeout and some time to copy them.
	daemonDrain  = 3 * readTimeout
	tcpdumpDrain = 1200 * time.Millisecond
)

// TestCompare measures the daemon and tcpdump side by side and prints one
// table. It fails if it cannot measure, never for what it measures.
func TestCompare(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "ip", "trafgen", "tcpdump", "redis-server")
	if runtime.NumCPU() < 2 {
		testbed.Lack(t, "a core for the sender and one for who captures")
	}
	if name := os.Getenv(senderVariable); name != "" {
		compare(t, testbed.Namespace{Name: name})
		return
	}
	capturing, sending := testbed.NewNamespace(t, "capture"), testbed.NewNamespace(t, "send")
	capturing.Pair(t, sending)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Once more, with daemon, tcpdump, Redis and upload all inside the
	// namespace: a process that is not there from its start cannot get there whole.
	again := capturing.Command(self, "-test.run", "^TestCompare$", "-test.timeout", "30m")
	again.Env = append(os.Environ(), senderVariable+"="+sending.Name)
	again.Stderr = os.Stderr
	text, err := again.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	fmt.Print(strings.TrimSuffix(string(text), "PASS\n"))
}

// compare makes all measurements and prints the table.
func compare(t *testing.T, sender testbed.Namespace) {
	c := newComparison(t, sender)
	c.comparePackets(t, 200, 500_000)
	c.comparePackets(t, 1400, 100_000)
	c.measureMemory(t)
	c.measureBudget(t)
	c.compareStart(t)
	c.compareIdle(t)
	c.measureOthers(t)
	c.measureBurst(t)
	fmt.Println(describeMachine(t))
	fmt.Print(c.table.String())
}

// A comparison is the place where daemon and tcpdump are measured, and what
// has come out so far. Packets come in on v0; v1 is the sender's end.
type comparison struct {
	sender    testbed.Namespace
	redis     *testbed.Redis
	publisher redis.Conn
	results   *listener
	sink      *uploadSink
	dir       string // on tmpfs
	table     comparisonTable
}

// newComparison sets up what every measurement needs.
func newComparison(t *testing.T, sender testbed.Namespace) *comparison {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pcapdaemon-compare-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &comparison{sender: sender, redis: testbed.StartRedis(t), sink: startUploadSink(t), dir: dir}
	c.publisher, err = redis.Dial("tcp", c.redis.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.publisher.Close() })
	c.results = listen(t, c.redis)
	return c
}

// startDaemon starts the daemon on its core, with limits that do not get in the way.
func (c *comparison) startDaemon(t *testing.T, args ...string) *testbed.Process {
	t.Helper()
	args = append([]string{"-writelocal", "-destdir", c.dir, "-maxpackets", "100000000", "-maxbytes", "10GiB"}, args...)
	var p *testbed.Process
	onCore(t, captureCore, func() { p = startDaemon(t, c.redis, args...) })
	return p
}

// withUpload are the flags for delivery to the sink too.
func (c *comparison) withUpload() []string {
	return []string{"-upload", "-csscheme", "http", "-cshost", c.sink.Listener.Addr().String(), "-cstoken", strings.Repeat("0", 32)}
}

// stop ends a process and waits for it.
func (c *comparison) stop(t *testing.T, p *testbed.Process) {
	t.Helper()
	p.Signal(t, syscall.SIGINT)
	p.Wait(t, 30*time.Second)
}

// publish asks for a capture on v0; limits are the rest of the request.
func (c *comparison) publish(t *testing.T, filter, limits string) {
	t.Helper()
	message := fmt.Sprintf(`{"node":"web1","interface":"v0","bpf":%q,%s}`, filter, limits)
	if _, err := c.publisher.Do("PUBLISH", "capture", message); err != nil {
		t.Fatal(err)
	}
}

// awaitDone returns the result of a capture that went well.
func (c *comparison) awaitDone(t *testing.T) reported {
	t.Helper()
	r := c.results.await(t, time.Minute, "done", "failed", "refused")
	if r.State != "done" {
		t.Fatalf("capture is %s: %s", r.State, r.Error)
	}
	return r
}

// startTcpdump starts tcpdump on the daemon's core with the daemon's kernel buffer and snapshot length.
func (c *comparison) startTcpdump(t *testing.T, filter, file string, args ...string) *testbed.Process {
	t.Helper()
	args = append([]string{"-Z", "root", "-n", "-i", "v0", "-B", "4096", "-s", strconv.Itoa(maxSnap), "-w", file}, args...)
	var p *testbed.Process
	onCore(t, captureCore, func() { p = testbed.Start(t, exec.Command("tcpdump", append(args, filter)...)) })
	return p
}

// awaitTcpdump waits until tcpdump captures.
func awaitTcpdump(t *testing.T, p *testbed.Process) {
	t.Helper()
	testbed.Eventually(t, 10*time.Second, "tcpdump listens", func() bool { return strings.Contains(p.Output.String(), "listening on") })
}

// trafgen returns the command that sends UDP packets of a size in bytes, the
// Ethernet header included. They are for another host's address, so that
// nobody but who captures spends time on them.
func (c *comparison) trafgen(size int, args ...string) *exec.Cmd {
	packet := fmt.Sprintf("{ 0x02,0,0,0,0,1, 0x02,0,0,0,0,2, c16(0x0800), "+
		"0x45,0, c16(%d), c16(1), 0,0, 64,17, csumip(14,33), 10,99,0,2, 10,99,0,1, "+
		"c16(4242), c16(4242), c16(%d), 0,0, testbed.Fill(0x61,%d) }", size-14, size-34, size-42)
	return c.sender.Command("trafgen", append(append([]string{"--no-sock-mem", "-P", "1", "-o", "v1"}, args...), packet)...)
}

// flood sends packets as fast as trafgen can and returns when all are out.
func (c *comparison) flood(t *testing.T, size, packets int) {
	t.Helper()
	if out, err := c.trafgen(size, "-n", strconv.Itoa(packets)).CombinedOutput(); err != nil {
		t.Fatalf("trafgen: %v: %s", err, out)
	}
}

// trickle sends a small packet every 100 µs or so until it is stopped.
func (c *comparison) trickle(t *testing.T) (stop func()) {
	t.Helper()
	cmd := c.trafgen(60, "-t", "50us", "-n", "5000000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := testbed.Start(t, cmd)
	stop = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the process that trafgen forks, too
		<-p.Exited
	})
	t.Cleanup(stop)
	return stop
}

// comparePackets measures what a packet costs and how many get lost: in the
// first capture of a daemon, in its second one, and in tcpdump.
func (c *comparison) comparePackets(t *testing.T, size, packets int) {
	var cold, warm, theirs []flight
	for round := range compareRounds {
		note("%d-byte packets, round %d of %d", size, round+1, compareRounds)
		p := c.startDaemon(t)
		cold = append(cold, c.flyDaemon(t, p, size, packets))
		if round%2 == 0 {
			theirs = append(theirs, c.flyTcpdump(t, size, packets))
		}
		warm = append(warm, c.flyDaemon(t, p, size, packets))
		c.stop(t, p)
		if round%2 != 0 {
			theirs = append(theirs, c.flyTcpdump(t, size, packets))
		}
	}
	for _, row := range []struct {
		name   string
		limit  float64
		flight []flight
	}{{"cold", 1.4, cold}, {"warm", 1.0, warm}} {
		what := fmt.Sprintf("%d-byte packets, %s", size, row.name)
		c.table.ratio("CPU per packet, "+what, medianOf(row.flight, flight.perPacket), medianOf(theirs, flight.perPacket), row.limit)
		c.table.ratio("… local file included", medianOf(row.flight, flight.perPacketInAll), medianOf(theirs, flight.perPacket), 0)
		c.table.loss("… lost", row.flight, theirs)
	}
}

// A flight is one capture at full speed.
type flight struct {
	sent, kept int64
	cpu        time.Duration // from before the first packet until the last one was copied
	cpuInAll   time.Duration // until the file was complete, waiting for the timeout included
	peak       int64         // resident memory over that before the first packet, in bytes
}

func (f flight) perPacket() time.Duration      { return f.cpu / time.Duration(max(f.kept, 1)) }
func (f flight) perPacketInAll() time.Duration { return f.cpuInAll / time.Duration(max(f.kept, 1)) }

// lost returns the share of packets that are missing, in percent.
func (f flight) lost() float64 { return 100 * float64(f.sent-f.kept) / float64(f.sent) }

// flyDaemon makes a capture at full speed with the daemon.
func (c *comparison) flyDaemon(t *testing.T, p *testbed.Process, size, packets int) flight {
	t.Helper()
	// The timeout ends it: with a number of packets, delivery would begin in
	// the midst of the measurement.
	c.publish(t, floodFilter, `"timeout":4`)
	c.results.await(t, 10*time.Second, "started")
	time.Sleep(50 * time.Millisecond)
	before := cpuTime(t, p)
	c.flood(t, size, packets)
	time.Sleep(daemonDrain)
	used := cpuTime(t, p) - before
	r := c.awaitDone(t)
	usedInAll := cpuTime(t, p) - before
	removeFile(t, r.File)
	return flight{sent: int64(packets), kept: *r.Packets, cpu: used, cpuInAll: usedInAll}
}

// tcpdumpKept finds in tcpdump's last words how many packets it has written.
var tcpdumpKept = regexp.MustCompile(`(\d+) packets? captured`)

// flyTcpdump makes a capture at full speed with tcpdump.
func (c *comparison) flyTcpdump(t *testing.T, size, packets int) flight {
	t.Helper()
	file := filepath.Join(c.dir, "tcpdump.pcap")
	p := c.startTcpdump(t, floodFilter, file)
	awaitTcpdump(t, p)
	time.Sleep(50 * time.Millisecond)
	idle, before := memory(t, p, "VmRSS"), cpuTime(t, p)
	c.flood(t, size, packets)
	time.Sleep(tcpdumpDrain)
	used, peak := cpuTime(t, p)-before, memory(t, p, "VmHWM")-idle
	c.stop(t, p)
	removeFile(t, file)
	words := tcpdumpKept.FindStringSubmatch(p.Output.String())
	if words == nil {
		t.Fatal("tcpdump does not say what it captured: ", p.Output.String())
	}
	kept, _ := strconv.ParseInt(words[1], 10, 64) // digits
	return flight{sent: int64(packets), kept: kept, cpu: used, peak: peak}
}

// measureMemory makes one capture with all deliveries, then four more, then waits.
func (c *comparison) measureMemory(t *testing.T) {
	const size = 1400
	const packets = evidenceSize / (size + recordHeader)
	note("memory")
	p := c.startDaemon(t, c.withUpload()...)
	idle := settledMemory(t, p)
	capture := func() {
		c.publish(t, floodFilter, fmt.Sprintf(`"packets":%d,"timeout":20`, packets))
		c.results.await(t, 10*time.Second, "started")
		c.flood(t, size, 6*packets) // many may get lost on a busy machine
		r := c.awaitDone(t)
		if r.Stop != "packets" {
			t.Fatalf("capture of %d packets ended by %s with %d", packets, r.Stop, *r.Packets)
		}
		removeFile(t, r.File)
	}
	capture()
	one := memory(t, p, "VmHWM") - idle
	resetPeak(t, p)
	for range 4 {
		capture()
	}
	four, last := memory(t, p, "VmHWM")-idle, time.Now()
	theirs := c.flyTcpdump(t, size, packets).peak
	limit := int64(evidenceSize)*110/100 + 8*humanize.MiByte
	c.table.add("peak memory over idle, capture of "+mebibytes(evidenceSize), mebibytes(one), mebibytes(theirs), "", "≤ "+mebibytes(limit), one <= limit)
	// The Go heap is never of quite the same size.
	c.table.memory("… four more, one after the other", four, one+humanize.MiByte)
	time.Sleep(25*time.Second - time.Since(last))
	c.table.memory("… 25 s after the last one", memory(t, p, "VmRSS")-idle, 32*humanize.MiByte)
	c.stop(t, p)
}

// measureBudget makes three captures without limits but that of memory.
func (c *comparison) measureBudget(t *testing.T) {
	note("memory budget")
	p := c.startDaemon(t, append(c.withUpload(), "-maxmemory", "64MiB")...)
	idle := settledMemory(t, p)
	for range 3 {
		c.publish(t, floodFilter, `"timeout":20`)
	}
	for range 3 {
		c.results.await(t, 10*time.Second, "started")
	}
	c.flood(t, 1400, 150_000)
	var kept int64
	for range 3 {
		r := c.awaitDone(t)
		kept += *r.Bytes
		removeFile(t, r.File)
	}
	c.table.value("three unlimited captures, -maxmemory 64MiB: kept", mebibytes(kept), "> 50 MiB", kept > 50*humanize.MiByte)
	c.table.memory("… peak memory over idle", memory(t, p, "VmHWM")-idle, 80*humanize.MiByte)
	c.stop(t, p)
}

// compareStart measures how soon packets are captured after a request or a
// command, and how soon a capture is uploaded after its last packet.
func (c *comparison) compareStart(t *testing.T) {
	p := c.startDaemon(t, c.withUpload()...)
	stop := c.trickle(t)
	defer stop()
	var ours, theirs, end, theirEnd []time.Duration
	for round := range startRounds {
		note("start and end, round %d of %d", round+1, startRounds)
		// Such numbers that the ends lie all over the kernel's read timeout.
		packets := 500 + 153*round

		asked := time.Now()
		c.publish(t, floodFilter, fmt.Sprintf(`"packets":%d,"timeout":20`, packets))
		r := c.awaitDone(t)
		first, last := firstAndLast(t, r.File)
		ours, end = append(ours, first.Sub(asked)), append(end, c.sink.last(t).Sub(last))
		removeFile(t, r.File)

		file := filepath.Join(c.dir, "tcpdump.pcap")
		asked = time.Now()
		c.startTcpdump(t, floodFilter, file, "-c", strconv.Itoa(packets)).Wait(t, time.Minute)
		exited := time.Now()
		first, last = firstAndLast(t, file)
		theirs, theirEnd = append(theirs, first.Sub(asked)), append(theirEnd, exited.Sub(last))
		removeFile(t, file)
	}
	c.stop(t, p)
	c.table.ratio("start: request or command to first packet", median(ours), median(theirs), 0.75)
	c.table.within("end: last packet to end of upload or command", median(end), median(theirEnd), 100*time.Millisecond)
}

// compareIdle measures captures on which nothing matches.
func (c *comparison) compareIdle(t *testing.T) {
	note("idle captures")
	p := c.startDaemon(t)
	c.publish(t, quietFilter, `"timeout":13`)
	c.results.await(t, 10*time.Second, "started")
	dump := c.startTcpdump(t, quietFilter, filepath.Join(c.dir, "tcpdump.pcap"))
	awaitTcpdump(t, dump)
	time.Sleep(time.Second)
	const span = 10 * time.Second
	before, theirsBefore := cpuTime(t, p), cpuTime(t, dump)
	time.Sleep(span)
	ours, theirs := percent(cpuTime(t, p)-before, span), percent(cpuTime(t, dump)-theirsBefore, span)
	c.stop(t, dump)
	c.awaitDone(t)
	c.stop(t, p)
	c.table.add("idle capture, share of a core", fmt.Sprintf("%.2f %%", ours), fmt.Sprintf("%.2f %%", theirs), "", "≤ 0.5 %", ours <= 0.5)
}

// measureOthers publishes many requests for other hosts and one for this one.
func (c *comparison) measureOthers(t *testing.T) {
	const requests = 50_000
	note("requests for other hosts")
	p := c.startDaemon(t)
	c.settle(t)
	before := cpuTime(t, p)
	for n := range requests {
		// By name, and by several expressions in turn: no memory of the last one helps.
		to := fmt.Sprintf(`"node":"db%d"`, n)
		if n%2 != 0 {
			to = fmt.Sprintf(`"nodere":"^db%d[0-9]+$"`, n/2%4)
		}
		message := fmt.Sprintf(`{%s,"interface":"eth0","bpf":"host 192.0.2.%d and tcp port 443","tags":"login,slow","customer":"example","packets":1000,"timeout":60,"alertid":%d}`, to, n%250, n)
		if err := c.publisher.Send("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	behind := time.Now()
	c.publish(t, quietFilter, `"timeout":1`) // Do sends what waits and reads all answers
	c.results.await(t, time.Minute, "started")
	answered := time.Since(behind)
	each := (cpuTime(t, p) - before) / requests
	c.awaitDone(t)
	c.stop(t, p)
	c.table.within("request for another host, CPU", each, 0, 25*time.Microsecond)
	c.table.within("request behind 50,000 others, answered after", answered, 0, time.Second)
}

// settle lets the daemon come to rest after its start with a first request.
func (c *comparison) settle(t *testing.T) {
	c.publish(t, quietFilter, `"timeout":1`)
	c.awaitDone(t)
}

// measureBurst publishes more requests for this host than it has slots.
func (c *comparison) measureBurst(t *testing.T) {
	const requests = 2000
	note("burst of requests")
	p := c.startDaemon(t)
	idle := settledMemory(t, p)
	before := c.subscriptions(t)
	for n := range requests {
		message := fmt.Sprintf(`{"node":"web1","interface":"v0","bpf":%q,"id":"burst %d","timeout":1}`, quietFilter, n)
		if err := c.publisher.Send("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.publisher.Do(""); err != nil {
		t.Fatal(err)
	}
	answers := c.collectAnswers(requests, 15*time.Second)
	once := 0
	for _, n := range answers {
		if n == 1 {
			once++
		}
	}
	peak := memory(t, p, "VmHWM") - idle
	kept := slices.Equal(before, c.subscriptions(t))
	c.stop(t, p)
	c.table.value("burst of 2,000 requests: answered exactly once", strconv.Itoa(once), "= 2000", once == requests && len(answers) == requests)
	c.table.memory("… peak memory over idle", peak, 120*1000*1000)
	c.table.value("… subscription kept", map[bool]string{true: "yes", false: "no"}[kept], "= yes", kept)
}

// collectAnswers counts final results by id until there are enough or time is up.
func (c *comparison) collectAnswers(enough int, within time.Duration) map[string]int {
	answers := map[string]int{}
	for deadline := time.After(within); len(answers) < enough; {
		select {
		case r := <-c.results.results:
			if r.State != "started" {
				answers[r.ID]++
			}
		case <-deadline:
			return answers
		}
	}
	return answers
}

// subscriptions returns Redis' ids of the connections that are subscribed.
func (c *comparison) subscriptions(t *testing.T) []string {
	t.Helper()
	list, err := redis.String(c.redis.Do(t, "CLIENT", "LIST", "TYPE", "pubsub"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, line := range testbed.ReadLines(list) {
		ids = append(ids, strings.Fields(line)[0])
	}
	slices.Sort(ids)
	return ids
}

// An uploadSink takes uploads as CloudShark does, forgets them, and knows
// when they were complete.
type uploadSink struct {
	*httptest.Server
	complete chan time.Time
}

// startUploadSink starts a sink that goes with the test.
func startUploadSink(t *testing.T) *uploadSink {
	t.Helper()
	s := &uploadSink{complete: make(chan time.Time, 1)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-s.complete: // nobody asked for the one before
		default:
		}
		s.complete <- time.Now()
		fmt.Fprint(w, `{"id":"0"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

// last returns when the newest upload was complete. It has to be asked for once, and after the upload.
func (s *uploadSink) last(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-s.complete:
		return at
	default:
		t.Fatal("no upload")
	}
	panic("unreachable")
}

// onCore calls f on one core; what f starts stays there.
func onCore(t *testing.T, core int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	only.Set(core)
	if err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &only)); err != nil {
		t.Fatal("bind to core: ", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }() // was good before
	f()
}

// cpuTime returns the processor time that a process has used up to now, in
// user and kernel mode, by threads that have ended too. Its clock is exact to the nanosecond,
// unlike the ticks of /proc/PID/stat.
func cpuTime(t *testing.T, p *testbed.Process) time.Duration {
	t.Helper()
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^p.Process.Pid)<<3|scheduler, &used); err != nil {
		t.Fatalf("read CPU clock of %s: %v", filepath.Base(p.Path), err)
	}
	return time.Duration(used.Nano())
}

// settledMemory returns the resident memory of a process that has just
// started and has nothing to do, and makes it the peak.
func settledMemory(t *testing.T, p *testbed.Process) int64 {
	t.Helper()
	time.Sleep(time.Second)
	resetPeak(t, p)
	return memory(t, p, "VmRSS")
}

// memory returns a field of /proc/PID/status, in bytes.
func memory(t *testing.T, p *testbed.Process, field string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range testbed.ReadLines(string(status)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib * humanize.KiByte
		}
	}
	t.Fatal("no ", field)
	panic("unreachable")
}

// resetPeak makes the memory that a process has now its peak (proc_pid_clear_refs(5)).
func resetPeak(t *testing.T, p *testbed.Process) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// firstAndLast returns the time stamps at both ends of a capture file.
func firstAndLast(t *testing.T, name string) (first, last time.Time) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packets, _ := testbed.ReadPcap(t, file)
	if len(packets) == 0 {
		t.Fatal("no packets in ", name)
	}
	return packets[0].Timestamp, packets[len(packets)-1].Timestamp
}

// removeFile removes a capture: tmpfs is memory.
func removeFile(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// describeMachine returns a line that names what all figures depend on.
func describeMachine(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	model := runtime.GOARCH // not every architecture has a name there
	for _, line := range testbed.ReadLines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	pcap, _, _ := strings.Cut(libpcapVersion(t), " (")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), pcap, runtime.Version())
}

// libpcapVersion returns libpcap's own words about itself, as the program gives them.
func libpcapVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(binary, "-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, words, _ := strings.Cut(strings.TrimSpace(string(out)), "libpcap")
	return "libpcap" + words
}

// A comparisonTable is what has been measured: a line for each figure.
type comparisonTable struct{ rows [][]string }

// add appends a row; figures that do not exist are empty.
func (c *comparisonTable) add(what, ours, theirs, ratio, target string, met bool) {
	if !met {
		target += "  MISSED"
	}
	row := []string{what, ours, theirs, ratio, target}
	for i, cell := range row {
		row[i] = cmp.Or(cell, "–")
	}
	c.rows = append(c.rows, row)
}

// ratio appends a row for which the target is a ratio; 0: there is no target.
func (c *comparisonTable) ratio(what string, ours, theirs time.Duration, limit float64) {
	ratio := float64(ours) / float64(max(theirs, 1))
	target := ""
	if limit > 0 {
		target = fmt.Sprintf("≤ %.2f×", limit)
	}
	c.add(what, roundTime(ours), roundTime(theirs), fmt.Sprintf("%.2f×", ratio), target, limit == 0 || ratio <= limit)
}

// within appends a row for which the target is a time; theirs may be 0 for none.
func (c *comparisonTable) within(what string, ours, theirs, limit time.Duration) {
	other, ratio := "", ""
	if theirs > 0 {
		other, ratio = roundTime(theirs), fmt.Sprintf("%.2f×", float64(ours)/float64(theirs))
	}
	c.add(what, roundTime(ours), other, ratio, "≤ "+limit.String(), ours <= limit)
}

// loss appends a row about lost packets.
func (c *comparisonTable) loss(what string, ours, theirs []flight) {
	our, their := medianOf(ours, flight.lost), medianOf(theirs, flight.lost)
	c.add(what, fmt.Sprintf("%.2f %%", our), fmt.Sprintf("%.2f %%", their), "", "≤ tcpdump + 0.1 %", our <= their+0.1)
}

// memory appends a row for which the target is a number of bytes.
func (c *comparisonTable) memory(what string, bytes, limit int64) {
	c.value(what, mebibytes(bytes), "≤ "+mebibytes(limit), bytes <= limit)
}

// value appends a row about the daemon alone.
func (c *comparisonTable) value(what, ours, target string, met bool) {
	c.add(what, ours, "", "", target, met)
}

// String returns the aligned table.
func (c *comparisonTable) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tpcapdaemon\ttcpdump\tratio\ttarget")
	for _, row := range c.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	return text.String()
}

// note says on standard error what is going on: all this takes minutes.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// median returns the middle one of an odd number of values.
func median[T cmp.Ordered](values []T) T { return slices.Sorted(slices.Values(values))[len(values)/2] }

// medianOf returns the median of a figure over several captures.
func medianOf[T cmp.Ordered](flights []flight, figure func(flight) T) T {
	var values []T
	for _, f := range flights {
		values = append(values, figure(f))
	}
	return median(values)
}

// percent returns the share of a time in percent.
func percent(part, whole time.Duration) float64 { return 100 * float64(part) / float64(whole) }

// roundTime writes a time with three or four digits.
func roundTime(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d >= time.Microsecond:
		return d.Round(10 * time.Nanosecond).String()
	}
	return d.String()
}

// mebibytes writes a number of bytes.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/humanize.MiByte) }
