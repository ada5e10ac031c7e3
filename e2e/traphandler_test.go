package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// trapFolder is where the trap handler and its snmptrapd.conf are.
const trapFolder = "triggers/snmptrapd"

// trapHandlerPath returns the absolute path of the handler.
func trapHandlerPath(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, trapFolder, "pcapdaemon-trap"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTrapHandler feeds the handler alone what snmptrapd might feed it.
func TestTrapHandler(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	want := func(agent, tags string) map[string]any {
		return map[string]any{"nodere": `^tap[0-9]+\.$`, "interface": "eth0", "bpf": "host " + agent, "tags": tags,
			"timeout": 30.0, "packets": 0.0, "by": "snmptrap@" + hostName(t)}
	}
	const (
		v4           = "host\nUDP: [192.0.2.7]:3625->[192.0.2.1]:162\n"
		trapOID      = ".1.3.6.1.6.3.1.1.4.1.0 "
		agentAddress = ".1.3.6.1.6.3.18.1.3.0 "
	)

	for name, test := range map[string]struct {
		trap string
		want map[string]any
	}{
		"numbers": {v4 + trapOID + linkDown + "\n", want("192.0.2.7", "snmptrap,"+linkDown)},
		"numbers without MIBs": {v4 + "iso.3.6.1.6.3.1.1.4.1.0 iso.3.6.1.6.3.1.1.5.3\niso.3.6.1.6.3.18.1.3.0 192.0.2.9\n",
			want("192.0.2.9", "snmptrap,"+linkDown)},
		"names": {v4 + "SNMPv2-MIB::snmpTrapOID.0 IF-MIB::linkDown\nSNMP-COMMUNITY-MIB::snmpTrapAddress.0 192.0.2.9\n",
			want("192.0.2.9", "snmptrap,IF-MIB::linkDown")},
		"short names": {v4 + "snmpTrapOID.0 linkDown\nsnmpTrapAddress.0 192.0.2.9\n",
			want("192.0.2.9", "snmptrap,linkDown")},
		"long names": {v4 + ".iso.org.dod.internet.snmpV2.snmpModules.snmpMIB.snmpMIBObjects.snmpTrap." +
			"snmpTrapOID.0 .iso.org.x\n",
			want("192.0.2.7", "snmptrap,.1.org.x")},
		"equals signs": {v4 + ".1.3.6.1.6.3.1.1.4.1.0 = " + linkDown + "\n",
			want("192.0.2.7", "snmptrap,"+linkDown)},
		"a name that ends alike": {v4 + "X-MIB::mysnmpTrapOID.0 1\n.9.1.3.6.1.6.3.18.1.3.0 192.0.2.9\n",
			want("192.0.2.7", "snmptrap")},
		"no variables":      {v4, want("192.0.2.7", "snmptrap")},
		"no trap OID":       {v4 + ".1.3.6.1.2.1.1.3.0 0:0:43:47.51\n", want("192.0.2.7", "snmptrap")},
		"an empty trap OID": {v4 + trapOID + "\n", want("192.0.2.7", "snmptrap")},
		"a trap OID without value": {v4 + ".1.3.6.1.6.3.1.1.4.1.0\n",
			want("192.0.2.7", "snmptrap,.1.3.6.1.6.3.1.1.4.1.0")},
		"no newline at the end": {v4 + trapOID + linkDown, want("192.0.2.7", "snmptrap,"+linkDown)},
		"two trap OIDs": {v4 + trapOID + linkDown + "\n" + trapOID + ".1.3.9\n",
			want("192.0.2.7", "snmptrap,"+linkDown)},
		"quotes and backslashes": {v4 + trapOID + `a"b\c'd\"e` + "\n", want("192.0.2.7", `snmptrap,a"b\c'd\"e`)},
		"what a shell would run": {v4 + trapOID + "$(touch x)`touch y`;touch z|touch v&touch w>u\n",
			want("192.0.2.7", "snmptrap,$(touch x)`touch y`;touch z|touch v&touch w>u")},
		"what printf would expand": {v4 + trapOID + `%s%n\n\0` + "\n", want("192.0.2.7", `snmptrap,%s%n\n\0`)},
		"commas": {v4 + trapOID + ".1,3,customer:x\n",
			want("192.0.2.7", "snmptrap,.1_3_customer:x")},
		"control characters": {v4 + trapOID + "a\x01b\x1b[31m\tc\x7fd\u0085e\r\n",
			want("192.0.2.7", "snmptrap,a_b_[31m_c_d_e_")},
		"a NUL":                    {v4 + trapOID + "a\x00b\n", want("192.0.2.7", "snmptrap,a_b")},
		"bytes that are not UTF-8": {v4 + trapOID + "a\xffb\xe9\n", want("192.0.2.7", "snmptrap,a\ufffdb\ufffd")},
		"other writings": {v4 + trapOID + "caf\u00e9 \u96ea \U0001f418\n",
			want("192.0.2.7", "snmptrap,caf\u00e9 \u96ea \U0001f418")},
		"a very long trap OID": {v4 + trapOID + strings.Repeat("\u00e9,", 100_000) + "\n",
			want("192.0.2.7", "snmptrap,"+strings.Repeat("\u00e9_", 127)+"\u00e9")},
		"a very long value": {v4 + `.1.3.9 "` + strings.Repeat(`\"\\`, 100_000) + "\"\n" + agentAddress + "192.0.2.9\n",
			want("192.0.2.9", "snmptrap")},
		"a very long text": {v4 + `.1.3.9 "` + strings.Repeat("\n", 100_000) + "\"\n" + agentAddress + "192.0.2.9\n",
			want("192.0.2.9", "snmptrap")},
		"very many values": {v4 + strings.Repeat(".1.3.9 1\n", 6_000) + agentAddress + "192.0.2.9\n",
			want("192.0.2.9", "snmptrap")},
		"text over several lines": {v4 + ".1.3.9 \"a\n" + agentAddress + "192.0.2.6\n\\\"\n" +
			agentAddress + "192.0.2.7\"\n" + agentAddress + "192.0.2.9\n",
			want("192.0.2.9", "snmptrap")},
		"text that ends in escapes": {v4 + `.1.3.9 "a\\\"\\"` + "\n" + agentAddress + "192.0.2.9\n",
			want("192.0.2.9", "snmptrap")},
		"text that does not end": {v4 + trapOID + linkDown + "\n.1.3.9 \"a\n" + agentAddress + "192.0.2.9\n",
			want("192.0.2.7", "snmptrap,"+linkDown)},
		"an agent without address": {v4 + agentAddress + "0.0.0.0\n", want("192.0.2.7", "snmptrap")},
		"an agent that is a name":  {v4 + agentAddress + "web1.example.net\n", want("192.0.2.7", "snmptrap")},
		"an agent that is a filter": {v4 + agentAddress + "192.0.2.9 or net 0.0.0.0/0\n",
			want("192.0.2.7", "snmptrap")},
		"an agent of five numbers": {v4 + agentAddress + "192.0.2.9.1\n", want("192.0.2.7", "snmptrap")},
		"an agent of big numbers":  {v4 + agentAddress + "192.0.2.256\n", want("192.0.2.7", "snmptrap")},
		"an agent in octal":        {v4 + agentAddress + "192.0.2.011\n", want("192.0.2.7", "snmptrap")},
		"IPv6":                     {"host\nUDP/IPv6: [2001:db8::7]:3625\n", want("2001:db8::7", "snmptrap")},
		"IPv6 with scope":          {"<UNKNOWN>\nUDP/IPv6: [fe80::7%eth0]:3625\n", want("fe80::7", "snmptrap")},
		"IPv6 with both ends": {"host\nUDP/IPv6: [2001:db8::7]:3625->[2001:db8::1]:162\n",
			want("2001:db8::7", "snmptrap")},
		"TCP":                       {"host\nTCP: [192.0.2.7]:3625->[0.0.0.0]:0\n", want("192.0.2.7", "snmptrap")},
		"brackets around it all":    {"host\n[UDP: [192.0.2.7]:3625->[192.0.2.1]]\n", want("192.0.2.7", "snmptrap")},
		"no transport but an agent": {"host\n\n" + agentAddress + "192.0.2.9\n", want("192.0.2.9", "snmptrap")},

		"nothing":                         {"", nil},
		"one line":                        {"host\n", nil},
		"no address":                      {"host\nLocal IPC: abstract\n" + trapOID + linkDown + "\n", nil},
		"no address that is one":          {"host\nUDP: [web1]:3625->[192.0.2.1]:162\n", nil},
		"the address of nobody":           {"host\nUDP: [0.0.0.0]:3625->[192.0.2.1]:162\n", nil},
		"the address of nobody in IPv6":   {"host\nUDP/IPv6: [::]:3625\n", nil},
		"an address that is a word":       {"host\nUDP: [beef]:3625\n", nil},
		"an address with more behind it":  {"host\nUDP: [192.0.2.7 or ip]:3625\n", nil},
		"an address on a line of its own": {"host\n192.0.2.7\n", nil},
		"an address as the host's name":   {"UDP: [192.0.2.7]:3625\n<UNKNOWN>\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTrapHandler(t, server, `^tap[0-9]+\.$`, "eth0")
			err := h.run(test.trap)
			if (err == nil) != (test.want != nil) {
				t.Errorf("want success %t, got %v", test.want != nil, err)
			}
			if test.want == nil && !strings.Contains(h.said(), "trap from no address, nothing published") {
				t.Errorf("want a word on the address, got %q", h.said())
			}
			server.Do(t, "PUBLISH", "capture", "null") // comes after all that the handler published
			var want, got []map[string]any
			if test.want != nil {
				want = append(want, test.want)
			}
			for request := nextRequest(t, requests); request != nil; request = nextRequest(t, requests) {
				got = append(got, request)
			}
			if !reflect.DeepEqual(want, got) {
				t.Errorf("want %v, got %v", want, got)
			}
			if made, _ := os.ReadDir(h.dir); len(made) > 0 {
				t.Errorf("the trap made a file: %v", made)
			}
		})
	}
}

