package tap

import (
	"context"
	"strings"
	"testing"
)

func TestCheckSyntax(t *testing.T) {
	for name, test := range map[string]struct{ filter, want string }{
		"empty":                       {"", ""},
		"plain":                       {"udp port 53", ""},
		"VLAN":                        {"vlan 7 and udp", ""},
		"for other links":             {"type mgt", ""},
		"for an open interface":       {"inbound and udp", ""},
		"for the interface any":       {"ifindex 3", ""},
		"for a known netmask":         {"ip broadcast", ""},
		"a name of another network":   {"host no-such-host.invalid", ""},
		"another network's name":      {"net no-such-net", ""},
		"no filter":                   {"udp porrt 53", "syntax error"},
		"unbalanced":                  {"(udp", "syntax error"},
		"a port that does not exist":  {"port 70000", "70000"},
		"what no packet can be":       {"less 10 and greater 20 and ip6 and arp", "rejects all"},
		"control characters":          {"udp\nport 53", "control characters"},
		"a NUL, where libpcap's ends": {"udp\x00", "control characters"},
		"another's closing bracket":   {"udp) or (tcp", "syntax error"},
	} {
		err := newCompiler(t).CheckSyntax(t.Context(), test.filter)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: want no error, got %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: want %q in the error, got %v", name, test.want, err)
		}
	}
}

func TestCheckSyntaxGivesUp(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	c := newCompiler(t)
	c.ask = func(question, chan<- answer) {} // is never done
	if err := c.CheckSyntax(ended, "udp porrt 53"); err != nil {
		t.Errorf("want no error for what is not known, got %v", err)
	}
}
