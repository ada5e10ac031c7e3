package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestHostilePatterns: what would take hundreds of megabytes to compile is
// neither compiled nor answered, and holds up nobody.
func TestHostilePatterns(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	args, port := listening(t)
	startDaemon(t, r, append(args, keeping(t.TempDir())...)...)
	before := series(t, port, "process_resident_memory_bytes")
	began := series(t, port, "process_cpu_seconds_total")
	for _, pattern := range []string{
		strings.Repeat("a{1000}", 3200), // 22 kB
		strings.Repeat("a{1000}", 100),
		"((((((((a{9}){9}){9}){9}){9}){9}){9}){9})",
		strings.Repeat("(a?){500}", 100),
		strings.Repeat("[[:alpha:]]{999}", 60),
		`(\pL{1000}){1000}`,
		strings.Repeat("a", 1025),
	} {
		for range 3 {
			r.Publish(t, fmt.Sprintf(`{"nodere":"%s","interface":"lo"}`, strings.ReplaceAll(pattern, `\`, `\\`)))
		}
	}
	r.Publish(t, `{"node":"web1","interface":"nosuch0","id":"behind"}`)
	l.next(t, time.Minute).check(t, says{"id": "behind"})
	if took := series(t, port, "process_cpu_seconds_total") - began; took > 1 {
		t.Errorf("the request behind them was answered after %.2f s of work", took)
	}
	if grown := series(t, port, "process_resident_memory_bytes") - before; grown > 32<<20 {
		t.Errorf("they took %.0f bytes of memory", grown)
	}
	if got := series(t, port, `pcapdaemon_requests_total{outcome="malformed"}`); got != 21 {
		t.Errorf("want 21 malformed messages counted, got %v", got)
	}
}

// TestHostileTexts: what could mean something else than it looks like is
// refused, in words that name the field.
func TestHostileTexts(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	const start = `{"node":"web1","interface":"lo",`
	for request, culprit := range map[string]string{
		start + `"bpf":"tcp port 1\u0000 and nonsense"}`:            "bpf",
		start + `"bpf":"tcp port 1\nor udp"}`:                       "bpf",
		start + `"bpf":"tcp port 1\u0085"}`:                         "bpf",
		start + `"bpf":"tcp port 1","bpf":""}`:                      "bpf",
		start + `"bpf":"tcp port 1","BPF":""}`:                      "BPF",
		start + `"Packets":5}`:                                      "Packets",
		start + `"id":"a\u001b[2J"}`:                                "id",
		start + `"id":"` + strings.Repeat("x", 129) + `"}`:          "id",
		start + `"tags":"` + strings.Repeat("x", 1025) + `"}`:       "tags",
		start + `"customer":"` + strings.Repeat("x", 1025) + `"}`:   "customer",
		start + `"by":"` + strings.Repeat("x", 1025) + `"}`:         "by",
		start + `"bpf":"` + strings.Repeat(" ", 2049) + `"}`:        "bpf",
		`{"node":"web1","interface":"l\u0000o"}`:                    "interface",
		`{"node":"web1","interface":["lo","l\no"]}`:                 "interface",
		`{"node":"web1","interface":["lo"` + many(64, "a") + `]}`:   "interface",
		`{"node":"web1","interface":["lo"` + many(5000, "a") + `]}`: "interface",
	} {
		r.Publish(t, request)
		got := l.next(t, time.Minute)
		if !got.check(t, says{"state": "refused", "error": about(culprit)}) {
			t.Errorf("%.100s: want it refused for %s", request, culprit)
		}
		if size := len(got.text); size > 4096 {
			t.Errorf("%.100s: the answer has %d bytes", request, size)
		}
	}
	l.quiet(t, 200*time.Millisecond)
}

// many returns so many more texts of a list.
func many(n int, text string) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, `,"%s%d"`, text, i)
	}
	return list.String()
}

// TestSlotsAreForCaptures: names that cannot be captured on take no slot from one that can.
func TestSlotsAreForCaptures(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxcaptures", "1")...)
	stream := testbed.StartStream(t, time.Millisecond)
	for n := range 10 {
		r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":["a1","a2","a3","a4","a5","a6","lo"],"packets":%d,"bpf":%q}`,
			1+n, stream.Filter()))
		told := map[string]int{}
		for range 8 { // in whatever order: a capture of one packet may end before the last name is refused
			got := l.next(t, time.Minute)
			told[got.State]++
			if got.State == "refused" {
				got.check(t, says{"error": about("no such network interface")})
			} else {
				got.check(t, says{"interface": "lo"})
			}
		}
		if want := (map[string]int{"refused": 6, "started": 1, "done": 1}); !maps.Equal(want, told) {
			t.Fatalf("request %d: want %v, got %v", n, want, told)
		}
	}
}
