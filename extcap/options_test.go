package extcap

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pcapdaemon/pubsub"
)

func TestInvoked(t *testing.T) {
	for line, want := range map[string]bool{
		"--extcap-interfaces --extcap-version=4.0":                 true,
		"--extcap-config --extcap-interface pcapdaemon":            true,
		"--capture --extcap-interface pcapdaemon --fifo /tmp/fifo": true,
		"-upload -cshost localhost":                                false,
		"-publish node=web1 interface=lo tags=--capture":           false,
		"": false,
	} {
		if got := Invoked(strings.Fields(line)); got != want {
			t.Errorf("%q: want %v, got %v", line, want, got)
		}
	}
}

// ours are the arguments that name the interface.
var ours = []string{"--extcap-interface", "pcapdaemon"}

func TestRequest(t *testing.T) {
	for line, want := range map[string]map[string]any{
		"--nodere any":                  {"node": "any", "interface": "default", "timeout": 600.},
		"--nodere ^web --timeout 0":     {"nodere": "^web", "interface": "default"},
		"--nodere ^web --node web1":     {"node": "web1", "interface": "default", "timeout": 600.},
		"--nodere any --interface eth0": {"node": "any", "interface": "eth0", "timeout": 600.},
		"--nodere any --interface eth0,lo --timeout 7": {"node": "any", "interface": []any{"eth0", "lo"},
			"timeout": 7.},
		"--nodere any --interface eth0,lo --listed wan --timeout 7": {"node": "any", "interface": "wan", "timeout": 7.},
		"--nodere any --lookback 30 --packets 100 --extcap-capture-filter udp": {"node": "any", "interface": "default",
			"timeout": 600., "lookback": 30., "packets": 100., "bpf": "udp"},
	} {
		o, err := parse(slices.Concat(ours, strings.Fields(line)), Settings{})
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		request, err := o.request()
		var got map[string]any
		if err == nil {
			err = json.Unmarshal(request, &got)
		}
		if err != nil || !reflect.DeepEqual(want, got) {
			t.Errorf("%s: want %v, got %v (%v)", line, want, got, err)
		}
	}
}

// TestRequestOfSeveralInterfaces: spaces that are typed between them are none of their names.
func TestRequestOfSeveralInterfaces(t *testing.T) {
	request, err := options{hosts: "any", iface: "eth0, lo ,wan"}.request()
	if want := `"interface":["eth0","lo","wan"]`; err != nil || !strings.Contains(string(request), want) {
		t.Errorf("want %s, got %s, %v", want, request, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"--extcap-config":                                 "takes pcapdaemon",
		"--extcap-config --extcap-interface eth0":         `"eth0"`,
		"--capture --extcap-interface pcapdaemon":         "--fifo",
		"--capture --extcap-interface pcapdaemon --wings": "wings",
		"--extcap-interface pcapdaemon --lookback soon":   "lookback",
		"--extcap-interface pcapdaemon words":             `"words"`,
	} {
		if _, err := parse(strings.Fields(line), Settings{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %s in the error, got %v", line, want, err)
		}
	}
	o, err := parse(ours, Settings{})
	if err == nil {
		_, err = o.request()
	}
	if err == nil || !strings.Contains(err.Error(), "no hosts") {
		t.Errorf("want to be told that hosts are to be chosen, got %v", err)
	}
}

func TestServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("of file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const variable = "redis://ops:secret@h1"
	for name, test := range map[string]struct {
		args           []string
		want, variable string
	}{
		"nothing typed":               {nil, "redis://ops:secret@h1:6379", ""},
		"a password for another one":  {[]string{"--password", "x"}, "redis://:x@h1:6379", "redis://secret@h1"},
		"the address as it is shown":  {[]string{"--redisurl", "redis://h1:6379"}, "redis://ops:secret@h1:6379", ""},
		"another server":              {[]string{"--redisurl", "redis://h2"}, "redis://h2:6379", ""},
		"another password":            {[]string{"--password", "x"}, "redis://ops:x@h1:6379", ""},
		"another server and password": {[]string{"--redisurl", "redis://h2", "--password", "x"}, "redis://:x@h2:6379", ""},
		"a user, and a password":      {[]string{"--redisurl", "redis://me@h2", "--password", "x"}, "redis://me:x@h2:6379", ""},
		"a password in a file":        {[]string{"--redisurl", "redis://me@h2", "--passwordfile", file}, "redis://me:of%20file@h2:6379", ""},
		"a password, and a file":      {[]string{"--password", "x", "--passwordfile", file}, "redis://ops:x@h1:6379", ""},
		"all in the address":          {[]string{"--redisurl", "redis://me:y@h2"}, "redis://me:y@h2:6379", ""},
	} {
		o, err := parse(slices.Concat(ours, test.args), Settings{RedisURL: cmp.Or(test.variable, variable)})
		if err != nil {
			t.Fatal(err)
		}
		s, err := o.server(Program{Server: func(address, _ string) (*pubsub.Server, error) { return pubsub.ParseURL(address) }})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := s.URL(true); got != test.want {
			t.Errorf("%s: want %s, got %s", name, test.want, got)
		}
	}
}

// TestServerHasItsAuthorities: those of the environment, unless others are chosen.
func TestServerHasItsAuthorities(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{{nil, "/ca.pem"}, {[]string{"--rediscafile", "/other.pem"}, "/other.pem"}} {
		o, err := parse(slices.Concat(ours, test.args), Settings{RedisURL: "rediss://h1", CAFile: "/ca.pem"})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = o.server(Program{Server: func(_, file string) (*pubsub.Server, error) {
			if file != test.want {
				t.Errorf("want %s, got %s", test.want, file)
			}
			return &pubsub.Server{}, nil
		}})
	}
}

func TestWithout(t *testing.T) {
	args := []string{"--capture", "--password", "--x", "--fifo", "password", "-redisurl=redis://a:b@c", "--redischannel", "c"}
	want := []string{"--capture", "--fifo", "password", "--redischannel", "c"}
	if got := without(args, "password", "redisurl"); !slices.Equal(want, got) {
		t.Errorf("want %q, got %q", want, got)
	}
}