// TestTrapHandlerSettings sets the handler up in other ways.
func TestTrapHandlerSettings(t *testing.T) {
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t, "--user default on >open +@all &* ~*", "--user trap on >sesame +publish &capture")
	requests := server.Hear(t, "capture", redis.DialPassword("open"))
	login := []string{"REDISCLI_AUTH=sesame", "REDISCLI_OPTIONS=--user trap"}
	const trap = "host\nUDP: [192.0.2.7]:3625->[192.0.2.1]:162\n"

	for name, test := range map[string]struct {
		args []string
		env  []string
		want map[string]any
	}{
		"several interfaces": {[]string{"x", "eth0,eth1"}, nil,
			map[string]any{"interface": []any{"eth0", "eth1"}}},
		"interfaces as arguments": {[]string{"x", "eth0", "eth1,", "eth2"}, nil,
			map[string]any{"interface": []any{"eth0", "eth1", "eth2"}}},
		"expression with quotes": {[]string{`"\d' $(touch x)`, "eth0"}, nil,
			map[string]any{"nodere": `"\d' $(touch x)`}},
		"expression that is a flag": {[]string{"--help", "-x"}, nil,
			map[string]any{"nodere": "--help", "interface": "-x"}},
		"the seconds before the trap": {[]string{"x", "eth0"}, []string{"TRAP_LOOKBACK=10"},
			map[string]any{"lookback": 10.0, "timeout": 30.0}},
		"nothing before the trap": {[]string{"x", "eth0"}, []string{"TRAP_LOOKBACK=0"},
			map[string]any{"lookback": nil, "timeout": 30.0}},
		"length and number": {[]string{"x", "eth0"}, []string{"TRAP_SECONDS=5", "TRAP_PACKETS=7"},
			map[string]any{"timeout": 5.0, "packets": 7.0}},
		"a locale that is not UTF-8": {[]string{"caf\u00e9", "eth0"}, []string{"LC_ALL=C"},
			map[string]any{"nodere": "caf\u00e9"}},
		"environment as systemd's is": {[]string{"x", "eth0"}, []string{"HOME=", "LANG="},
			map[string]any{"nodere": "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTrapHandler(t, server, test.args...)
			h.env = append(append(h.env, login...), test.env...)
			if err := h.run(trap); err != nil {
				t.Fatal(err, h.said())
			}
			got := nextRequest(t, requests)
			for field, want := range test.want {
				if !reflect.DeepEqual(want, got[field]) {
					t.Errorf("%s: want %v, got %v", field, want, got[field])
				}
			}
		})
	}
}

