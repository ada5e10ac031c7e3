package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/client"
	"pcapdaemon/encrypt"
	"pcapdaemon/extcap"
	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

func TestConfigDefaults(t *testing.T) {
	c, err := parseConfig([]string{"-writelocal", "-destdir", t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	for name, pair := range map[string][2]any{
		"cshost": {"localhost", c.delivery.shark.host}, "csscheme": {"https", c.delivery.shark.scheme},
		"cstoken": {"xxxxxxx", c.delivery.shark.token}, "redischannel": {"capture", c.redis.requests},
		"redis":  {"127.0.0.1:6379", c.redis.server.String()},
		"upload": {false, c.delivery.upload}, "node": {host, c.node}, "maxpackets": {int64(100_000), c.limits.packets},
		"maxbytes": {int64(100 << 20), c.limits.bytes}, "defaulttimeout": {time.Minute, c.limits.defaultTimeout},
		"maxtimeout": {time.Hour, c.limits.timeout}, "maxcaptures": {int64(16), c.capacity.captures},
		"maxmemory": {int64(512 << 20), c.capacity.memory}, "buffersize": {int64(4 << 20), c.capacity.buffer},
		"resultchannel": {"capture-results", c.redis.results}, "csinsecure": {false, c.delivery.shark.insecure},
		"cstimeout": {5 * time.Minute, c.delivery.shark.timeout}, "draintimeout": {30 * time.Second, c.delivery.drainTimeout},
		"listen": {"", c.listen}, "loglevel": {"info", c.log.level}, "logformat": {"text", c.log.format},
	} {
		if pair[0] != pair[1] {
			t.Errorf("-%s: want %v, got %v", name, pair[0], pair[1])
		}
	}
	if c.limits.interfaces != nil {
		t.Errorf("-interfaces: want all, got %v", c.limits.interfaces)
	}
}

func TestConfigValues(t *testing.T) {
	t.Setenv("PCAPDAEMON_MAXPACKETS", "7")
	t.Setenv("PCAPDAEMON_MAXBYTES", "1GB")
	t.Setenv("PCAPDAEMON_WRITELOCAL", "true")
	t.Setenv("PCAPDAEMON_DESTDIR", t.TempDir())
	c, err := parseConfig([]string{"-maxbytes", "3KiB", "--interfaces=eth0, eth1", "-maxmemory", "2MB",
		"-redisurl", "rediss://me:secret@redis.example", "-cstoken", "abc"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"environment":        {int64(7), c.limits.packets},
		"command line wins":  {int64(3 << 10), c.limits.bytes},
		"decimal size":       {int64(2_000_000), c.capacity.memory},
		"list":               {"eth0+eth1", strings.Join(c.limits.interfaces, "+")},
		"address of the URL": {"redis.example:6379", c.redis.server.String()},
		"user of the URL":    {"me", c.redis.server.User},
		"password":           {"secret", c.redis.server.Password},
		"TLS":                {true, c.redis.server.TLS},
		"exposed secrets":    {"cstoken redisurl", strings.Join(c.exposed, " ")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: want %v, got %v", name, pair[0], pair[1])
		}
	}
}

// TestConfigFits: a default gives way to a maximum that was given; what was given itself is refused.
func TestConfigFits(t *testing.T) {
	local := []string{"-writelocal", "-destdir", t.TempDir()}
	c, err := parseConfig(append(local, "-maxtimeout", "30s", "-maxmemory", "16MiB"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"default timeout": {30 * time.Second, c.limits.defaultTimeout},
		"largest file":    {int64(16 << 20), c.limits.bytes},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: want %v, got %v", name, pair[0], pair[1])
		}
	}
}

// TestConfigMakesSpool: a spool that is missing is made in the directory that
// systemd has made for the daemon, and nowhere else.
func TestConfigMakesSpool(t *testing.T) {
	state := t.TempDir()
	t.Setenv("STATE_DIRECTORY", "/nowhere:"+state)
	for spool, taken := range map[string]bool{
		filepath.Join(state, "spool"):          true,
		filepath.Join(state, "more", "spool"):  false,
		filepath.Join(t.TempDir(), "mistyped"): false,
	} {
		_, err := parseConfig([]string{"-upload", "-cstoken", "abc", "-spooldir", spool}, io.Discard)
		if (err == nil) != taken || !taken && !mentions(err, "-spooldir takes a directory") {
			t.Errorf("%s: want it taken %v, got %v", spool, taken, err)
		}
		if _, err := os.Stat(spool); (err == nil) != taken {
			t.Errorf("%s: want it there %v, got %v", spool, taken, err)
		}
	}
}

// TestConfigOfDirectories: the spool is not the directory of captures, whose old ones are removed.
func TestConfigOfDirectories(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("spool", 0o700); err != nil {
		t.Fatal(err)
	}
	for spool, taken := range map[string]bool{dir: false, dir + "/": false, ".": false, "spool": true, t.TempDir(): true} {
		_, err := parseConfig([]string{"-upload", "-cstoken", "abc", "-destdir", dir, "-spooldir", spool}, io.Discard)
		if (err == nil) != taken || !taken && !mentions(err, "-spooldir takes another directory than -destdir") {
			t.Errorf("%s: want it taken %v, got %v", spool, taken, err)
		}
	}
}

// publicKey is one of age.
const publicKey = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

// TestConfigOfEncryption: keys are read at the start, and captures for CloudShark stay readable.
func TestConfigOfEncryption(t *testing.T) {
	const secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	local := []string{"-writelocal", "-destdir", t.TempDir()}
	asks := []string{"-destdir", t.TempDir(), "-publish", "node=any", "interface=lo"}
	for name, test := range map[string]struct {
		args []string
		want string // empty: taken
	}{
		"a key":               {append(local, "-encrypt", publicKey), ""},
		"two keys":            {append(local, "-encrypt", publicKey+", "+publicKey), ""},
		"no key":              {append(local, "-encrypt", "bob"), `-encrypt: "bob" is no public key`},
		"a secret key":        {append(local, "-encrypt", secret), "-encrypt: a secret key is no recipient"},
		"CloudShark":          {append(local, "-encrypt", publicKey, "-upload", "-cstoken", "abc"), "give no -upload"},
		"CloudShark alone":    {[]string{"-encrypt", publicKey, "-upload", "-cstoken", "abc"}, "give no -upload"},
		"no matter to askers": {append([]string{"-encrypt", "bob"}, asks...), ""},
		"an identity":         {append([]string{"-identityfile", key}, asks...), ""},
		"no identity":         {append([]string{"-identityfile", "/dev/null"}, asks...), "-identityfile /dev/null: no identities"},
		"no matter to hosts":  {append(local, "-identityfile", "/none"), ""},
	} {
		c, err := parseConfig(test.args, io.Discard)
		if (err == nil) != (test.want == "") || err != nil && (!mentions(err, test.want) || mentions(err, secret)) {
			t.Errorf("%s: want %q, got %v", name, test.want, err)
		}
		if c.limits.encrypted != c.delivery.encrypt {
			t.Errorf("%s: want limits to know of %v, got %v", name, c.delivery.encrypt, c.limits.encrypted)
		}
	}
}

// TestBoundsOfEncryption: a capture whose file has no room for its header is refused, and so is
// one that would be sent live.
func TestBoundsOfEncryption(t *testing.T) {
	to, err := encrypt.ParseRecipients(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	l := limits{packets: 10, bytes: 1 << 20, timeout: time.Minute, snap: 1000, returned: 1 << 20, encrypted: to}
	least := to.Size(capfile.HeaderSize)
	for name, test := range map[string]struct {
		request request
		want    string
	}{
		"room for a header":    {request{Bytes: least}, ""},
		"no room for a header": {request{Bytes: least - 1}, "bytes: captures are encrypted here"},
		"live":                 {request{Live: true}, "live: captures are encrypted here"},
		"returned":             {request{Return: true}, ""},
	} {
		test.request.Interfaces = []string{"lo"}
		_, err := l.bounds(test.request)
		if (err == nil) != (test.want == "") || err != nil && !mentions(err, test.want) {
			t.Errorf("%s: want %q, got %v", name, test.want, err)
		}
	}
}

// TestConfigRecordsOnce: an interface is recorded once, by however many names it is given.
func TestConfigRecordsOnce(t *testing.T) {
	c, err := parseConfig([]string{"-writelocal", "-destdir", t.TempDir(), "-interfaces", "wan=x0,x1",
		"-record", "wan,x0,x1,x0"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want, got := "x0 x1", strings.Join(c.record.interfaces, " "); want != got {
		t.Errorf("want %s recorded, got %s", want, got)
	}
	newTestDaemon(t, c, discard{}, quietLog())
}

// TestConfigWithoutResults: by flag or variable, empty or by the word.
func TestConfigWithoutResults(t *testing.T) {
	local := []string{"-writelocal", "-destdir", t.TempDir()}
	for name, test := range map[string]struct {
		args     []string
		variable string
		want     string
	}{
		"not set":         {nil, "", "capture-results"},
		"empty flag":      {[]string{"-resultchannel", ""}, "", ""},
		"flag":            {[]string{"-resultchannel", "none"}, "", ""},
		"variable":        {nil, "none", ""},
		"other channel":   {nil, "team", "team"},
		"flag goes first": {[]string{"-resultchannel", "x"}, "none", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PCAPDAEMON_RESULTCHANNEL", test.variable)
			c, err := parseConfig(append(local, test.args...), nil)
			if err != nil || c.redis.results != test.want {
				t.Errorf("want %q, got %q, %v", test.want, c.redis.results, err)
			}
		})
	}
}

// TestIsHost: what may stand in an address between the slashes, and no more.
func TestIsHost(t *testing.T) {
	for host, want := range map[string]bool{"cs": true, "cs:443": true, "10.0.0.1": true, "[::1]": true, "[::1]:8443": true,
		"": false, ":443": false, "::1": false, "cs:0": false, "cs:65536": false, "cs:https": false, "me@cs": false, "cs/x": false} {
		if got := isHost(host); got != want {
			t.Errorf("%q: want %v, got %v", host, want, got)
		}
	}
}

// TestConfigRedisNode: names and addresses, as people write them, for Wireshark as well.
func TestConfigRedisNode(t *testing.T) {
	for node, want := range map[string]string{
		"h": "h:6379", "::1": "[::1]:6379", "[::1]": "[::1]:6379", "10.0.0.1": "10.0.0.1:6379",
	} {
		c, err := parseConfig([]string{"-publish", "{}", "-redisnode", node}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.redis.server.String(); got != want {
			t.Errorf("%s: want %s, got %s", node, want, got)
		}
		t.Setenv("PCAPDAEMON_REDISNODE", node)
		all := extcap.Settings{RedisURL: "redis://" + want, Requests: "capture", Results: "capture-results"}
		if _, got, err := parseVariables(); got != all || err != nil {
			t.Errorf("%s: want %+v, got %+v, %v", node, all, got, err)
		}
	}
}

// TestVariablesNameTheServer: what Wireshark starts finds it in the environment, as people write it there.
func TestVariablesNameTheServer(t *testing.T) {
	for node, want := range map[string]string{
		"": "redis://127.0.0.1:6380", "h": "redis://h:6380", "::1": "redis://[::1]:6380", "[::1]": "redis://[::1]:6380",
	} {
		t.Setenv("PCAPDAEMON_REDISNODE", node)
		t.Setenv("PCAPDAEMON_REDISPORT", "6380")
		if _, got, err := parseVariables(); got.RedisURL != want || err != nil {
			t.Errorf("%s: want %s, got %s, %v", node, want, got.RedisURL, err)
		}
	}
}

// TestClientTakesFlags: what a client knows of hosts is what its own flags say.
func TestClientTakesFlags(t *testing.T) {
	dir := t.TempDir()
	c, err := parseConfig([]string{"-publish", "node=a", "-destdir", dir, "-redisnode", "h", "-redischannel", "ask",
		"-resultchannel", "answers", "-maxtimeout", "7m", "-cstimeout", "8m", "-draintimeout", "9m", "-defaulttimeout", "1m"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := clientOptions(c)
	got := []any{o.Server.String(), o.Requests, o.Results, o.Dir, o.Name, o.Capture, o.Delivery}
	want := []any{"h:6379", "ask", "answers", dir, "-publish", 7 * time.Minute, 8 * time.Minute}
	if !slices.Equal(want, got) {
		t.Errorf("want %v, got %v", want, got)
	}
}

// TestClientKnowsTheRequest: all that a client judges answers by.
func TestClientKnowsTheRequest(t *testing.T) {
	for text, want := range map[string]client.Asked{
		`{"nodere":"^a","interface":["eth0","lo"],"id":"x","by":"me","timeout":1,"progress":2,"packets":3,"bytes":400}`: {ID: "x",
			By: "me", NodeRE: "^a", Interfaces: []string{"eth0", "lo"}, Timeout: 1, Progress: 2, Packets: 3, Bytes: 400},
		`{"node":"a","stop":"x","by":"me"}`:       {By: "me", Node: "a", Stop: "x"},
		`{"node":"any","rollcall":true,"id":"x"}`: {ID: "x", Node: "any", RollCall: true},
	} {
		got, err := judgeForClient([]byte(text))
		if want.Stop != "" {
			got.ID = "" // is made up
		}
		if err != nil || !reflect.DeepEqual(want, got) {
			t.Errorf("%s: want %+v, got %+v, %v", text, want, got, err)
		}
	}
}

func TestConfigReadsFiles(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(" 0123abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig([]string{"-upload", "-cstokenfile", token}, nil)
	if err != nil || c.delivery.shark.token != "0123abc" || len(c.exposed) > 0 {
		t.Errorf("want the token of the file and nothing exposed, got %q, %v, %v", c.delivery.shark.token, c.exposed, err)
	}
}

// TestConfigHosts: the endpoint may be asked by the names of the host and of -listen.
func TestConfigHosts(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	c := config{node: "web1", listen: "web1.example:9100"}
	for _, want := range []string{host, "web1", "web1.example"} {
		if got := c.hosts(); !slices.Contains(got, want) {
			t.Errorf("want %s, got %q", want, got)
		}
	}
}

// TestConfigFindsToken: the token is what flags say, else what systemd keeps among the daemon's credentials.
func TestConfigFindsToken(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	file := filepath.Join(t.TempDir(), "token")
	for path, token := range map[string]string{filepath.Join(dir, "cstoken"): "kept", file: "filed"} {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, args := range map[string][]string{
		"kept": nil, "filed": {"-cstokenfile", file}, "given": {"-cstoken", "given"},
	} {
		c, err := parseConfig(append([]string{"-upload"}, args...), io.Discard)
		if got := c.delivery.shark.token; got != want || err != nil {
			t.Errorf("want %s, got %s, %v", want, got, err)
		}
	}
}

// TestConfigTakesWords: a request may be given in words behind the flags.
func TestConfigTakesWords(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		mode mode
		want string
	}{
		"publish": {[]string{"-destdir", dir, "-publish", "node=a", "timeout=5"}, publishing,
			`{"node":"a","timeout":5}`},
		"publish, flags": {[]string{"-publish", "node=a", "-destdir", dir, "timeout=5"}, publishing,
			`{"node":"a","timeout":5}`},
		"request": {[]string{"-writelocal", "-destdir", dir, "-request", "interface=lo"}, requesting,
			`{"interface":"lo"}`},
		"JSON":              {[]string{"-publish", `{"node":"a"}`}, publishing, `{"node":"a"}`},
		"roll call":         {[]string{"-rollcall"}, rollCalling, `{"node":"any","rollcall":true}`},
		"roll call of some": {[]string{"-rollcall", "nodere=^web"}, rollCalling, `{"nodere":"^web","rollcall":true}`},
	} {
		c, err := parseConfig(test.args, nil)
		if c.mode != test.mode || c.request != test.want || err != nil {
			t.Errorf("%s: want mode %v and %s, got %v and %s, %v", name, test.mode, test.want, c.mode, c.request, err)
		}
	}
}

// TestConfigDoesOneThing: a flag that asks for one does not silently win over another.
func TestConfigDoesOneThing(t *testing.T) {
	asks := map[string][]string{"-request": {"-request", "{}"}, "-publish": {"-publish", "{}"}, "-rollcall": {"-rollcall"},
		"-fetch": {"-fetch", "r1"}}
	for one, first := range asks {
		for other, second := range asks {
			args := slices.Concat([]string{"-writelocal", "-destdir", t.TempDir()}, first, second)
			if _, err := parseConfig(args, nil); one != other && (!mentions(err, one) || !mentions(err, other)) {
				t.Errorf("%s and %s: want both refused, got %v", one, other, err)
			}
		}
	}
}

// TestPublishWrongRequest: what the client can judge itself is wrong usage,
// and nobody is asked.
func TestPublishWrongRequest(t *testing.T) {
	address := fmt.Sprint("redis://127.0.0.1:", testbed.FreePort(t))
	for name, test := range map[string]struct{ request, want string }{
		"no JSON":             {"capture", "-publish"},
		"null":                {"null", "-publish"},
		"no node":             {`{"interface":"eth0"}`, "node"},
		"a number as id":      {`{"node":"a","interface":"eth0","id":1}`, "id"},
		"an unknown field":    {`{"node":"a","interface":"eth0","bfp":"tcp"}`, "bfp"},
		"a wrong type":        {`{"node":"a","interface":"eth0","timeout":"5"}`, "timeout"},
		"a pattern that ends": {`{"nodere":"web(","interface":"eth0"}`, "nodere"},
		"data after it":       {`{"node":"a","interface":"eth0"}{}`, "after"},
		"too long":            {`{"node":"a","tags":"` + strings.Repeat("x", maxMessage) + `"}`, "message of 65558 bytes"},
	} {
		for _, wait := range []string{"-nowait=false", "-nowait"} {
			out, errs, code := runAlone(t, test.request, "-publish", "-", "-redisurl", address, wait)
			if lines := len(testbed.ReadLines(errs)); code != exitUsage || out != "" || lines != 1 {
				t.Errorf("%s, %s: want exit code %d and one line, got %d, %s%s", name, wait, exitUsage, code, out, errs)
			}
			if !strings.Contains(errs, test.want) {
				t.Errorf("%s, %s: want %q in the line, got %s", name, wait, test.want, errs)
			}
		}
	}
}

// TestPacketsOfNobody: the file of -w goes away again if nobody could be asked.
func TestPacketsOfNobody(t *testing.T) {
	for outcome, stays := range map[client.Outcome]bool{client.Done: true, client.Failed: true, client.Unanswered: true,
		client.Misused: false, client.Unpublished: false} {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		if code := closePackets(file, file.Name(), outcome, io.Discard); code != exitCode(outcome) {
			t.Errorf("%v: want exit code %d, got %d", outcome, exitCode(outcome), code)
		}
		if _, err := os.Stat(file.Name()); (err == nil) != stays {
			t.Errorf("%v: want the file there %v, got %v", outcome, stays, err)
		}
	}
}

// TestComplaintIsWhole: however long what was given is, the reason stands behind it.
func TestComplaintIsWhole(t *testing.T) {
	_, errs, code := runAlone(t, "", "-writelocal", "-destdir", "/no\n"+strings.Repeat("x", 300))
	if code != exitUsage || !strings.HasSuffix(errs, "x: file name too long\n") || strings.Count(errs, "\n") != 1 {
		t.Errorf("want exit code %d and the reason in one line, got %d, %q", exitUsage, code, errs)
	}
}

// runAlone runs the program without its binary and returns what it printed and its exit code.
func runAlone(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, file)
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), string(text), code
}

// TestDirectoryIsRelative: a relative -destdir is the one of the start.
func TestDirectoryIsRelative(t *testing.T) {
	parent := t.TempDir()
	t.Chdir(parent)
	if err := os.Mkdir("captures", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-writelocal"}, {"-fetch", "a"}, {"-publish", "node=a"}} {
		c, err := parseConfig(append([]string{"-destdir", "captures"}, args...), io.Discard)
		if want := filepath.Join(parent, "captures"); err != nil || c.delivery.dir != want {
			t.Errorf("%s: want %s, got %s, %v", args[0], want, c.delivery.dir, err)
		}
	}
}

func TestLimits(t *testing.T) {
	l := limits{snap: tap.MaxSnap, packets: 1000, bytes: 5000, timeout: 90 * time.Second,
		defaultTimeout: 1500 * time.Millisecond, interfaces: []string{"eth0"}}
	eth0 := []string{"eth0"}
	for name, test := range map[string]struct {
		request request
		want    bounds
		culprit string
	}{
		"nothing asked": {request{Interfaces: eth0}, bounds{1000, 5000, 1500 * time.Millisecond}, ""},
		"all asked": {request{Interfaces: eth0, Packets: 1, Bytes: 24, Timeout: 2, Snap: 262144},
			bounds{1, 24, 2 * time.Second}, ""},
		"all at the limit": {request{Interfaces: eth0, Packets: 1000, Bytes: 5000, Timeout: 90},
			bounds{1000, 5000, 90 * time.Second}, ""},
		"no interface":     {request{}, bounds{}, "interface"},
		"too many packets": {request{Interfaces: eth0, Packets: 1001}, bounds{}, "packets: 1001 is above -maxpackets 1000"},
		"too many bytes":   {request{Interfaces: eth0, Bytes: 5001}, bounds{}, "-maxbytes"},
		"too long":         {request{Interfaces: eth0, Timeout: 91}, bounds{}, "timeout: 91 s is above -maxtimeout 1m30s"},
		"longer than time": {request{Interfaces: eth0, Timeout: 1 << 62}, bounds{}, "-maxtimeout"},
		"snap too large":   {request{Interfaces: eth0, Snap: 262145}, bounds{}, "snap"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := l.bounds(test.request)
			if mentions(err, test.culprit) != (test.culprit != "") {
				t.Errorf("want %q in the error, got %v", test.culprit, err)
			}
			if got != test.want {
				t.Errorf("want %+v, got %+v", test.want, got)
			}
		})
	}
}

// TestLimitsDevice: names are resolved, and what is not in the list is refused.
func TestLimitsDevice(t *testing.T) {
	var l limits
	if err := l.nameInterfaces("wan=eth0, eth1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"eth0": "eth0", "wan": "eth0", "eth1": "eth1", "eth2": "", "lan": "", "any": "",
	} {
		got, err := l.device(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: want %q, got %q, %v", name, want, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "is not in -interfaces; those that may be captured on: wan, eth1") {
			t.Errorf("%s: want those of -interfaces in the error, got %v", name, err)
		}
	}
	if got := l.alias("eth0") + l.alias("eth1"); got != "wan" {
		t.Errorf("want the second name of eth0 alone, got %q", got)
	}
	if got, err := (limits{}).device("anything0"); got != "anything0" || err != nil {
		t.Errorf("without a list: want every name taken, got %q, %v", got, err)
	}
}

// TestLimitsAlternativeNames: an interface is allowed by any of its names, and is
// itself whichever one is asked for.
func TestLimitsAlternativeNames(t *testing.T) {
	ns := testbed.NewNamespace(t, "altnames")
	ns.IP(t, "link", "add", "va", "type", "veth", "peer", "name", "vb")
	for _, name := range []string{"x-alt", "x-alternative-name"} {
		ns.IP(t, "link", "property", "add", "dev", "va", "altname", name)
	}
	ns.Do(t, func() {
		for _, list := range []string{"va", "x-alt", "x-alternative-name", "wan=x-alt"} {
			var l limits
			if err := l.nameInterfaces(list); err != nil {
				t.Error(err)
			}
			for name, want := range map[string]string{"va": "va", "x-alt": "va", "x-alternative-name": "va", "vb": "", "x": ""} {
				if got, err := l.device(name); got != want || (err == nil) != (want != "") {
					t.Errorf("%s of %s: want %q, got %q, %v", name, list, want, got, err)
				}
			}
			if found := l.capturable(); len(found) != 1 || found[0].Name != "va" {
				t.Errorf("%s: want va alone, got %v", list, found)
			}
			c, err := parseConfig([]string{"-maxreturn", "1MiB", "-interfaces", list, "-record", "x-alternative-name,x-alt,va"},
				io.Discard)
			if got := strings.Join(c.record.interfaces, " "); got != "va" || err != nil {
				t.Errorf("%s: want va recorded once, got %q, %v", list, got, err)
			}
		}
	})
}

// TestCapturableAny: what stands for any interface is one if it is named.
func TestCapturableAny(t *testing.T) {
	for _, list := range []string{"any", "wan=any", "nothing,any"} {
		var l limits
		if err := l.nameInterfaces(list); err != nil {
			t.Error(err)
		}
		if found := l.capturable(); len(found) != 1 || found[0].Name != "any" || found[0].Flags&net.FlagUp == 0 {
			t.Errorf("%s: want any alone, and up, got %v", list, found)
		}
	}
	l := limits{recorded: []string{"any"}}
	if found := l.capturable(); len(found) < 2 || found[len(found)-1].Name != "any" {
		t.Errorf("want any beside the others, got %v", found)
	}
}

// TestNameInterfaces: what cannot be meant is refused.
func TestNameInterfaces(t *testing.T) {
	for _, list := range []string{
		"a,,b", "x\xff", "wan=x\xff", "wan=", "=eth0", "a=b=c", "any=eth0", "default=eth0", "a=eth0,a=eth1", "a=eth0,a",
	} {
		if err := new(limits).nameInterfaces(list); err == nil {
			t.Errorf("%s: want it refused", list)
		}
	}
}

// mentions reports whether there is an error with these words in it.
func mentions(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
