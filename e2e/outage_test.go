package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestResultsSurviveOutage: a capture that runs while Redis is away is
// delivered, and its result comes when Redis is back.
func TestResultsSurviveOutage(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	startDaemon(t, r, keeping(dir)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"first","timeout":2,"bpf":"`+stream.Filter()+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"second","timeout":3,"bpf":"`+stream.Filter()+`"}`)
	l.await(t, time.Minute, "started")
	l.await(t, time.Minute, "started")
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, time.Minute)
	testbed.Eventually(t, time.Minute, "both captures are written", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
		return len(files) == 2
	})
	r.Restart(t)
	l = listen(t, r)
	for _, want := range []string{"first", "second"} {
		l.next(t, time.Minute).check(t, says{"id": want, "state": "done"})
	}
}

// TestRedisMoves: the server hangs and its address leads to another one. Requests
// and results go through that one, and the capture that began before is told of.
func TestRedisMoves(t *testing.T) {
	t.Parallel() // mostly waits
	testbed.NeedRoot(t)
	first, second := testbed.StartRedis(t), testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, first.Address())
	before, after := listen(t, first), listen(t, second)
	args, port := listening(t)
	_, proxyPort, _ := strings.Cut(proxy.Address, ":")
	args = append(args, "-node", "web1", "-redisport", proxyPort)
	d := testbed.Start(t, exec.Command(binary, append(args, keeping(t.TempDir())...)...))
	first.AwaitSubscribers(t, time.Minute, 1)
	stream := testbed.StartStream(t, time.Millisecond)
	first.Publish(t, `{"node":"web1","interface":"lo","timeout":3,"id":"before","bpf":"`+stream.Filter()+`"}`)
	before.await(t, time.Minute, "started")
	first.Signal(t, syscall.SIGSTOP)
	proxy.Lead(second.Address())

	second.AwaitSubscribers(t, 21*time.Second, 1) // 15 s until it is noticed, 6 s to be there again
	after.await(t, time.Minute, "done").check(t, says{"id": "before", "packets": anything{}})
	second.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"id":"after","bpf":"`+stream.Filter()+`"}`)
	after.await(t, time.Minute, "started").check(t, says{"id": "after"})
	after.await(t, time.Minute, "done").check(t, says{"id": "after"})
	if code, body := get(t, port, "/healthz"); code != 200 {
		t.Errorf("want it healthy, got %d: %s", code, body)
	}
	if log := d.Output.String(); !strings.Contains(log, "subscription lost") {
		t.Errorf("want the outage in the log, got %s", log)
	}
}

// TestPasswordIsNotCaptured: the connections to Redis are there before the
// first capture, which holds nothing of them but what goes over them in its time.
func TestPasswordIsNotCaptured(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">geheim", "allchannels", "+@all")
	l := listen(t, r)
	dir := t.TempDir()
	cmd := exec.Command(binary, append(keeping(dir), "-node", "web1")...)
	cmd.Env = append(os.Environ(), "PCAPDAEMON_REDISURL=redis://host:geheim@"+r.Address())
	testbed.Start(t, cmd)
	r.AwaitSubscribers(t, time.Minute, 1)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","timeout":2,"bpf":"tcp port %d"}`, r.Port))
	done := l.final(t, time.Minute)
	content, err := os.ReadFile(done.File)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte("PUBLISH")) {
		t.Error("want the traffic of Redis in the capture, without it this shows nothing")
	}
	if bytes.Contains(content, []byte("geheim")) {
		t.Error("the password is in the capture")
	}
}