// TestTrapHandlerSaysWhatIsWrong looks into standard error and the system's log
// for what the handler cannot do.
func TestTrapHandlerSaysWhatIsWrong(t *testing.T) {
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	guarded := testbed.StartRedis(t, "--requirepass", "sesame", "--user mute on >sesame +ping")
	hanging := testbed.StartRedis(t)
	hanging.Signal(t, syscall.SIGSTOP)
	gone := testbed.StartRedis(t)
	gone.Signal(t, syscall.SIGKILL)
	gone.Wait(t, time.Minute)
	good := []string{"x", "eth0"}

	for name, test := range map[string]struct {
		server *testbed.Redis
		args   []string
		env    []string
		lack   string // program that is not installed
		want   string
	}{
		"no arguments":    {server, nil, nil, "", "usage: pcapdaemon-trap NODERE INTERFACE"},
		"no interface":    {server, []string{"x"}, nil, "", "usage: pcapdaemon-trap NODERE INTERFACE"},
		"empty host":      {server, []string{"", "eth0"}, nil, "", "usage: pcapdaemon-trap NODERE INTERFACE"},
		"no jq":           {server, good, nil, "jq", "jq is missing"},
		"no redis-cli":    {server, good, nil, "redis-cli", "redis-cli is missing"},
		"no number":       {server, good, []string{"TRAP_SECONDS=1m"}, "", "LOOKBACK take numbers, not 1m, 0 and 0"},
		"no lookback":     {server, good, []string{"TRAP_LOOKBACK=-1"}, "", "LOOKBACK take numbers, not 30, 0 and -1"},
		"nobody listens":  {server, good, nil, "", "no capture host listens on capture"},
		"other channel":   {server, good, []string{"PCAPDAEMON_REDISCHANNEL=other"}, "", "no capture host listens on other"},
		"no Redis":        {gone, good, nil, "", "refused"},
		"Redis hangs":     {hanging, good, nil, "", "no answer within 3 s"},
		"no password":     {guarded, good, nil, "", "NOAUTH"},
		"wrong password":  {guarded, good, []string{"REDISCLI_AUTH=x"}, "", "WRONGPASS"},
		"right password":  {guarded, good, []string{"REDISCLI_AUTH=sesame"}, "", "no capture host listens"},
		"no right to ask": {guarded, good, []string{"REDISCLI_AUTH=sesame", "REDISCLI_OPTIONS=--user mute"}, "", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newTrapHandler(t, test.server, test.args...)
			h.env = append(h.env, test.env...)
			if test.lack != "" {
				h.without(test.lack)
			}
			err := h.run("host\nUDP: [192.0.2.7]:3625->[192.0.2.1]:162\n")
			if err == nil {
				t.Error("want a failure")
			}
			if got := h.said(); !strings.Contains(got, test.want) {
				t.Errorf("standard error: want %q, got %q", test.want, got)
			}
			const prefix = "-t pcapdaemon-event -p daemon.err -- snmptrap: "
			got, _ := os.ReadFile(h.syslog)
			if !strings.HasPrefix(string(got), prefix) || !strings.Contains(string(got), test.want) {
				t.Errorf("system's log: want %q, got %q", prefix+test.want, got)
			}
		})
	}
}

