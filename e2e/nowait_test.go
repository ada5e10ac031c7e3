package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// publishOnly runs -nowait and returns what it prints and its exit code. It may
// take 3 s, and a moment to start on a busy machine.
func publishOnly(t testing.TB, stdin io.Reader, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(binary, append([]string{"-nowait"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.WaitDelay = stdin, &out, 3*time.Second // if nothing ends stdin
	began := time.Now()
	p := testbed.Start(t, cmd)
	code = p.Wait(t, 30*time.Second)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	return out.String(), p.Output.String(), code
}

func TestNoWait(t *testing.T) {
	t.Parallel()
	const acl = "--user asker on >pw resetchannels -@all +ping (+publish &capture)"
	heard, silent := testbed.StartRedis(t, acl), testbed.StartRedis(t)
	requests := heard.Hear(t, "capture")
	hanging, dead := testbed.StartRedis(t), testbed.DeadAddress(t)
	hanging.Signal(t, syscall.SIGSTOP)
	never, open, err := os.Pipe() // nothing ever comes, nor the end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { never.Close(); open.Close() })
	url := func(address string) []string { return []string{"PCAPDAEMON_REDISURL=redis://" + address} }
	const asJSON = `{"node":"web1","interface":"lo","id":"mine","by":"me"}`
	for name, test := range map[string]struct {
		stdin  io.Reader
		env    []string
		args   []string
		code   int
		stdout string
		stderr string
		want   requested // nil: nothing is published
	}{
		"words": {nil, url(heard.Address()), []string{"-publish", "node=web1", "interface=lo,eth0", "timeout=5s",
			"tags=$(x)"}, 0,
			"1\n", "1 host listens on capture", requested{"node": "web1", "interface": []any{"lo", "eth0"},
				"timeout": 5.0,
				"tags":    "$(x)", "return": nil, "progress": nil}},
		"JSON": {nil, url(heard.Address()), []string{"-publish", asJSON}, 0, "1\n", "request mine: 1 host",
			requested{"id": "mine", "by": "me"}},
		"standard input": {strings.NewReader(asJSON + "\n"), url(heard.Address()),
			[]string{"-publish", "-"}, 0, "1\n", "", requested{"id": "mine"}},
		"a user who may only publish": {nil, url("asker:pw@" + heard.Address()), []string{"-publish", asJSON}, 0,
			"1\n", "", requested{"id": "mine"}},
		"no results channel": {nil, append(url(heard.Address()), "PCAPDAEMON_RESULTCHANNEL=none"),
			[]string{"-publish", asJSON}, 0, "1\n", "", requested{"id": "mine"}},
		"a directory": {nil, append(url(heard.Address()), "PCAPDAEMON_DESTDIR="+t.TempDir()),
			[]string{"-publish", asJSON}, 0, "1\n", "",
			requested{"return": nil}},
		"a stop": {nil, url(heard.Address()), []string{"-publish", "stop=mine"}, 0, "1\n", "",
			requested{"stop": "mine", "node": "any", "id": nil}},
		"by variable": {nil, append(url(heard.Address()), "PCAPDAEMON_NOWAIT=true"), []string{"-publish", asJSON}, 0,
			"1\n", "", requested{"id": "mine"}},

		"nobody listens": {nil, url(silent.Address()), []string{"-publish", asJSON}, 3, "0\n", "0 hosts listen",
			nil},
		"another channel": {nil, url(heard.Address()), []string{"-redischannel", "x", "-publish", asJSON}, 3, "0\n",
			"0 hosts listen on x", nil},
		"no Redis": {nil, url(dead), []string{"-publish", asJSON}, 1, "", "refused", nil},
		"Redis hangs": {nil, url(hanging.Address()), []string{"-publish", asJSON}, 1, "", "no answer in time",
			nil},
		"hangs before AUTH": {nil, url("a:b@" + hanging.Address()), []string{"-publish", asJSON}, 1, "",
			"no answer in time", nil},
		"wrong password": {nil, url("asker:x@" + heard.Address()), []string{"-publish", asJSON}, 1, "",
			"WRONGPASS", nil},
		"input never ends": {never, url(heard.Address()), []string{"-publish", "-"}, 1, "",
			"standard input has not ended", nil},
		"endless input": {endless{}, url(heard.Address()), []string{"-publish", "-"}, 2, "", "-publish: ", nil},
		"no JSON":       {nil, url(heard.Address()), []string{"-publish", "{"}, 2, "", "-publish: ", nil},
		"unknown field": {nil, url(heard.Address()), []string{"-publish", "node=web1", "interface=lo", "x=y"}, 2,
			"", "unknown field", nil},
		"no request": {nil, url(heard.Address()), nil, 2, "", "-nowait needs a request to publish", nil},
		"a roll call": {nil, url(heard.Address()), []string{"-rollcall"}, 2, "",
			"-nowait needs a request to publish", nil},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := publishOnly(t, test.stdin, test.env, test.args...)
			if code != test.code || stdout != test.stdout || !strings.Contains(stderr, test.stderr) {
				t.Errorf("want code %d, %q and %q, got %d, %q and %q", test.code, test.stdout, test.stderr, code, stdout,
					stderr)
			}
			heard.Do(t, "PUBLISH", "capture", `{"last":true}`)
			if test.want != nil {
				heardRequest(t, requests, 10*time.Second).check(t, test.want)
			}
			heardRequest(t, requests, 10*time.Second).check(t, requested{"last": true})
		})
	}
}

// endless is an input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "{{{{{{{{"), nil }

// TestNoWaitFindsTheMaster: over TLS, with passwords, by sentinels of which one hangs.
func TestNoWaitFindsTheMaster(t *testing.T) {
	t.Parallel()
	ca := testbed.NewCA(t)
	g := testbed.StartGroup(t, testbed.GroupConfig{CA: ca, Password: "pw"})
	requests := g.Servers[0].Hear(t, "capture", redis.DialPassword("pw"))
	g.Sentinels[0].Signal(t, syscall.SIGSTOP)
	env := []string{"PCAPDAEMON_REDISCAFILE=" + ca.File, "PCAPDAEMON_REDISURL=rediss+sentinel://:pw@" +
		strings.Join(g.SentinelAddresses(), ",") + "/" + testbed.MasterName}
	stdout, stderr, code := publishOnly(t, nil, env, "-publish", "node=web1", "interface=lo")
	if code != 0 || stdout != "1\n" {
		t.Fatalf("want code 0 and 1 listener, got %d and %q: %s", code, stdout, stderr)
	}
	heardRequest(t, requests, 10*time.Second).check(t, requested{"node": "web1"})
}
