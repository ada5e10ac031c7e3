package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// An eventRun is one way to run pcapdaemon-event, which all pieces but two publish with.
type eventRun struct {
	server *testbed.Redis
	env    []string
}

// eventRuns returns the ways: with redis-cli, and with the program.
func eventRuns(t testing.TB, server *testbed.Redis) map[string]eventRun {
	t.Helper()
	return map[string]eventRun{
		"redis-cli":  {server, withRedisCLI(t, server)},
		"pcapdaemon": {server, withProgram(t, server)},
	}
}

// TestEventOfARedisCLI: settings that redis-cli alone has say that it is to publish, wherever pcapdaemon is.
func TestEventOfARedisCLI(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t, "--requirepass", "sesame")
	server.Password = "sesame"
	requests := server.Hear(t, "capture", redis.DialPassword("sesame"))
	for _, setting := range []string{"REDISCLI_AUTH=sesame", "REDISCLI_OPTIONS=-a sesame --no-auth-warning"} {
		run := eventRun{server, append(withProgram(t, server), setting)}
		if said, err := run.run(t, "x", "tag", "web1"); err != nil {
			t.Fatalf("%s: %v: %s", setting, err, said)
		}
		heardRequest(t, requests, 10*time.Second).check(t, requested{"node": "web1"})
	}
}

// run runs it and returns what it says.
func (r eventRun) run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(triggerPath(t, "pcapdaemon-event"), args...)
	cmd.Dir, cmd.Env = t.TempDir(), r.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if made, _ := os.ReadDir(cmd.Dir); len(made) > 0 {
		t.Errorf("the event made a file: %v", made)
	}
	return out.String(), err
}

