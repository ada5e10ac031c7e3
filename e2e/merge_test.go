package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// startTwo starts two hosts of different formats.
func startTwo(t *testing.T, r *testbed.Redis, args ...string) (hosts [2]*testbed.Process) {
	t.Helper()
	args = append(args, "-maxreturn", "64MiB")
	hosts[0] = startDaemon(t, r, args...)
	hosts[1] = testbed.Start(t, daemonCommand(r, append(args, "-node", "web2", "-format", "pcapng")...))
	r.AwaitSubscribers(t, time.Minute, 2)
	return hosts
}

// clientCommand returns a client that asks for packets of any host.
func clientCommand(r *testbed.Redis, file string, words ...string) *exec.Cmd {
	args := []string{"-redisport", strconv.Itoa(r.Port), "-w", file, "-publish", "node=any", "interface=lo"}
	return exec.Command(binary, append(args, words...)...)
}

// readMerged reads a file of several hosts to its end, and returns how many packets each of them has, and how
// many are not in order.
func readMerged(t *testing.T, from io.Reader) (byHost map[string]int, disordered int) {
	t.Helper()
	reader, err := pcapgo.NewNgReader(from, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	byHost = map[string]int{}
	var last time.Time
	for {
		_, info, err := reader.ReadPacketData()
		if err == io.EOF {
			return byHost, disordered
		}
		if err != nil {
			t.Fatal(err)
		}
		iface, err := reader.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		byHost[iface.Description]++
		if info.Timestamp.Before(last) {
			disordered++
		}
		last = info.Timestamp
	}
}

// readMergedFile is readMerged for a file.
func readMergedFile(t *testing.T, name string) (byHost map[string]int, disordered int) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return readMerged(t, file)
}

// checkWhole fails if a file ends within a block.
func checkWhole(t *testing.T, name string) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err == nil {
		_, err = sharktest.Upload{Content: content}.Packets()
	}
	if err != nil {
		t.Errorf("%s is not whole: %v", filepath.Base(name), err)
	}
}

// TestMerge: one file has the packets of two hosts, in order, and other programs read as many as there are; FILE is never
// overwritten.
func TestMerge(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "tcpdump", "tshark")
	r := testbed.StartRedis(t)
	startTwo(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	dir := t.TempDir()
	name := filepath.Join(dir, "all.pcapng")
	got, stderr, code := publish(t, r, 20*time.Second, "-destdir", dir, "-w", name, "-publish", "node=any", "interface=lo",
		"packets=500", "bpf="+stream.Filter())
	byHost, disordered := readMergedFile(t, name)
	if byHost["web1"] != 500 || byHost["web2"] != 500 || code != 0 {
		t.Errorf("want 500 packets of each host, got %v, exit code %d, %s", byHost, code, stderr)
	}
	if said := strings.Contains(stderr, "not in order"); said != (disordered > 0) { // a machine that is very slow
		t.Errorf("%d packets are not in order, got %s", disordered, stderr)
	}
	files := 0
	for _, result := range got {
		if info, err := os.Stat(result.File); result.State == "fetched" && err == nil && info.Size() > 0 {
			files++
		}
	}
	if files != 2 {
		t.Errorf("want a file of each host, got %s", states(got))
	}
	for _, reader := range []*exec.Cmd{exec.Command("tcpdump", "-nr", name), exec.Command("tshark", "-nr", name)} {
		if out, err := reader.Output(); err != nil || bytes.Count(out, []byte("\n")) != 1000 {
			t.Errorf("%s: want 1000 lines, got %d, %v", reader, bytes.Count(out, []byte("\n")), err)
		}
	}
	before, _ := os.ReadFile(name)
	_, stderr, code = publish(t, r, 5*time.Second, "-w", name, "-publish", "node=any", "interface=lo")
	after, _ := os.ReadFile(name)
	if code != 1 || !strings.Contains(stderr, "file exists") || !bytes.Equal(before, after) {
		t.Errorf("want exit code 1 and the file as it was, got %d, %s", code, stderr)
	}
	if keys := r.Do(t, "KEYS", "*").([]any); len(keys) > 0 {
		t.Errorf("want no keys left, got %s", keys)
	}
}

