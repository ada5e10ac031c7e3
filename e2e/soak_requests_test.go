//go:build soak

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"pcapdaemon/testbed"
)

// soakRequest returns the n-th message: a good request, a bad one, one for
// others, one that means no good, or none at all.
func soakRequest(n int, s *testbed.Stream) string {
	switch n % 12 {
	case 0:
		return fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":"nonsense","id":"bad%d"}`, n)
	case 1:
		return `{"node":"web2","interface":"lo"}`
	case 2:
		return `{"node":"web1","interface":"nosuch0"}`
	case 3:
		return `{broken`
	case 4:
		return fmt.Sprintf(`{"nodere":"^web","interface":"any","timeout":1,"bpf":"%s","id":"n%d"}`, s.Filter(), n)
	case 5:
		return fmt.Sprintf(`{"node":"any","interface":"lo","bytes":%d,"timeout":2,"bpf":"%s","id":"n%d"}`,
			24+rand.IntN(20000), s.Filter(), n)
	case 8:
		return fmt.Sprintf(`{"node":"web1","interface":"%s","timeout":1,"lookback":%d,"id":"n%d"}`, soakLink, n%3, n)
	case 6, 7:
		return hostileMessages[n/12%len(hostileMessages)]
	}
	return fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"timeout":2,"bpf":"%s","id":"n%d"}`,
		1+rand.IntN(500), s.Filter(), n)
}

// hostileMessages are meant to hurt. None of them begins a capture.
var hostileMessages = []string{
	`{"nodere":"` + strings.Repeat("a{1000}", 3200) + `","interface":"lo"}`,
	`{"nodere":"` + strings.Repeat("(a?){1000}", 100) + `","interface":"lo"}`,
	`{"nodere":"` + strings.Repeat(`\\pL`, 250) + `","interface":"lo"}`,
	`{"nodere":"` + strings.Repeat("(", 1000) + `","interface":"lo"}`,
	`{"node":"web1","interface":["a"` + many(5000, "a") + `]}`,
	`{"node":"web1","interface":["a"` + many(63, "a") + `],"tags":"` + strings.Repeat("t", 1024) + `"}`,
	`{"node":"web1","interface":"lo","tags":"` + strings.Repeat("t", 60_000) + `"}`,
	`{"node":"web1","interface":"lo","bpf":"udp\u0000 or tcp"}`,
	`{"node":"web1","interface":"l\u001bo","id":"\u009b2J"}`,
	`{"node":"web1","interface":"lo","bpf":"udp","bpf":""}`,
	`{"node":"web1","NODE":"web2","interface":"lo"}`,
	`{"node":"web1","interface":"lo","packets":1e400}`,
	`{"node":"web1","interface":"lo","timeout":9223372036854775807}`,
	`{"node":"web1","interface":"lo","bpf":"` + strings.Repeat("(", 2000) + `"}`,
	`{"node":"web1","interface":"lo"} {"node":"web1","interface":"lo"}`,
	`{"node":"web1","interface":"lo"` + strings.Repeat(" ", 65_536),
	`{"node":"web1","interface":` + strings.Repeat("[", 9_000),
	`{"node":"web1","x":` + strings.Repeat(`{"x":`, 5_000) + `1` + strings.Repeat("}", 5_001),
	"{\"node\":\"web1\",\"interface\":\"\xff\xfe\"}",
	strings.Repeat("\x00", 60_000),
	strings.Repeat("x", 1_000_000),
}