// nextRequest returns the next request that was published; nil stands for a
// message that is null.
func nextRequest(t testing.TB, requests <-chan []byte) map[string]any {
	t.Helper()
	select {
	case message := <-requests:
		var request map[string]any
		if err := json.Unmarshal(message, &request); err != nil {
			t.Fatalf("request %s: %v", message, err)
		}
		return request
	case <-time.After(10 * time.Second):
		t.Fatal("no request")
	}
	panic("unreachable")
}

// A trapHandler is the handler as snmptrapd would run it, but for the system's
// log, which is a file.
type trapHandler struct {
	t      testing.TB
	args   []string
	env    []string
	dir    string // current directory of the handler
	tools  string // directory of links to the programs that it finds
	syslog string
	errors *bytes.Buffer
}

// newTrapHandler returns a handler that publishes to the server.
func newTrapHandler(t testing.TB, server *testbed.Redis, args ...string) *trapHandler {
	t.Helper()
	h := &trapHandler{t: t, args: args, dir: t.TempDir(), tools: t.TempDir(),
		syslog: filepath.Join(t.TempDir(), "syslog"), errors: &bytes.Buffer{}}
	h.env = append(os.Environ(), "PATH="+h.tools, "SYSLOG="+h.syslog, "PCAPDAEMON_REDISPORT="+strconv.Itoa(server.Port),
		"TRIGGER_SETTINGS=")
	for _, tool := range []string{"jq", "redis-cli", "timeout", "tail", "head", "tr", "uname"} {
		path, err := exec.LookPath(tool)
		if err == nil {
			err = os.Symlink(path, filepath.Join(h.tools, tool))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const logger = "#!/bin/sh\necho \"$*\" >>\"$SYSLOG\"\n"
	if err := os.WriteFile(filepath.Join(h.tools, "logger"), []byte(logger), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// without takes a program away.
func (h *trapHandler) without(tool string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.tools, tool)); err != nil {
		h.t.Fatal(err)
	}
}

// run runs the handler with a trap on standard input, and fails if it takes so
// long that snmptrapd would lose other traps.
func (h *trapHandler) run(trap string) error {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, trapHandlerPath(h.t), h.args...)
	cmd.Dir, cmd.Env = h.dir, h.env
	cmd.Stdin, cmd.Stderr, cmd.WaitDelay = strings.NewReader(trap), h.errors, time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		h.t.Fatal("the handler takes too long")
	}
	return err
}

// said returns what the handler wrote to standard error.
func (h *trapHandler) said() string { return h.errors.String() }