// TestMergePipe: readers take the packets while they come, and when they close the pipe the captures end; nothing
// but packets is on standard output.
func TestMergePipe(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "tcpdump", "tshark")
	r := testbed.StartRedis(t)
	startTwo(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	for name, reader := range map[string]*exec.Cmd{
		"tcpdump": exec.Command("tcpdump", "-n", "-c", "300", "-r", "-"),
		"tshark":  exec.Command("tshark", "-n", "-c", "300", "-i", "-"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			asking := clientCommand(r, "-", "timeout=60", "bpf="+stream.Filter())
			asking.Stdout, reader.Stdin = to, from
			var lines bytes.Buffer
			reader.Stdout = &lines
			client, reading := testbed.Start(t, asking), testbed.Start(t, reader)
			to.Close()
			from.Close()
			if code := reading.Wait(t, 20*time.Second); code != 0 || strings.Count(lines.String(), "\n") < 300 {
				t.Errorf("want 300 lines, got %d, exit code %d, %s", strings.Count(lines.String(), "\n"), code, reading.Output.String())
			}
			if code := client.Wait(t, time.Minute); code != 0 || strings.Count(client.Output.String(), `"stop":"request"`) != 2 {
				t.Errorf("want both captures ended by the client, got exit code %d, %s", code, client.Output.String())
			}
		})
	}
}

// TestMergePipeline: Ctrl-C reaches the reader as well, and is no second one for the client.
func TestMergePipeline(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startTwo(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	asking := clientCommand(r, "-", "timeout=60", "bpf="+stream.Filter())
	asking.Stdout = to
	client := testbed.Start(t, asking)
	to.Close()
	if _, err := io.CopyN(io.Discard, from, 100_000); err != nil {
		t.Fatal(err)
	}
	from.Close()
	testbed.Eventually(t, time.Minute, "the captures are stopped", func() bool {
		return strings.Contains(client.Output.String(), "asked the captures to stop")
	})
	client.Signal(t, syscall.SIGINT)
	if code := client.Wait(t, time.Minute); code != 0 || strings.Count(client.Output.String(), `"stop":"request"`) != 2 {
		t.Errorf("want both captures ended by the client, got exit code %d, %s", code, client.Output.String())
	}
}

// TestMergeEnds: however it ends, the file is whole.
func TestMergeEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(t *testing.T, r *testbed.Redis, client *testbed.Process, hosts [2]*testbed.Process)
		code int
		says string
	}{
		"Ctrl-C": {func(t *testing.T, _ *testbed.Redis, client *testbed.Process, _ [2]*testbed.Process) {
			client.Signal(t, syscall.SIGINT)
		}, 0, "asked the captures to stop"},
		"left": {func(t *testing.T, _ *testbed.Redis, client *testbed.Process, hosts [2]*testbed.Process) {
			hosts[0].Signal(t, syscall.SIGSTOP)
			client.Signal(t, syscall.SIGTERM)
			testbed.Eventually(t, time.Minute, "the captures are stopped", func() bool {
				return strings.Contains(client.Output.String(), "asked the captures to stop")
			})
			client.Signal(t, syscall.SIGTERM)
		}, 1, "left before the results came"},
		"a host that stops": {func(t *testing.T, _ *testbed.Redis, client *testbed.Process, hosts [2]*testbed.Process) {
			hosts[1].Signal(t, syscall.SIGTERM)
			hosts[1].Wait(t, time.Minute)
			client.Signal(t, syscall.SIGINT)
		}, 0, ""},
		"killed": {func(t *testing.T, _ *testbed.Redis, client *testbed.Process, _ [2]*testbed.Process) {
			client.Signal(t, syscall.SIGKILL)
		}, -1, ""},
		"Redis restarts": {func(t *testing.T, r *testbed.Redis, client *testbed.Process, _ [2]*testbed.Process) {
			r.Signal(t, syscall.SIGKILL)
			r.Wait(t, time.Minute)
			r.Restart(t)
			r.AwaitSubscribers(t, time.Minute, 2)
			testbed.Eventually(t, time.Minute, "results are heard again", func() bool {
				return strings.Contains(client.Output.String(), "results are heard again")
			})
			client.Signal(t, syscall.SIGINT)
		}, -2, "no results are heard for the time being"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			hosts := startTwo(t, r)
			stream := testbed.StartStream(t, time.Millisecond)
			file := filepath.Join(t.TempDir(), "all.pcapng")
			client := testbed.Start(t, clientCommand(r, file, "timeout=60", "bpf="+stream.Filter()))
			testbed.Eventually(t, time.Minute, "packets are in the file", func() bool {
				info, err := os.Stat(file)
				return err == nil && info.Size() > 100_000
			})
			test.end(t, r, client, hosts)
			code := client.Wait(t, 30*time.Second)
			if code != test.code && test.code != -2 || !strings.Contains(client.Output.String(), test.says) {
				t.Errorf("want exit code %d and %q, got %d, %s", test.code, test.says, code, client.Output.String())
			}
			if byHost, _ := readMergedFile(t, file); byHost["web1"] == 0 || byHost["web2"] == 0 {
				t.Errorf("want packets of both hosts, got %v", byHost)
			}
			if name != "killed" { // which may be in the middle of a write
				checkWhole(t, file)
			}
		})
	}
}

