package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// publisherACL is what docs/operations.md gives as the least for one who asks.
const publisherACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"

// ask runs -publish and returns what it printed and its exit code.
func ask(t *testing.T, url, request string, within time.Duration) (stdout, stderr string, code int) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(binary, "-publish", "-")
	cmd.Env = append(os.Environ(), "PCAPDAEMON_REDISURL="+url)
	cmd.Stdin = strings.NewReader(request)
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	code = p.Wait(t, within)
	return out.String(), p.Output.String(), code
}

func TestPublish(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	args := []any{"SETUSER", "asker", "on", ">pw"}
	for rule := range strings.FieldsSeq(publisherACL) {
		args = append(args, rule)
	}
	r.Do(t, "ACL", args...)
	url := "redis://asker:pw@" + r.Address()
	stream := testbed.StartStream(t, time.Millisecond)
	dir := t.TempDir()
	startDaemon(t, r, keeping(dir)...)
	testbed.Start(t, daemonCommand(r, append(keeping(dir), "-node", "web2")...))
	r.AwaitSubscribers(t, time.Minute, 2)

	for name, test := range map[string]struct {
		request string
		states  string
		id      any
		code    int
	}{
		"one host": {`{"node":"web1","interface":"lo","packets":5,"bpf":"` + stream.Filter() + `"}`,
			"started done", anything{}, 0},
		"with an id": {`{"id":"mine","node":"web1","interface":"lo","packets":5}`,
			"started done", "mine", 0},
		"two hosts": {`{"nodere":"web.","interface":"lo","timeout":2,"bpf":"` + stream.Filter() + `"}`,
			"started started done done", anything{}, 0},
		"refused": {`{"node":"web1","interface":"nosuch0"}`,
			"refused", anything{}, 1},
		"one interface refused": {`{"node":"web1","interface":["lo","nosuch0"],"packets":5}`,
			"started done refused", anything{}, 1},
		"nobody answers": {`{"node":"web9","interface":"lo"}`,
			"", anything{}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := ask(t, url, test.request, time.Minute)
			if code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			if want, got := sortWords(test.states), sortWords(states(parseResults(out))); want != got {
				t.Errorf("want the states %q, got %q", want, got)
			}
			for _, got := range parseResults(out) {
				got.check(t, says{"id": test.id})
			}
			if !strings.Contains(errs, "2 hosts listen on capture") {
				t.Errorf("want the number of hosts, got %s", errs)
			}
		})
	}
}

func TestPublishWithoutHosts(t *testing.T) {
	r := testbed.StartRedis(t)
	_, errs, code := ask(t, "redis://"+r.Address(), `{"node":"web1","interface":"lo"}`, time.Minute)
	if code != 3 {
		t.Errorf("want exit code 3, got %d", code)
	}
	for _, want := range []string{"0 hosts listen", "no host answered: nobody listens"} {
		if !strings.Contains(errs, want) {
			t.Errorf("want %q, got %s", want, errs)
		}
	}
}

func TestPublishFails(t *testing.T) {
	r := testbed.StartRedis(t)
	nobody := "redis://127.0.0.1:" + strconv.Itoa(testbed.FreePort(t))
	const good = `{"node":"web1","interface":"lo"}`
	for name, test := range map[string]struct {
		url, request, want string
		code               int
	}{
		"no JSON":        {nobody, "capture", "-publish", 2},
		"null":           {nobody, "null", "-publish", 2},
		"no node":        {nobody, `{"interface":"lo"}`, "node", 2},
		"unknown field":  {nobody, `{"node":"web1","bfp":"udp"}`, "did you mean bpf?", 2},
		"no interface":   {nobody, `{"node":"web1"}`, "interface: required", 2},
		"smart quotes":   {nobody, `{“node”:"web1"}`, "typographic quotation mark", 2},
		"id is a number": {nobody, `{"node":"web1","id":1}`, "id", 2},
		"broken pattern": {nobody, `{"nodere":"("}`, "nodere", 2},
		"nobody there":   {nobody, good, "connection refused", 1},
		"wrong password": {"redis://u:geheim@" + r.Address(), good, "WRONGPASS", 1},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := ask(t, test.url, test.request, time.Minute)
			if code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			checkComplaint(t, errs, test.want)
			if out != "" {
				t.Errorf("want no results, got %s", out)
			}
		})
	}
}

// checkComplaint fails unless standard error is one line that holds a text, and no secret.
func checkComplaint(t *testing.T, errs, want string) {
	t.Helper()
	if lines := testbed.ReadLines(errs); len(lines) != 1 || !strings.Contains(errs, want) {
		t.Errorf("want one line with %q, got %q", want, errs)
	}
	if strings.Contains(errs, "geheim") {
		t.Errorf("the password is shown: %s", errs)
	}
}

