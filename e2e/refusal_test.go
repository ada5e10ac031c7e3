package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestWrongRequestsInARow: each is answered as it should be, and the good one behind them at once.
func TestWrongRequestsInARow(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	d := startDaemon(t, r, append(keeping(dir), "-interfaces", "lo,nosuch0", "-maxpackets", "100",
		"-maxtimeout", "30s", "-defaulttimeout", "30s", "-maxbytes", "1MB")...)
	// Ten that do not say for whom they are, and three for others.
	silent := []string{``, `{`, `null`, `[]`, `"x"`, `42`, `{"interface":"lo"}`, `{"node":1,"interface":"lo"}`,
		`{"nodere":"(","interface":"lo"}`, `{"node":"","nodere":""}`,
		`{"node":"web2","interface":"lo"}`, `{"node":"web2","bfp":1}`, `{"nodere":"^db","interface":1} x`}
	refused := map[string]string{
		`{"node":"web1","interface":"lo","bfp":"x"}`:      "bfp",
		`{"node":"web1","nodere":"web","interface":"lo"}`: "node",
		`{"node":"web1"}`:                                                             "interface",
		`{"node":"web1","interface":""}`:                                              "interface",
		`{"node":"web1","interface":[]}`:                                              "interface",
		`{"node":"web1","interface":7}`:                                               "interface",
		`{"node":"web1","interface":"nosuch0"}`:                                       "nosuch0",
		`{"node":"web1","interface":"eth99"}`:                                         "-interfaces",
		`{"node":"web1","interface":"lo","bpf":"udp porrt 53"}`:                       "bpf",
		`{"node":"web1","interface":"lo","bpf":7}`:                                    "bpf",
		`{"node":"web1","interface":"lo","bpf":"` + strings.Repeat("x", 2049) + `"}`:  "bpf",
		`{"node":"web1","interface":"lo","packets":"5"}`:                              "packets",
		`{"node":"web1","interface":"lo","packets":-5}`:                               "packets",
		`{"node":"web1","interface":"lo","packets":101}`:                              "-maxpackets",
		`{"node":"web1","interface":"lo","bytes":1000001}`:                            "-maxbytes",
		`{"node":"web1","interface":"lo","bytes":23}`:                                 "bytes",
		`{"node":"web1","interface":"lo","timeout":31}`:                               "-maxtimeout",
		`{"node":"web1","interface":"lo","timeout":1.5}`:                              "timeout",
		`{"node":"web1","interface":"lo","snap":262145}`:                              "snap",
		`{"node":"web1","interface":"lo","alertid":"x"}`:                              "alertid",
		`{"node":"web1","interface":"lo","tags":["x"]}`:                               "tags",
		`{"node":"web1","interface":"lo","customer":{}}`:                              "customer",
		`{"node":"web1","interface":"lo","id":5}`:                                     "id",
		`{"node":"any","interface":"lo"} {"node":"web2"}`:                             "after",
		`{"nodere":"w","interface":"lo","tags":"` + strings.Repeat("x", 66000) + `"}`: "65536",
	}
	for _, message := range silent {
		r.Publish(t, message)
	}
	l.quiet(t, 300*time.Millisecond)
	for message, culprit := range refused {
		r.Publish(t, message)
		l.next(t, time.Minute).check(t, says{"state": "refused", "error": about(culprit), "id": anything{},
			"node": "web1", "packets": nil, "started": nil})
	}
	for message := range refused {
		r.Publish(t, message)
	}
	began := time.Now()
	r.Publish(t, `{"node":"web1","interface":"lo","id":"good","timeout":1}`)
	for l.next(t, time.Minute).ID != "good" {
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the good request was answered after %v", took)
	}
	if n := strings.Count(d.Output.String(), "message ignored"); n != 10 {
		t.Errorf("want 10 warnings for messages that name nobody, got %d", n)
	}
	l.await(t, time.Minute, "done").check(t, says{"id": "good"})
}

// slowFilter returns a filter of so many ports. 170 of them take libpcap half a second, 40 some milliseconds; on a
// busy machine a thousand times as long, for what compiles them is nice.
func slowFilter(ports int) string {
	var terms []string
	for port := range ports {
		terms = append(terms, "port "+strconv.Itoa(port+1))
	}
	return strings.Join(terms, " or ")
}

// isGivenUp reports whether a request is refused for a filter for which the machine is too busy.
func isGivenUp(r result) bool { return strings.Contains(r.Error, "given up after 5s") }

// TestSlowFilter: a filter that takes its time holds up neither requests nor captures.
func TestSlowFilter(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"slow","timeout":1,"bpf":"`+slowFilter(170)+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"wrong","packets":-1}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"quick","timeout":30,"bpf":"udp port 9"}`)
	for _, want := range []string{"wrong refused", "quick started", "slow started"} {
		got := l.next(t, time.Minute)
		if isGivenUp(got) {
			want = "slow refused"
		}
		if got.ID+" "+got.State != want {
			t.Errorf("want %s, got %s %s", want, got.ID, got.State)
		}
	}
}
