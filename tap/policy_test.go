package tap

import (
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestPolicy: a packet has to pass policy and filter, whatever both say.
func TestPolicy(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	stream := policy(testbed.StartStream(t, 10*time.Millisecond).Filter())
	for name, test := range map[string]struct {
		policy     policy
		expression string
		want       int
	}{
		"both let it pass":           {"udp", string(stream), 1},
		"a policy alone":             {stream, "", 1},
		"a policy alone, of others":  {"udp src port 1", "", 0},
		"the policy does not":        {"udp src port 1", string(stream), 0},
		"the filter does not":        {stream, "udp src port 1", 0},
		"they contradict each other": {"udp", "arp", 0},
		"each has two ways":          {"arp or " + stream, "arp or " + string(stream), 1},
		"one of the ways is closed":  {"tcp or arp", "arp or " + string(stream), 0},
		"a tag behind the policy":    {"udp", "vlan", 0},
	} {
		t.Run(name, func(t *testing.T) {
			live, err := listen(question{iface: "lo", snap: MaxSnap, policy: test.policy, expression: test.expression})
			if err != nil {
				t.Fatal(err)
			}
			defer live.Close()
			if got := take(t, live, 1, 400*time.Millisecond); len(got) != test.want {
				t.Errorf("want %d packets, got %d", test.want, len(got))
			}
		})
	}
}

// TestPolicyRefuses: nothing gets out of its brackets, and who is to blame is said.
func TestPolicyRefuses(t *testing.T) {
	for name, test := range map[string]struct{ policy, expression, culprit string }{
		"out of the brackets":          {"not port 22", "tcp) or (udp", `compile filter "tcp) or (udp"`},
		"brackets that stay open":      {"not port 22", "(tcp", `compile filter "(tcp"`},
		"brackets that are none":       {"not port 22", ") or (", "compile filter"},
		"a comment":                    {"not port 22", "tcp # ", "compile filter"},
		"a backslash at the end":       {"not port 22", `tcp \`, "compile filter"},
		"a quotation mark":             {"not port 22", `tcp "`, "compile filter"},
		"a new line":                   {"not port 22", "tcp\n) or (udp", "control character"},
		"a NUL":                        {"not port 22", "tcp\x00", "control character"},
		"a policy with a NUL":          {"not port 22\x00", "tcp", "control character"},
		"a policy that is wrong":       {"not prot 22", "tcp", `policy "not prot 22"`},
		"a policy that is wrong alone": {"not prot 22", "", `policy "not prot 22"`},
		"a policy for other links":     {"type mgt", "tcp", `policy "type mgt"`},
		"a filter that nothing passes": {"not port 22", "arp and ip", rejectsAll},
		"a policy that nothing passes": {"arp and ip", "", `policy "arp and ip"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCompiler(t)
			c.Policy = test.policy
			_, err := c.Compile(t.Context(), "lo", MaxSnap, test.expression)
			if err == nil || !strings.HasPrefix(err.Error(), "bpf: ") || !strings.Contains(err.Error(), test.culprit) {
				t.Errorf("want %q in the error, got %v", test.culprit, err)
			}
		})
	}
}

// TestPolicyHasNames: names of a policy are bounded as those of a filter are.
func TestPolicyHasNames(t *testing.T) {
	c := newSlowCompiler(t)
	c.Policy = namedFilter
	for range namedPlaces {
		c.named <- struct{}{}
	}
	_, err := c.Compile(t.Context(), "lo", MaxSnap, plainFilter)
	if err == nil || !strings.Contains(err.Error(), "names") {
		t.Errorf("want it refused for the names of the policy, got %v", err)
	}
	for range namedPlaces {
		<-c.named
	}
}
