//go:build compare

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// startTcpdump starts tcpdump on the daemon's core with the daemon's kernel buffer and snapshot length.
func (c *comparison) startTcpdump(t *testing.T, filter, file string, args ...string) *testbed.Process {
	t.Helper()
	const snapshot = "262144" // what a request gets that names none
	args = append([]string{"-Z", "root", "-n", "-i", "v0", "-B", "4096", "-s", snapshot, "-w", file}, args...)
	var p *testbed.Process
	onCore(t, captureCore, func() { p = testbed.Start(t, exec.Command("tcpdump", append(args, filter)...)) })
	return p
}

// awaitTcpdump waits until tcpdump captures.
func awaitTcpdump(t *testing.T, p *testbed.Process) {
	t.Helper()
	testbed.Eventually(t, 10*time.Second, "tcpdump listens", func() bool {
		return strings.Contains(p.Output.String(), "listening on")
	})
}

// udpPacket writes a UDP packet of a size in bytes, the Ethernet header
// included, for trafgen. It is for another host's address, so that nobody but
// who captures spends time on it.
func udpPacket(size, port int) string {
	return fmt.Sprintf("{ 0x02,0,0,0,0,1, 0x02,0,0,0,0,2, c16(0x0800), "+
		"0x45,0, c16(%d), c16(1), 0,0, 64,17, csumip(14,33), 10,99,0,2, 10,99,0,1, "+
		"c16(4242), c16(%d), c16(%d), 0,0, fill(0x61,%d) }", size-14, port, size-34, size-42)
}

// trafgen returns the command that sends packets, one after the other.
func (c *comparison) trafgen(packets string, args ...string) *exec.Cmd {
	args = append([]string{"--no-sock-mem", "-P", "1", "-o", "v1"}, args...)
	return c.sender.Command("trafgen", append(args, packets)...)
}

// send sends packets as fast as trafgen can and returns when so many are out.
func (c *comparison) send(t *testing.T, packets string, n int) {
	t.Helper()
	if out, err := c.trafgen(packets, "-n", strconv.Itoa(n)).CombinedOutput(); err != nil {
		t.Fatalf("trafgen: %v: %s", err, out)
	}
}

// flood sends packets for floodFilter as fast as trafgen can.
func (c *comparison) flood(t *testing.T, size, packets int) {
	t.Helper()
	c.send(t, udpPacket(size, floodPort), packets)
}

// trickle sends a small packet every 100 µs or so until it is stopped.
func (c *comparison) trickle(t *testing.T) (stop func()) {
	t.Helper()
	cmd := c.trafgen(udpPacket(60, floodPort), "-t", "50us", "-n", "5000000")
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
		useMemory(t)
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
		name           string
		limit, fileToo float64
		flight         []flight
	}{{"cold", 0.5, 1.0, cold}, {"warm", 0.28, 0, warm}} {
		what := fmt.Sprintf("%d-byte packets, %s", size, row.name)
		each := medianOf(theirs, flight.perPacket)
		c.table.ratio("CPU per packet, "+what, medianOf(row.flight, flight.perPacket), each, row.limit)
		c.table.ratio("… local file included", medianOf(row.flight, flight.perPacketInAll), each, row.fileToo)
		c.table.loss("… lost", row.flight, theirs)
	}
}

// useMemory uses as much memory as a flight needs, and gives it back. The host of a virtual
// machine may take back what is free for some seconds, and finding it again would be measured.
func useMemory(t *testing.T) {
	t.Helper()
	const size = 256 << 20
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // not every kernel has them
	for at := 0; at < size; at += os.Getpagesize() {
		memory[at] = 1
	}
}

// A flight is one capture at full speed.
type flight struct {
	sent, kept int64
	cpu        time.Duration // from before the first packet until the last one was copied
	cpuInAll   time.Duration // until the file was complete
	peak       int64         // resident memory over that before the first packet, in bytes
}

func (f flight) perPacket() time.Duration { return f.cpu / time.Duration(max(f.kept, 1)) }

func (f flight) perPacketInAll() time.Duration { return f.cpuInAll / time.Duration(max(f.kept, 1)) }

// lost returns the share of packets that are missing, in percent.
func (f flight) lost() float64 { return 100 * float64(f.sent-f.kept) / float64(f.sent) }

// flyDaemon makes a capture at full speed with the daemon.
func (c *comparison) flyDaemon(t *testing.T, p *testbed.Process, size, packets int) flight {
	t.Helper()
	// A request ends it: with a number of packets, delivery would begin in the
	// midst of the measurement, and a timeout would come before a slow sender's last ones.
	c.publish(t, floodFilter, `"timeout":60,"id":"flight"`)
	c.results.await(t, 10*time.Second, "started")
	time.Sleep(50 * time.Millisecond)
	before := cpuTime(t, p)
	c.flood(t, size, packets)
	time.Sleep(daemonDrain)
	used := cpuTime(t, p) - before
	c.endCaptures(t, "flight")
	r := c.awaitDone(t)
	usedInAll := cpuTime(t, p) - before
	removeFile(t, r.File)
	return flight{sent: int64(packets), kept: r.Packets, cpu: used, cpuInAll: usedInAll}
}

// tcpdumpKept finds in tcpdump's last words how many packets it has written.
var tcpdumpKept = regexp.MustCompile(`(\d+) packets? captured`)

// flyTcpdump makes a capture at full speed with tcpdump.
func (c *comparison) flyTcpdump(t *testing.T, size, packets int) flight {
	t.Helper()
	return c.flyTcpdumpOver(t, floodFilter, packets, func() { c.flood(t, size, packets) })
}

// flyTcpdumpOver captures with tcpdump while so many packets are sent.
func (c *comparison) flyTcpdumpOver(t *testing.T, filter string, packets int, send func()) flight {
	t.Helper()
	file := filepath.Join(c.dir, "tcpdump.pcap")
	p := c.startTcpdump(t, filter, file)
	awaitTcpdump(t, p)
	time.Sleep(50 * time.Millisecond)
	idle, before := memory(t, p, "VmRSS"), cpuTime(t, p)
	send()
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

// medianOf returns the median of a figure over several captures.
func medianOf[T cmp.Ordered](flights []flight, figure func(flight) T) T {
	var values []T
	for _, f := range flights {
		values = append(values, figure(f))
	}
	return median(values)
}
