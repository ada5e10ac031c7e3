package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestState: of the states that a check goes through, the first bad one asks.
func TestState(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	run := func(state, attempt, tag string) {
		t.Helper()
		cmd := exec.Command(triggerPath(t, "pcapdaemon-state"), state, attempt, "-i", "lo", "nagios", tag, "web1",
			"192.0.2.7")
		cmd.Dir, cmd.Env = t.TempDir(), withRedisCLI(t, server)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v: %s", state, attempt, err, out)
		}
	}
	for n, check := range []struct {
		state, attempt string
		asks           bool
	}{
		{"OK", "1", false}, {"UP", "1", false}, {"CRITICAL", "1", true}, {"CRITICAL", "2", false}, {"WARNING", "1",
			true},
		{"UNKNOWN", "3", false}, {"DOWN", "1", true}, {"UNREACHABLE", "1", true}, {"", "", false},
		{"0", "1", false}, {"2", "1", true}, // as numbers
	} {
		tag := fmt.Sprint(n)
		run(check.state, check.attempt, tag)
		if check.asks {
			heardRequest(t, requests, 10*time.Second).check(t,
				requested{"node": "web1", "bpf": "host 192.0.2.7", "tags": "nagios," + tag})
		} else if len(requests) > 0 {
			t.Errorf("%s %s asks", check.state, check.attempt)
		}
	}
	for name, text := range hostileTexts {
		run("CRITICAL", "1", text)
		heard := heardRequest(t, requests, 10*time.Second)
		heard.checkHarmless(t, "node")
		if heard["node"] != "web1" {
			t.Errorf("%s: want node web1, got %v", name, heard["node"])
		}
	}
}

// startFamily starts a program that starts others, all of which end with the test: a
// process namespace goes with its first process.
func startFamily(t testing.TB, env []string, command ...string) {
	t.Helper()
	testbed.NeedTools(t, "unshare")
	cmd := exec.Command("unshare", append([]string{"--pid", "--fork", "--kill-child"}, command...)...)
	cmd.Env, cmd.WaitDelay = env, time.Second
	testbed.Start(t, cmd)
}

// TestNagios runs a real Nagios whose check fails, with the commands of the example.
func TestNagios(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "nagios4", "jq", "redis-cli")
	dir, server := t.TempDir(), testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	commands := writeFile(t, dir, "commands.cfg", adapt(t, "nagios/pcapdaemon.cfg", installedTriggers,
		triggerPath(t, ""))+`
define command { 
  command_name fail
  command_line /bin/sh -c 'echo "\$(touch x)\x60id\x60; it is bad"; exit 2'
}
define timeperiod {
  timeperiod_name always
  alias always
  sunday 00:00-24:00
  monday 00:00-24:00
  tuesday 00:00-24:00
  wednesday 00:00-24:00
  thursday 00:00-24:00
  friday 00:00-24:00
  saturday 00:00-24:00
}
define contact {
  contact_name nobody
  host_notifications_enabled 0
  service_notifications_enabled 0
  host_notification_commands fail
  service_notification_commands fail
  host_notification_period always
  service_notification_period always
}
define host {
  host_name switch1
  address 192.0.2.50
  max_check_attempts 3
  check_period always
  contacts nobody
  notification_period always
}
define service {
  host_name switch1
  service_description uplink
  check_command fail
  check_interval 1
  retry_interval 1
  max_check_attempts 3
  check_period always
  contacts nobody
  notification_period always
  event_handler pcapdaemon-service
}
`)
	config := writeFile(t, dir, "nagios.cfg", fmt.Sprintf(`cfg_file=%[2]s
log_file=%[1]s/log
object_cache_file=%[1]s/objects
precached_object_file=%[1]s/precached
resource_file=%[1]s/resource
status_file=%[1]s/status
temp_file=%[1]s/temp
temp_path=%[1]s
check_result_path=%[1]s
state_retention_file=%[1]s/state
command_file=%[1]s/command
query_socket=%[1]s/query
lock_file=%[1]s/lock
check_external_commands=0
nagios_user=root
nagios_group=root
interval_length=1
enable_event_handlers=1
illegal_macro_output_chars=~$&|'"<>`+"`"+`
`, dir, commands))
	writeFile(t, dir, "resource", "")
	if out, err := exec.Command("nagios4", "-v", config).CombinedOutput(); err != nil {
		t.Fatalf("nagios4 refuses its configuration: %s", out)
	}
	startFamily(t, withRedisCLI(t, server), "nagios4", config)
	heardRequest(t, requests, 60*time.Second).check(t, requested{"nodere": "^tap[0-9]+$", "node": nil,
		"bpf": "host 192.0.2.50", "tags": "nagios,uplink", "interface": "default", "timeout": 30.0})
	time.Sleep(5 * time.Second) // more checks that fail
	if n := len(requests); n > 0 {
		t.Errorf("want one request, got %d more", n)
	}
}

// TestIcinga runs a real Icinga whose check fails, with the commands of the example.
func TestIcinga(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "icinga2", "jq", "redis-cli")
	dir, server := t.TempDir(), testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	example := adapt(t, "icinga2/pcapdaemon.conf", installedTriggers, triggerPath(t, ""))
	config := writeFile(t, dir, "icinga2.conf", example+`
object CheckerComponent "checker" { }
object CheckCommand "fail" { command = [ "/bin/sh", "-c", "echo bad; exit 2" ] }
object Host "switch1" { address = "192.0.2.50", check_command = "fail", check_interval = 1s,
	event_command = "pcapdaemon-host",
  max_check_attempts = 3, retry_interval = 1s }
object Service "up'link $(touch x)`+"`id`"+`; a" { host_name = "switch1", check_command = "fail", check_interval = 1s,
  retry_interval = 1s, max_check_attempts = 3, event_command = "pcapdaemon-service" }
`)
	args := []string{"daemon", "-c", config, "-DDataDir=" + dir, "-DLogDir=" + dir, "-DCacheDir=" + dir,
		"-DSpoolDir=" + dir, "-DInitRunDir=" + dir, "-DRunAsUser=root", "-DRunAsGroup=root"}
	if out, err := exec.Command("icinga2", append(args, "-C")...).CombinedOutput(); err != nil {
		t.Fatalf("icinga2 refuses its configuration: %s", out)
	}
	startFamily(t, withRedisCLI(t, server), append([]string{"icinga2"}, args...)...)
	tags := map[string]bool{}
	for range 2 {
		heard := heardRequest(t, requests, 60*time.Second)
		heard.check(t, requested{"nodere": "^tap[0-9]+$", "node": nil, "bpf": "host 192.0.2.50",
			"interface": "default"})
		tag, _ := heard["tags"].(string)
		tags[tag] = true
	}
	for _, want := range []string{"icinga,switch1", "icinga,up'link $(touch x)`id`; a"} {
		if !tags[want] {
			t.Errorf("want tags %q, got %v", want, tags)
		}
	}
	time.Sleep(3 * time.Second) // more checks that fail
	if n := len(requests); n > 0 {
		t.Errorf("want one request of each, got %d more", n)
	}
	if found, _ := filepath.Glob("x"); len(found) > 0 || strings.Contains(example, installedTriggers) {
		t.Error("a shell has run what the event says")
	}
}
