package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestWrongRequestsInARow: each is answered as it should be, and the good one behind them at once.
func TestWrongRequestsInARow(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	d := startDaemon(t, r, append(keeping(dir), "-interfaces", "lo,nosuch0", "-maxpackets", "100", "-maxtimeout", "30s", "-defaulttimeout", "30s", "-maxbytes", "1MB")...)
	silent := []string{``, `{`, `null`, `[]`, `"x"`, `42`, `{"interface":"lo"}`, `{"node":1,"interface":"lo"}`, `{"nodere":"(","interface":"lo"}`,
		`{"node":"web2","interface":"lo"}`, `{"node":"web2","bfp":1}`, `{"nodere":"^db","interface":1} x`, `{"node":"","nodere":""}`}
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
		got := l.next(t, 5*time.Second)
		if got.State != "refused" || !strings.Contains(got.Error, culprit) || got.ID == "" || got.Node != "web1" || got.Packets != nil || !got.Started.IsZero() {
			t.Errorf("%.60s: want it refused for %q, got %+v", message, culprit, got)
		}
	}
	for message := range refused {
		r.Publish(t, message)
	}
	began := time.Now()
	r.Publish(t, `{"node":"web1","interface":"lo","id":"good","timeout":1}`)
	for l.next(t, 5*time.Second).ID != "good" {
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the good request was answered after %v", took)
	}
	if n := strings.Count(d.Output.String(), "message ignored"); n != 10 {
		t.Errorf("want 10 warnings for messages that name nobody, got %d", n)
	}
	if got := l.await(t, 5*time.Second, "done"); got.ID != "good" {
		t.Errorf("want the good request done, got %+v", got)
	}
}

// TestSlowFilter: a filter that takes its time holds up neither requests nor captures.
func TestSlowFilter(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	var terms []string
	for port := range 200 {
		terms = append(terms, "port "+strconv.Itoa(port+1))
	}
	slow := strings.Join(terms, " or ")[:2000]
	r.Publish(t, `{"node":"web1","interface":"lo","id":"slow","timeout":1,"bpf":"`+slow[:strings.LastIndex(slow, " or ")]+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"wrong","packets":-1}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"quick","timeout":30,"bpf":"udp port 9"}`)
	for _, want := range []string{"wrong refused", "quick started", "slow started"} {
		if got := l.next(t, 10*time.Second); got.ID+" "+got.State != want {
			t.Errorf("want %s, got %s %s", want, got.ID, got.State)
		}
	}
}

func TestFullHouse(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxcaptures", "2", "-maxmemory", "3MiB")...)
	for n, want := range []string{"started", "started", "refused"} {
		r.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"bpf":"ether proto 0x9999"}`)
		got := l.next(t, 5*time.Second)
		if got.State != want || want == "refused" && !strings.Contains(got.Error, "-maxcaptures") {
			t.Errorf("request %d: want %s, got %+v", n, want, got)
		}
	}
	l.await(t, 5*time.Second, "done")
	l.await(t, 5*time.Second, "done")
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	if got := l.next(t, 5*time.Second); got.State != "started" {
		t.Errorf("want a free slot used, got %+v", got)
	}
}

// TestMemoryBudget: what is being delivered counts, its slot does not.
func TestMemoryBudget(t *testing.T) {
	release := make(chan struct{})
	s := sharktest.Start(t, func(http.ResponseWriter, *http.Request, int) bool { <-release; return false })
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(uploading(t, s), "-maxmemory", "2MiB", "-maxcaptures", "1")...)
	big := startBurst(t)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"fills","bpf":"`+big.Filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	testbed.Eventually(t, 20*time.Second, "the capture ends and is uploaded", func() bool { return s.Count() == 1 })
	r.Publish(t, `{"node":"web1","interface":"lo","id":"late"}`)
	if got := l.next(t, 5*time.Second); got.ID != "late" || got.State != "refused" || !strings.Contains(got.Error, "-maxmemory") {
		t.Errorf("want it refused for -maxmemory, got %+v", got)
	}
	close(release)
	got := l.next(t, 10*time.Second)
	if got.ID != "fills" || got.State != "done" || got.Stop != "bytes" || *got.Bytes > 2<<20 || *got.Bytes < 2<<20-70000 {
		t.Errorf("want the budget used and delivered, got %+v", got)
	}
	if u := s.Received()[0]; int64(len(u.Content)) != *got.Bytes {
		t.Errorf("want %d bytes uploaded, got %d", *got.Bytes, len(u.Content))
	}
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	if got := l.next(t, 5*time.Second); got.State != "started" {
		t.Errorf("want the memory used again, got %+v", got)
	}
}

// startBurst sends large packets as fast as a shell-free loop can.
func startBurst(t *testing.T) *testbed.Stream {
	t.Helper()
	s := testbed.StartStream(t, time.Hour)
	conn := testbed.DialUDP(t, s.Port)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		packet := make([]byte, 30000)
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
				_, _ = conn.Write(packet)
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
	return s
}
