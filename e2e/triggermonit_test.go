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

// startMonit starts a real monit with the check of the example, on a port of this machine
// that nobody listens to, and another check of a name.
func startMonit(t testing.TB, env []string, name string) {
	t.Helper()
	testbed.NeedTools(t, "monit")
	dir := t.TempDir()
	const check = "if failed ping count 3 timeout 5 seconds for 2 cycles"
	ours := fmt.Sprintf("if failed port %d", testbed.FreePort(t))
	lines := fmt.Sprintf("set daemon 1\nset idfile %[1]s/id\nset statefile %[1]s/state\nset pidfile %[1]s/pid\n",
		dir) +
		adapt(t, "monit/pcapdaemon.monitrc", installedTriggers, triggerPath(t, ""), "10.20.0.1", "127.0.0.1", check,
			ours) +
		fmt.Sprintf("check file %q with path %s/none\n  if does not exist then exec %q\n", name, dir,
			triggerPath(t, "monit/pcapdaemon-monit")+" -l 10")
	config := writeFile(t, dir, "monitrc", lines)
	if err := os.Chmod(config, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("monit", "-t", "-c", config).CombinedOutput(); err != nil {
		t.Fatalf("monit refuses its configuration: %s", out)
	}
	cmd := exec.Command("monit", "-I", "-c", config, "-l", filepath.Join(dir, "log"))
	cmd.Env = env
	testbed.Start(t, cmd)
}

func TestMonit(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	const hostile = `$(touch x) 'a' ; %s \ {}`
	startMonit(t, withRedisCLI(t, server), hostile)
	want := map[string]requested{
		"monit,gateway":    {"interface": "default", "timeout": 30.0, "lookback": nil},
		"monit," + hostile: {"interface": "default", "timeout": 30.0, "lookback": 10.0},
	}
	for range 2 { // each check asks once
		heard := heardRequest(t, requests, 30*time.Second)
		tags, _ := heard["tags"].(string)
		if want[tags] == nil {
			t.Fatalf("want the tags of a check, got %q", tags)
		}
		heard.check(t, want[tags])
		heard.check(t, requested{"node": hostName(t), "nodere": nil, "bpf": nil, "by": "monit@" + hostName(t)})
		delete(want, tags)
	}
	time.Sleep(3 * time.Second) // three more checks that fail
	if n := len(requests); n > 0 {
		t.Errorf("want no more than one request of each check, got %d more", n)
	}
}

// TestMonitHandler hands the handler what monit cannot be made to say.
func TestMonitHandler(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	for way, env := range map[string][]string{"redis-cli": withRedisCLI(t, server),
		"pcapdaemon": withProgram(t, server)} {
		for name, text := range hostileTexts {
			t.Run(name+"/"+way, func(t *testing.T) {
				cmd := exec.Command(triggerPath(t, "monit/pcapdaemon-monit"), "-i", "lo")
				cmd.Dir = t.TempDir()
				cmd.Env = append(env, "MONIT_HOST=web1", "MONIT_SERVICE="+text, "MONIT_DESCRIPTION="+text,
					"MONIT_EVENT="+text)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				heard := heardRequest(t, requests, 10*time.Second)
				heard.checkHarmless(t, "node", "id")
				heard.check(t, requested{"node": "web1", "interface": "lo", "bpf": nil})
				if tags, _ := heard["tags"].(string); !strings.HasPrefix(tags, "monit") {
					t.Errorf("want tags of monit, got %q", tags)
				}
			})
		}
	}
}