// TestMergeDiskFull: a file that finds no room any more is said, whole, and the end of the captures.
func TestMergeDiskFull(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startTwo(t, r)
	stream := testbed.StartStreamOf(t, 8000, time.Millisecond)
	dir := t.TempDir()
	testbed.MountTmpfs(t, dir, "size=1m") // several writes of the client, of which the last one fails
	file := filepath.Join(dir, "all.pcapng")
	client := testbed.Start(t, clientCommand(r, file, "timeout=60", "bpf="+stream.Filter()))
	if code := client.Wait(t, time.Minute); code != 1 || !strings.Contains(client.Output.String(), "no space left") {
		t.Errorf("want exit code 1 and a word, got %d, %s", code, client.Output.String())
	}
	if byHost, _ := readMergedFile(t, file); len(byHost) == 0 { // of whichever began first
		t.Errorf("want packets, got %v", byHost)
	}
	checkWhole(t, file)
}

// TestMergeStopped: a client that stands still for a while misses nothing.
func TestMergeStopped(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startTwo(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	file := filepath.Join(t.TempDir(), "all.pcapng")
	client := testbed.Start(t, clientCommand(r, file, "packets=2000", "bpf="+stream.Filter()))
	testbed.Eventually(t, time.Minute, "packets are in the file", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 20_000
	})
	client.Signal(t, syscall.SIGSTOP)
	time.Sleep(time.Second)
	client.Signal(t, syscall.SIGCONT)
	if code := client.Wait(t, 20*time.Second); code != 0 {
		t.Errorf("want exit code 0, got %d, %s", code, client.Output.String())
	}
	byHost, _ := readMergedFile(t, file)
	if got := []int{byHost["web1"], byHost["web2"]}; !slices.Equal(got, []int{2000, 2000}) {
		t.Errorf("want 2000 packets of each host, got %v", byHost)
	}
}

// TestMergeUsage: -w needs hosts to be asked, and is gone when nobody was.
func TestMergeUsage(t *testing.T) {
	t.Parallel()
	free := strconv.Itoa(testbed.FreePort(t))
	for name, test := range map[string]struct {
		args []string // with DIR for a directory
		code int
		says string
	}{
		"without -publish": {[]string{"-w", "x", "-maxreturn", "1MiB"}, 2, "-w "},
		"with -rollcall":   {[]string{"-w", "x", "-rollcall"}, 2, "-w "},
		"with -nowait":     {[]string{"-w", "x", "-nowait", "-publish", "node=a", "interface=lo"}, 2, "-w "},
		"a stop":           {[]string{"-w", "DIR/a", "-publish", "stop=x"}, 2, "captures nothing"},
		"return":           {[]string{"-w", "DIR/a", "-publish", "node=a", "interface=lo", "return=true"}, 2, "return"},
		"no Redis":         {[]string{"-w", "DIR/a", "-redisport", free, "-publish", "node=a", "interface=lo"}, 1, "redis"},
		"no directory":     {[]string{"-w", "DIR/no/a", "-publish", "node=a", "interface=lo"}, 1, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for i, arg := range test.args {
				test.args[i] = strings.Replace(arg, "DIR", dir, 1)
			}
			p := testbed.Start(t, exec.Command(binary, test.args...))
			if code := p.Wait(t, time.Minute); code != test.code || !strings.Contains(p.Output.String(), test.says) {
				t.Errorf("want exit code %d and %q, got %d, %s", test.code, test.says, code, p.Output.String())
			}
			checkDirectory(t, dir, 0)
		})
	}
}
