//go:build compare

package e2e

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
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
	// partsVariable names the measurements to make, with commas; empty: all.
	partsVariable = "COMPARE"

	floodPort   = 4242
	floodFilter = "udp dst port 4242" // what flood sends
	quietFilter = "udp dst port 4243" // what nobody sends
	// evidenceSize is the file of the captures whose memory is measured, in bytes.
	evidenceSize = 140_000_000
	// daemonDrain and tcpdumpDrain are how long the last packets of a flood may
	// stay in the kernel: a read timeout of 100 ms or 1 s, and some time to copy them.
	daemonDrain  = 300 * time.Millisecond
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
	defer func() { // also of what was measured before a failure
		fmt.Println(describeMachine(t))
		fmt.Print(c.table.String())
	}()
	for _, part := range []struct {
		name    string
		measure func(*testing.T)
	}{
		{"packets200", func(t *testing.T) { c.comparePackets(t, 200, 500_000) }},
		{"packets1400", func(t *testing.T) { c.comparePackets(t, 1400, 100_000) }},
		{"recorder200", func(t *testing.T) { c.compareRecorder(t, 200, 500_000) }},
		{"recorder1400", func(t *testing.T) { c.compareRecorder(t, 1400, 100_000) }},
		{"idlerecorder", c.measureIdleRecorder},
		{"trigger", c.measureTrigger},
		{"started", c.compareStarted},
		{"formats", func(t *testing.T) { c.compareFormats(t, 200, 500_000) }},
		{"return", c.measureReturn},
		{"memory", c.measureMemory},
		{"budget", c.measureBudget},
		{"start", c.compareStart},
		{"idle", c.compareIdle},
		{"others", c.measureOthers},
		{"rate", c.measureRate},
		{"burst", c.measureBurst},
		{"fleet", c.measureFleet},
	} {
		if only := os.Getenv(partsVariable); only == "" || slices.Contains(strings.Split(only, ","), part.name) {
			part.measure(t)
		}
	}
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
	node      string // whom publish asks
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
	c := &comparison{sender: sender, redis: testbed.StartRedis(t), sink: startUploadSink(t), dir: dir, node: "web1"}
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
	args = append(c.withoutLimits(), args...)
	var p *testbed.Process
	onCore(t, captureCore, func() { p = startDaemon(t, c.redis, args...) })
	return p
}

// withoutLimits are the flags for local files as large as memory allows.
func (c *comparison) withoutLimits() []string {
	return append(keeping(c.dir), "-maxpackets", "100000000", "-maxbytes", "512MiB")
}

// withUpload are the flags for delivery to the sink too.
func (c *comparison) withUpload() []string {
	return []string{"-upload", "-csscheme", "http", "-cshost", c.sink.Listener.Addr().String(),
		"-cstoken", strings.Repeat("0", 32)}
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
	message := fmt.Sprintf(`{"node":%q,"interface":"v0","bpf":%q,%s}`, c.node, filter, limits)
	if _, err := c.publisher.Do("PUBLISH", "capture", message); err != nil {
		t.Fatal(err)
	}
}

// endCaptures asks for the end of the captures of an id.
func (c *comparison) endCaptures(t *testing.T, id string) {
	t.Helper()
	if _, err := c.publisher.Do("PUBLISH", "capture", fmt.Sprintf(`{"node":"any","stop":%q}`, id)); err != nil {
		t.Fatal(err)
	}
}

// awaitDone returns the result of a capture that went well.
func (c *comparison) awaitDone(t *testing.T) result {
	t.Helper()
	r := c.results.final(t, time.Minute)
	if r.State != "done" {
		t.Fatalf("capture is %s: %s", r.State, r.Error)
	}
	return r
}

// note says on standard error what is going on: all this takes minutes.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