func TestEvent(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	type args = []string
	base := args{"-n", `^tap[0-9]+\.$`, "x", "tag"}
	plain := requested{"nodere": `^tap[0-9]+\.$`, "node": nil, "interface": "default", "tags": "x,tag",
		"timeout": 30.0,
		"packets": 0.0, "bpf": nil, "lookback": nil, "by": "x@" + hostName(t)}
	to := func(field, value string) requested { return requested{field: value} }
	for name, test := range map[string]struct {
		args args
		want requested
	}{
		"neither host nor address": {base, plain},
		"nothing named":            {append(base, "", ""), plain},
		"a host":                   {append(base, "web1"), requested{"node": "web1", "nodere": nil, "bpf": nil}},
		"a host with its port":     {append(base, "web1.example.net:9100"), to("node", "web1.example.net")},
		"an address":               {append(base, "192.0.2.7"), requested{"node": nil, "bpf": "host 192.0.2.7"}},
		"an address with its port": {append(base, "192.0.2.7:9100"), to("bpf", "host 192.0.2.7")},
		"IPv6":                     {append(base, "2001:db8::7"), to("bpf", "host 2001:db8::7")},
		"IPv6 in full":             {append(base, "1:2:3:4:5:6:7:8"), to("bpf", "host 1:2:3:4:5:6:7:8")},
		"IPv6 with its port":       {append(base, "[2001:db8::7]:9100"), to("bpf", "host 2001:db8::7")},
		"IPv6 in brackets":         {append(base, "[::1]"), to("bpf", "host ::1")},
		"host and address": {append(base, "web1", "192.0.2.7"),
			requested{"node": "web1", "nodere": nil, "bpf": "host 192.0.2.7"}},
		"address and host": {append(base, "192.0.2.7", "web1"),
			requested{"node": "web1", "bpf": "host 192.0.2.7"}},
		"a host, no pattern": {args{"x", "tag", "web1"}, to("node", "web1")},
		"no tag":             {args{"-n", "a", "x", ""}, to("tags", "x")},
		"several interfaces": {args{"-i", "eth0,,eth1,", "-n", "a", "x", ""},
			requested{"interface": []any{"eth0", "eth1"}}},
		"length and look back": {args{"-s", "5", "-p", "7", "-l", "10", "-n", "a", "x", ""},
			requested{"timeout": 5.0, "packets": 7.0, "lookback": 10.0}},
		"a pattern with quotes": {args{"-n", `"\d' $(touch x)=y`, "x", ""}, to("nodere", `"\d' $(touch x)=y`)},
		"commas in a tag":       {args{"-n", "a", "x", "b,customer:c"}, to("tags", "x,b_customer:c")},
		"newlines in a tag":     {args{"-n", "a", "x", "b\nc\r\n"}, to("tags", "x,b_c__")},
		"an equals sign":        {args{"-n", "a", "x", "b=c=d"}, to("tags", "x,b=c=d")},
		"a dash":                {args{"-n", "a", "x", "-h"}, to("tags", "x,-h")},

		"addresses alone": {args{"-a", "-n", "a", "x", "", "192.0.2.7"},
			requested{"nodere": "a", "bpf": "host 192.0.2.7"}},
		"addresses, not a host":   {args{"-a", "-n", "a", "x", "", "web1"}, nil},
		"no pattern":              {args{"x", "tag"}, nil},
		"no pattern, address":     {args{"x", "tag", "192.0.2.7"}, nil},
		"no source":               {args{"-n", "a"}, nil},
		"a number that is none":   {args{"-s", "1m", "-n", "a", "x", ""}, nil},
		"an unknown option":       {args{"-x", "-n", "a", "x", ""}, nil},
		"the address of nobody":   {append(base, "0.0.0.0:1 "), nil},
		"nobody, addresses alone": {args{"-a", "-n", "a", "x", "", "0.0.0.0"}, nil},
		"a very long number":      {args{"-s", "1234567890", "-n", "a", "x", ""}, nil},
		"brackets, then words":    {append(base, "[2001:db8::7]:http"), nil},
		"five numbers":            {append(base, "1.2.3.4:5:"), nil},
		"a range":                 {append(base, "192.0.2.0/24"), nil},
		"a long name":             {append(base, strings.Repeat("x", 256)), nil},
		"dots":                    {append(base, "..."), nil},
		"a flag":                  {append(base, "-w"), nil},
		"IPv6 of nine":            {append(base, "1:2:3:4:5:6:7:8:9"), nil},
		"IPv6 of three":           {append(base, "12:34:56"), nil},
		"IPv6, two gaps":          {append(base, "1::2::3"), nil},
		"IPv6, three colons":      {append(base, "1:::3"), nil},
		"IPv6, long group":        {append(base, "12345::1"), nil},
		"IPv6, a filter":          {append(base, "::1 or ip"), nil},
		"brackets, a filter":      {append(base, "[::1 or ip]:80"), nil},
		"an address, newline":     {append(base, "192.0.2.7\nor ip"), nil},
	} {
		for way, run := range eventRuns(t, server) {
			t.Run(name+"/"+way, func(t *testing.T) {
				said, err := run.run(t, test.args...)
				if (err == nil) != (test.want != nil) {
					t.Errorf("want success %t, got %v: %s", test.want != nil, err, said)
				}
				if test.want != nil {
					heardRequest(t, requests, 10*time.Second).check(t, test.want)
				}
				server.Do(t, "PUBLISH", "capture", `{"last":true}`)
				heardRequest(t, requests, 10*time.Second).checkOnly(t, requested{"last": true})
			})
		}
	}
	for name, text := range hostileTexts {
		if text == "" {
			continue
		}
		for way, run := range eventRuns(t, server) {
			t.Run("hostile/"+name+"/"+way, func(t *testing.T) {
				if said, err := run.run(t, append(base, text)...); err == nil || len(said) > 2000 {
					t.Errorf("as what it names: want a refusal, got %v: %s", err, said)
				}
				if said, err := run.run(t, "-n", "a", "x", text); err != nil {
					t.Errorf("as a tag: %v: %s", err, said)
				}
				r := heardRequest(t, requests, 10*time.Second)
				r.check(t, requested{"nodere": "a", "bpf": nil})
				if tags, _ := r["tags"].(string); !strings.HasPrefix(tags, "x,"+text[:1]) || len(tags) > 1100 {
					t.Errorf("want %.20q in the tags, got %q", text, tags)
				}
			})
		}
	}
}
