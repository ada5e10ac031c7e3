package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// A jailer is a real fail2ban-server with one jail, which bans whatever stands behind
// "refused" in a log.
type jailer struct {
	client []string
	log    string
}

// startFail2ban starts one whose jail has the action of the example, and nothing else of this machine.
func startFail2ban(t testing.TB, env []string) *jailer {
	t.Helper()
	testbed.NeedTools(t, "fail2ban-server", "fail2ban-client")
	dir := t.TempDir()
	j := &jailer{log: filepath.Join(dir, "log"), client: []string{"-c", dir, "-s", filepath.Join(dir, "socket"),
		"-p", filepath.Join(dir, "pid")}}
	for _, folder := range []string{"action.d", "filter.d"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, dir, "log", "")
	writeFile(t, dir, "action.d/pcapdaemon.conf", adapt(t, "fail2ban/pcapdaemon.conf", installedTriggers,
		triggerPath(t, "")))
	writeFile(t, dir, "filter.d/test.conf", "[Definition]\nfailregex = ^\\s*refused <F-ID>.+</F-ID>$\n"+
		"datepattern = ^EPOCH\n")
	writeFile(t, dir, "fail2ban.conf", fmt.Sprintf("[Definition]\nloglevel = INFO\nlogtarget = STDOUT\n"+
		"syslogsocket = auto\n"+
		"socket = %[1]s/socket\npidfile = %[1]s/pid\ndbfile = None\n", dir))
	writeFile(t, dir, "jail.conf", fmt.Sprintf("[test]\nenabled = true\nfilter = test\nlogpath = %s\nbackend = polling\n"+
		"maxretry = 1\nbantime = 600\nfindtime = 600\naction = pcapdaemon[node=\"^web[0-9]+$\", lookback=10]\n", j.log))
	cmd := exec.Command("fail2ban-server", append(j.client, "-f", "start")...)
	cmd.Env = env
	testbed.Start(t, cmd)
	testbed.Eventually(t, 30*time.Second, "the jail is there", func() bool {
		out, err := exec.Command("fail2ban-client", append(j.client, "status", "test")...).CombinedOutput()
		return err == nil && strings.Contains(string(out), "Currently banned")
	})
	return j
}

// refuse writes a line into the log that the jail watches.
func (j *jailer) refuse(t testing.TB, whom string) {
	t.Helper()
	file, err := os.OpenFile(j.log, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(file, "%d refused %s\n", time.Now().Unix(), whom)
		file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestFail2ban(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	for way, env := range map[string]func(testing.TB, *testbed.Redis) []string{
		"redis-cli": withRedisCLI, "pcapdaemon": withProgram,
	} {
		t.Run(way, func(t *testing.T) {
			server := testbed.StartRedis(t)
			requests := server.Hear(t, "capture")
			j := startFail2ban(t, env(t, server))
			for _, address := range []string{"192.0.2.7", "2001:db8::7"} {
				j.refuse(t, address)
				j.refuse(t, address) // is banned already
				heardRequest(t, requests, 30*time.Second).check(t,
					requested{"nodere": "^web[0-9]+$", "bpf": "host " + address,
						"interface": "default", "tags": "fail2ban,test", "timeout": 30.0, "packets": 0.0, "lookback": 10.0,
						"by": "fail2ban@" + hostName(t)})
			}
			for name, text := range hostileTexts {
				if text != "" {
					j.refuse(t, name+text[:min(len(text), 20_000)])
				}
			}
			j.refuse(t, "'; pcapdaemon-event x; '")
			j.refuse(t, `"; touch `+filepath.Join(t.TempDir(), "x")+`; "`)
			j.refuse(t, "192.0.2.8")
			heardRequest(t, requests, 60*time.Second).check(t, requested{"bpf": "host 192.0.2.8"})
		})
	}
}
