package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// aWireshark is a tshark that has the program under test in its folder of capture interfaces.
type aWireshark struct{ ours, folder string }

// newWireshark returns one. Its folder is seen by it alone: the system's stays as it is.
func newWireshark(t *testing.T) aWireshark {
	t.Helper()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "tshark", "unshare", "mount")
	w := aWireshark{ours: t.TempDir()}
	match := regexp.MustCompile(`(?m)^Extcap path:\s*(\S.*)$`).FindStringSubmatch(output(t, "tshark", "-G", "folders"))
	if match == nil {
		testbed.Lack(t, "a tshark that runs capture interfaces")
	}
	w.folder = match[1]
	if err := os.Symlink(binary, filepath.Join(w.ours, "pcapdaemon")); err != nil {
		t.Fatal(err)
	}
	return w
}

// command returns a tshark with arguments. It reads settings of nobody.
func (w aWireshark) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	const inside = `mount --bind "$1" "$2" && shift 2 && exec tshark "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", inside, "sh", w.ours, w.folder}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	return cmd
}

// capture starts a tshark that asks hosts on the loopback interface.
func (w aWireshark) capture(t *testing.T, r *testbed.Redis, hosts string, args ...string) *testbed.Process {
	t.Helper()
	options := []string{"-i", "pcapdaemon", "-n"}
	for name, value := range map[string]string{"redisurl": "redis://" + r.Address(), "nodere": hosts, "interface": "lo"} {
		options = append(options, "-o", "extcap.pcapdaemon."+name+":"+value)
	}
	return testbed.Start(t, w.command(t, append(options, args...)...))
}

// twoHosts starts web1, which records the loopback interface, and web2, which does not. The
// flags are for web1.
func twoHosts(t *testing.T, r *testbed.Redis, flags ...string) {
	t.Helper()
	flags = append([]string{"-maxreturn", "16MiB", "-record", "lo", "-recordsize", "32MiB"}, flags...)
	testbed.Start(t, daemonCommand(r, flags...))
	testbed.Start(t, daemonCommand(r, "-maxreturn", "16MiB", "-node", "web2"))
	r.AwaitSubscribers(t, time.Minute, 2)
}

// origins returns how many packets of which host a file holds.
func origins(t *testing.T, file string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, host := range testbed.ReadLines(output(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.interface_description")) {
		found[host]++
	}
	return found
}

// finals returns the last results of so many captures.
func finals(t *testing.T, heard <-chan []byte, n int) (found []result) {
	t.Helper()
	for len(found) < n {
		select {
		case message := <-heard:
			for _, r := range parseResults(string(message)) {
				if r.State != "started" {
					found = append(found, r)
				}
			}
		case <-time.After(time.Minute):
			t.Fatalf("want %d last results, got %v", n, found)
		}
	}
	return found
}

func TestWiresharkListsIt(t *testing.T) {
	t.Parallel()
	w := newWireshark(t)
	out, err := testbed.CombinedOutput(w.command(t, "-D"))
	if err != nil || !strings.Contains(string(out), ". pcapdaemon (Packets of many hosts") || strings.Contains(string(out), "invalid") {
		t.Errorf("want pcapdaemon listed, and nothing wrong with it, got %v: %s", err, out)
	}
}

// TestWireshark: packets of two hosts, merged, until tshark has seen enough.
func TestWireshark(t *testing.T) {
	t.Parallel()
	w, r := newWireshark(t), testbed.StartRedis(t)
	twoHosts(t, r)
	stream := testbed.StartStream(t, 5*time.Millisecond)
	for name, test := range map[string]struct {
		args   []string
		signal os.Signal
		stop   string
		// most is how many packets each host may have, if that is what ends the capture.
		most int
	}{
		"a duration":         {[]string{"-a", "duration:2"}, nil, "request", 0},
		"packets for tshark": {[]string{"-c", "50"}, nil, "request", 0},
		"packets for hosts":  {[]string{"-o", "extcap.pcapdaemon.packets:20"}, nil, "packets", 20},
		"Ctrl-C":             {nil, syscall.SIGINT, "request", 0},
		"the end of tshark":  {nil, syscall.SIGKILL, "request", 0},
	} {
		t.Run(name, func(t *testing.T) {
			heard := r.Hear(t, "capture-results")
			file := filepath.Join(t.TempDir(), "all.pcapng")
			p := w.capture(t, r, "^web", append(test.args, "-f", stream.Filter(), "-w", file)...)
			if test.signal != nil {
				testbed.Eventually(t, time.Minute, "packets have come", func() bool {
					info, err := os.Stat(file)
					return err == nil && info.Size() > 4096
				})
				p.Signal(t, test.signal)
			}
			p.Wait(t, 30*time.Second)
			for _, last := range finals(t, heard, 2) {
				if last.State != "done" || last.Stop != test.stop {
					t.Errorf("want a capture that was ended by %s, got %+v", test.stop, last)
				}
			}
			if test.signal == syscall.SIGKILL {
				return // what it has written is its own affair
			}
			const interrupted = "Unexpected error from select: Interrupted system call" // of tshark itself, now and then
			if got := strings.ReplaceAll(p.Output.String(), interrupted, ""); strings.Contains(got, "rror") {
				t.Errorf("want no error shown, got %s", got)
			}
			got := origins(t, file)
			if got["web1"]+got["web2"] == 0 || got[""] > 0 { // one of them may have been late
				t.Errorf("want packets of the hosts, got %v", got)
			}
			if test.most > 0 && (got["web1"] != test.most || got["web2"] != test.most) {
				t.Errorf("want %d packets of each host, got %v", test.most, got)
			}
		})
	}
}

// TestWiresharkLooksBack: the packets begin before tshark does. It runs alone, because the
// packets of other tests push what is recorded out of the ring.
func TestWiresharkLooksBack(t *testing.T) {
	w, r := newWireshark(t), testbed.StartRedis(t)
	stream := testbed.StartStream(t, 5*time.Millisecond)
	twoHosts(t, r, passing(stream)...)
	time.Sleep(time.Second) // that is the past
	begun := time.Now()
	file := filepath.Join(t.TempDir(), "all.pcapng")
	p := w.capture(t, r, "web", "-o", "extcap.pcapdaemon.lookback:60", "-f", stream.Filter(), "-c", "100", "-w", file)
	p.Wait(t, 30*time.Second)
	stamps := testbed.ReadLines(output(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.time_epoch", "-c", "1"))
	var first float64
	if len(stamps) == 1 {
		_, _ = fmt.Sscan(stamps[0], &first)
	}
	if first == 0 || first > float64(begun.UnixMilli())/1000 {
		t.Errorf("want a first packet before %v, got %q", begun, stamps)
	}
	// The other host does not record, and says so while this one captures.
	if got, want := p.Output.String(), "web2 lo: lookback: lo is not in -record"; !strings.Contains(got, want) {
		t.Errorf("want %q shown, got %s", want, got)
	}
}

// TestWiresharkShowsErrors: what goes wrong is shown in words.
func TestWiresharkShowsErrors(t *testing.T) {
	t.Parallel()
	w, r := newWireshark(t), testbed.StartRedis(t)
	twoHosts(t, r)
	dead := "redis://" + testbed.DeadAddress(t)
	for name, test := range map[string]struct {
		hosts string
		args  []string
		want  string
	}{
		"nobody of that name":   {"^db", nil, "no host answered"},
		"no hosts":              {"", nil, "no hosts are chosen"},
		"no such pattern":       {"web[", nil, "nodere: error parsing regexp"},
		"no such interface":     {"any", []string{"-o", "extcap.pcapdaemon.interface:eth77"}, "web1 eth77: "},
		"no such filter":        {"any", []string{"-f", "udp prot 53"}, "syntax error"},
		"no Redis":              {"any", []string{"-o", "extcap.pcapdaemon.redisurl:" + dead}, "connection refused"},
		"no address":            {"any", []string{"-o", "extcap.pcapdaemon.redisurl:h:6379"}, "takes redis://"},
		"a wrong option":        {"any", []string{"-o", "extcap.pcapdaemon.lookback:soon"}, "lookback"},
		"no file of a password": {"any", []string{"-o", "extcap.pcapdaemon.passwordfile:/nowhere"}, "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := w.capture(t, r, test.hosts, test.args...) // nothing else ends it
			p.Wait(t, 2*time.Minute)
			if got := p.Output.String(); !strings.Contains(got, test.want) {
				t.Errorf("want %q shown, got %s", test.want, got)
			}
		})
	}
}

// anExtcap is the program as Wireshark starts it, and what reads from its fifo.
type anExtcap struct {
	*testbed.Process
	fifo *os.File
}

// startExtcap starts a capture on all hosts and waits for the first packets.
func startExtcap(t *testing.T, cmd *exec.Cmd) anExtcap {
	t.Helper()
	x := openExtcap(t, cmd)
	if _, err := io.ReadFull(x.fifo, make([]byte, 2048)); err != nil {
		t.Fatal(err)
	}
	return x
}

// openExtcap starts a capture on all hosts and opens its fifo.
func openExtcap(t *testing.T, cmd *exec.Cmd) anExtcap {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, "--capture", "--extcap-interface", "pcapdaemon", "--fifo", path,
		"--nodere", "any", "--interface", "lo")
	x := anExtcap{Process: testbed.Start(t, cmd)}
	var err error
	if x.fifo, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.fifo.Close() })
	return x
}

// TestExtcapEnds: when Wireshark has ended it, it is gone, and its captures end long before their time.
func TestExtcapEnds(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	twoHosts(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	for name, end := range map[string]func(anExtcap){
		"SIGTERM":       func(x anExtcap) { x.Signal(t, syscall.SIGTERM) },
		"SIGINT":        func(x anExtcap) { x.Signal(t, syscall.SIGINT) },
		"a closed fifo": func(x anExtcap) { x.fifo.Close() },
		"a reader that takes nothing, and SIGTERM": func(x anExtcap) {
			x.awaitFull(t)
			x.Signal(t, syscall.SIGTERM)
		},
		"both": func(x anExtcap) {
			x.Signal(t, syscall.SIGTERM)
			x.fifo.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			heard := r.Hear(t, "capture-results")
			x := startExtcap(t, exec.Command(binary, "--redisurl", "redis://"+r.Address(),
				"--extcap-capture-filter", stream.Filter()))
			end(x)
			x.Wait(t, 2*time.Minute)
			for _, last := range finals(t, heard, 2) {
				if last.Stop != "request" {
					t.Errorf("want a capture that was asked to stop, got %+v", last)
				}
			}
			// That nobody has read all of it is worth a word; nothing else is.
			if got := x.Output.String(); got != "" && !strings.Contains(got, "the reader takes nothing") {
				t.Errorf("want nothing said, got %s", got)
			}
		})
	}
}

// awaitFull waits until no more fits into the fifo.
func (x anExtcap) awaitFull(t *testing.T) {
	t.Helper()
	in, err := os.OpenFile(x.fifo.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	testbed.Eventually(t, time.Minute, "the fifo is full", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLOUT}}, 0)
		return n == 0 && err == nil
	})
}

// TestExtcapEndsWhileOthersHang: neither a server that accepts connections and says nothing nor
// hosts that hang keep somebody who has left.
func TestExtcapEndsWhileOthersHang(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r := testbed.StartRedis(t)
	host := startDaemon(t, r, "-maxreturn", "16MiB")
	stream := testbed.StartStream(t, time.Millisecond)
	for name, end := range map[string]func(anExtcap){
		"SIGTERM":       func(x anExtcap) { x.Signal(t, syscall.SIGTERM) },
		"a closed fifo": func(x anExtcap) { x.fifo.Close() },
	} {
		t.Run("server, "+name, func(t *testing.T) {
			x := openExtcap(t, exec.Command(binary, "--redisurl", "redis://"+server.Addr().String()))
			if _, err := io.ReadFull(x.fifo, make([]byte, 12)); err != nil { // the file begins before anybody answers
				t.Fatal(err)
			}
			end(x)
			x.Wait(t, time.Minute)
		})
		t.Run("host, "+name, func(t *testing.T) {
			x := startExtcap(t, exec.Command(binary, "--redisurl", "redis://"+r.Address(),
				"--extcap-capture-filter", stream.Filter()))
			host.Signal(t, syscall.SIGSTOP)
			defer host.Signal(t, syscall.SIGCONT)
			end(x)
			x.Wait(t, 45*time.Second) // less than it takes to give the host up
		})
	}
}

// TestExtcapHidesPasswords: others see the command line of a process, and no password there.
func TestExtcapHidesPasswords(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	const password = "s3cr3t"
	r := testbed.StartRedis(t, "--requirepass", password)
	r.Password = password
	cmd := daemonCommand(r, "-maxreturn", "16MiB", "-redisurl", "redis://:"+password+"@"+r.Address())
	testbed.Start(t, cmd)
	r.AwaitSubscribers(t, time.Minute, 1)
	stream := testbed.StartStream(t, time.Millisecond)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "redis://" + r.Address()
	secret := "PCAPDAEMON_REDISURL=redis://:" + password + "@" + r.Address()
	for name, test := range map[string]struct {
		environment string
		args        []string
	}{
		"typed":          {"", []string{"--redisurl", url, "--password", password}},
		"in the address": {"", []string{"--redisurl", "redis://:" + password + "@" + r.Address()}},
		"typed, and another one in the environment": {"PCAPDAEMON_REDISURL=redis://:x@" + testbed.DeadAddress(t),
			[]string{"--redisurl", url, "--password", password}},
		"typed, for the server of the environment": {"PCAPDAEMON_REDISURL=redis://:x@" + r.Address(), []string{"--password", password}},
		"in a file":          {"", []string{"--redisurl", url, "--passwordfile", file}},
		"in the environment": {secret, []string{"--redisurl", url}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary, append(test.args, "--extcap-capture-filter", stream.Filter())...)
			cmd.Env = append(os.Environ(), test.environment)
			x := startExtcap(t, cmd) // packets come: the password is the right one
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", x.Process.Process.Pid))
			if err != nil || strings.Contains(string(line), password) || !strings.Contains(string(line), "--capture") {
				t.Errorf("want a command line without password, got %q (%v)", line, err)
			}
			x.Signal(t, syscall.SIGTERM)
			x.Wait(t, time.Minute)
		})
	}
}

// TestExtcapLoadsLists: hosts and interfaces come from a roll call, when Wireshark asks for them.
func TestExtcapLoadsLists(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	twoHosts(t, r)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"hosts":             {[]string{"node"}, "value {arg=1}{value=web1}"},
		"some hosts":        {[]string{"node", "--nodere", "2$"}, "value {arg=1}{value=web2}"},
		"hosts, one picked": {[]string{"node", "--nodere", "^web", "--node", "web1"}, "value {arg=1}{value=web2}"},
		"interfaces":        {[]string{"listed"}, "value {arg=3}{value=lo}{display=lo: on 2 of 2 hosts, recorded on 1}"},
		"nobody":            {[]string{"node", "--nodere", "^db"}, "(no host answers)"},
		"no Redis":          {[]string{"node", "--redisurl", "redis://" + testbed.DeadAddress(t)}, "connection refused"},
		"what has no list":  {[]string{"interface"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"--extcap-config", "--extcap-interface", "pcapdaemon", "--redisurl", "redis://" + r.Address(),
				"--extcap-reload-option"}
			got := output(t, binary, slices.Concat(args, test.args)...)
			if !strings.Contains(got, test.want) || test.want == "" && got != "" {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
	}
}

// TestExtcapChecksFilters: Wireshark takes what is written for what is wrong.
func TestExtcapChecksFilters(t *testing.T) {
	t.Parallel()
	for filter, want := range map[string]string{"udp port 53": "", "": "", "vlan 7 and udp": "", "inbound": "",
		"udp prot 53": "syntax error", "port 70000": "70000"} {
		got := output(t, binary, "--extcap-interface", "pcapdaemon", "--extcap-capture-filter", filter)
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: want %q, got %q", filter, want, got)
		}
	}
}

// TestExtcapAsksNobody: what Wireshark asks at every start is answered without Redis.
func TestExtcapAsksNobody(t *testing.T) {
	t.Parallel()
	variables := []string{"PCAPDAEMON_REDISURL=redis://ops:s3cret@192.0.2.1:6379", "PCAPDAEMON_REDISPORT=none"}
	for _, line := range []string{"--extcap-interfaces --extcap-version=4.0", "--extcap-dlts --extcap-interface pcapdaemon",
		"--extcap-config --extcap-interface pcapdaemon"} {
		cmd := exec.Command(binary, strings.Fields(line)...)
		cmd.Env = append(os.Environ(), variables...)
		begun := time.Now()
		out, err := testbed.CombinedOutput(cmd)
		if took := time.Since(begun); err != nil || took > 5*time.Second {
			t.Errorf("%s: want an answer at once, got %v after %v", line, err, took)
		}
		if got := string(out); strings.Contains(got, "s3cret") || !strings.Contains(got, "{display=") {
			t.Errorf("%s: want sentences without secrets, got %s", line, got)
		}
	}
	cmd := exec.Command(binary, "--capture", "--extcap-interface", "pcapdaemon", "--fifo", "/nowhere", "--nodere", "any")
	cmd.Env = append(os.Environ(), variables...)
	if out, err := testbed.CombinedOutput(cmd); err == nil || !strings.Contains(string(out), "redisport") {
		t.Errorf("want the variable named that is wrong, got %v: %s", err, out)
	}
}