// TestPublishWaitsForLateHost: a host that listens and has not answered yet is
// waited for, though the other one's capture is long done.
func TestPublishWaitsForLateHost(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startDaemon(t, r, keeping(t.TempDir())...)
	late := testbed.Start(t, daemonCommand(r, append(keeping(t.TempDir()), "-node", "web2")...))
	r.AwaitSubscribers(t, time.Minute, 2)
	testbed.StartStream(t, time.Millisecond)
	heard := listen(t, r)
	late.Signal(t, syscall.SIGSTOP)
	cmd := exec.Command(binary, "-redisport", strconv.Itoa(r.Port), "-publish", "node=any", "interface=lo", "packets=1")
	var out bytes.Buffer
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	heard.await(t, time.Minute, "done")
	time.Sleep(300 * time.Millisecond) // for a client that does not wait to leave
	late.Signal(t, syscall.SIGCONT)
	code := p.Wait(t, time.Minute)
	if want, got := "started done started done", states(parseResults(out.String())); want != got {
		t.Errorf("want both hosts (%s), got %q and %s", want, got, p.Output.String())
	}
	if code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
}

// TestPublishNamesTheDead: a host that dies in the middle of a capture is named when three of its
// results on the way are missing, and waited for as long as it has said that it may take.
func TestPublishNamesTheDead(t *testing.T) {
	t.Parallel() // mostly waits
	r := testbed.StartRedis(t)
	dead := startDaemon(t, r, append(keeping(t.TempDir()), "-maxbytes", "64KiB")...)
	var out *testbed.Transcript
	var began time.Time
	var p *testbed.Process
	answered := false
	for n := 0; n < 5 && !answered; n++ { // a host that takes seconds to begin is none to a client: it is asked again
		cmd := exec.Command(binary, "-redisport", strconv.Itoa(r.Port), "-publish", "node=web1", "interface=lo", "timeout=6",
			"progress=1", "bpf=port 1")
		out = &testbed.Transcript{}
		cmd.Stdout = out
		began = time.Now()
		p = testbed.Start(t, cmd)
		testbed.Eventually(t, time.Minute, "the host answers, or is given up", func() bool {
			answered = strings.Contains(out.String(), `"started"`)
			return answered || p.HasExited()
		})
	}
	dead.Signal(t, syscall.SIGKILL)
	if !answered {
		t.Fatal("the host has not answered")
	}
	limits := parseResults(out.String())[0].Limits
	testbed.Eventually(t, time.Minute, "it is named", func() bool {
		return strings.Contains(p.Output.String(), "web1 lo: nothing heard since ")
	})
	if code := p.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	promised := 6*time.Second + time.Duration(limits.Delivery)*time.Second
	if took := time.Since(began); limits.Delivery == 0 || took < promised {
		t.Errorf("want an end after %v, took %v", promised, took)
	}
	// It may have said once more that it captures before it was killed.
	if want, got := "started", strings.ReplaceAll(states(parseResults(out.String())), " running", ""); want != got {
		t.Errorf("want %s, got %q", want, got)
	}
	errs := p.Output.String()
	if !strings.Contains(errs, "web1 lo: no result") || strings.Contains(errs, "no host answered") {
		t.Errorf("want the host named that has fallen silent, got %s", errs)
	}
}

// TestPrintingFails: results that cannot be printed are said once, and by exit code 1. The capture
// is made and kept all the same.
func TestPrintingFails(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := testbed.StartStream(t, time.Millisecond)
	words := []string{"node=web1", "interface=lo", "packets=5", "bpf=" + stream.Filter()}
	port := []string{"-redisport", strconv.Itoa(r.Port)}
	for outlet, why := range map[string]string{"full": "no space left on device", "left": "broken pipe"} {
		dir := t.TempDir()
		for name, test := range map[string]struct {
			args  []string
			files int
		}{
			"-publish": {append(append(port, "-publish"), words...), 0},
			"-request": {append(append(keeping(dir), "-node", "web1", "-request"), words...), 1},
			"-nowait":  {append(append(port, "-nowait", "-publish"), words...), 0},
			"-version": {[]string{"-version"}, 0},
			"-h":       {[]string{"-h"}, 0},
		} {
			cmd := exec.Command(binary, test.args...)
			cmd.Stdout = brokenOutlet(t, outlet)
			p := testbed.Start(t, cmd)
			if code := p.Wait(t, time.Minute); code != 1 || strings.Count(p.Output.String(), why) != 1 {
				t.Errorf("%s: want exit code 1 and %q once, got %d, %s", name, why, code, p.Output.String())
			}
			if test.files > 0 {
				checkDirectory(t, dir, test.files)
			}
		}
	}
}

// brokenOutlet returns a file that takes nothing: one that is full, or a pipe whose reader has left.
func brokenOutlet(t *testing.T, kind string) *os.File {
	t.Helper()
	if kind == "full" {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { full.Close() })
		return full
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	t.Cleanup(func() { writer.Close() })
	return writer
}

// TestSignalBeforeTheRequest: a standard input that never ends holds nobody.
func TestSignalBeforeTheRequest(t *testing.T) {
	for _, args := range [][]string{{"-publish", "-"}, append(keeping(t.TempDir()), "-request", "-")} {
		cmd := exec.Command(binary, args...)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		p := testbed.Start(t, cmd)
		time.Sleep(200 * time.Millisecond)
		p.Signal(t, syscall.SIGTERM)
		p.Wait(t, time.Minute)
	}
}
