package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// publish runs a client that is not on a terminal, with flags and words.
func publish(t *testing.T, r *testbed.Redis, within time.Duration, args ...string) (
	got []result, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"-redisport", strconv.Itoa(r.Port)}, args...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	code = p.Wait(t, within)
	return parseResults(out.String()), p.Output.String(), code
}

// TestReturn: a daemon without CloudShark and without a directory, and one command for the file.
func TestReturn(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	startDaemon(t, r, "-maxreturn", "16MiB")
	stream := testbed.StartStream(t, time.Millisecond)
	dir := t.TempDir()
	got, stderr, code := publish(t, r, 10*time.Second, "-destdir", dir,
		"-publish", "node=any", "interface=lo", "packets=50", "bpf="+stream.Filter())
	if want := "started done fetched"; states(got) != want || code != 0 {
		t.Fatalf("want %s and exit code 0, got %s, %d, %s", want, states(got), code, stderr)
	}
	file := got[2].File
	if filepath.Dir(file) != dir {
		t.Errorf("want a file in %s, got %s", dir, file)
	}
	checkDirectory(t, dir, 1)
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 || info.Size() != got[1].Bytes {
		t.Errorf("want all of it with mode 0640, got %+v, %v", info, err)
	}
	if keys := r.Do(t, "KEYS", "*").([]any); len(keys) > 0 {
		t.Errorf("want no keys left, got %s", keys)
	}
}

// TestReturnFails: who does not get the file is told, and the exit code too.
func TestReturnFails(t *testing.T) {
	testbed.NeedRoot(t)
	for name, test := range map[string]struct {
		prepare []any // a command for Redis
		states  string
		says    string
	}{
		"nothing to return with":        {[]any{"ECHO", ""}, "refused", ""},
		"a server without room":         {[]any{"CONFIG", "SET", "maxmemory", "1"}, "started failed", ""},
		"an asker that may not read it": {[]any{"ACL", "SETUSER", "default", "-getrange"}, "started done", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			daemon := []string{"-maxreturn", "16MiB"}
			if test.states == "refused" {
				daemon = keeping(t.TempDir())
			}
			startDaemon(t, r, daemon...)
			r.Do(t, test.prepare[0].(string), test.prepare[1:]...)
			stream := testbed.StartStream(t, time.Millisecond)
			dir := t.TempDir()
			got, stderr, code := publish(t, r, 45*time.Second, "-destdir", dir, "-publish", "node=web1", "interface=lo",
				"packets=5", "bpf="+stream.Filter())
			if states(got) != test.states || code != 1 {
				t.Errorf("want %s and exit code 1, got %s, %d, %s", test.states, states(got), code, stderr)
			}
			if !strings.Contains(stderr, test.says) {
				t.Errorf("want %q, got %s", test.says, stderr)
			}
			checkDirectory(t, dir, 0)
		})
	}
}

// TestFetchAfterLeaving: who leaves by a second Ctrl-C is told how to get the files, and gets them so.
func TestFetchAfterLeaving(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	startDaemon(t, r, "-maxreturn", "16MiB")
	stream := testbed.StartStream(t, time.Millisecond)
	dir, heard := t.TempDir(), listen(t, r)
	cmd := exec.Command(binary, "-redisport", strconv.Itoa(r.Port), "-destdir", dir,
		"-publish", "node=any", "interface=lo", "id=mine", "timeout=60", "progress=1", "bpf="+stream.Filter())
	p := testbed.Start(t, cmd)
	heard.await(t, time.Minute, "running")
	r.Do(t, "ACL", "SETUSER", "default", "-getrange") // nothing is fetched yet
	p.Signal(t, syscall.SIGINT)
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if want := "-destdir " + dir + " -fetch mine"; !strings.Contains(p.Output.String(), want) {
		t.Errorf("want the command %s, got %s", want, p.Output.String())
	}
	r.Do(t, "PUBLISH", "capture", `{"node":"any","stop":"mine"}`) // the first signal may not have come so far
	done := heard.await(t, time.Minute, "done")
	checkDirectory(t, dir, 0)
	r.Do(t, "ACL", "SETUSER", "default", "+getrange")
	got, errs, code := publish(t, r, 5*time.Second, "-destdir", dir, "-fetch", "mine")
	if states(got) != "fetched" || code != 0 || filepath.Dir(got[0].File) != dir {
		t.Fatalf("want the file fetched, got %d, %+v, %s", code, got, errs)
	}
	if info, err := os.Stat(got[0].File); err != nil || info.Size() != done.Bytes {
		t.Errorf("want all %d bytes, got %+v, %v", done.Bytes, info, err)
	}
	if _, errs, code := publish(t, r, 5*time.Second, "-destdir", dir, "-fetch", "mine"); code != 3 {
		t.Errorf("want exit code 3 when nothing is left, got %d, %s", code, errs)
	}
}
