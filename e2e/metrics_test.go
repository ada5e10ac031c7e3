package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// get returns status and body of a page of the endpoint.
func get(t testing.TB, port int, path string) (int, string) {
	t.Helper()
	response, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// series returns the value of a series on /metrics, or -1.
func series(t testing.TB, port int, name string) float64 {
	t.Helper()
	_, body := get(t, port, "/metrics")
	for _, line := range testbed.ReadLines(body) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// TestMetricsFromTheStart: every series exists before anything has happened.
func TestMetricsFromTheStart(t *testing.T) {
	r := testbed.StartRedis(t)
	port := testbed.FreePort(t)
	startDaemon(t, r, append(keeping(t.TempDir()), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	for name, want := range map[string]float64{
		`pcapdaemon_requests_total{outcome="accepted"}`:                         0,
		`pcapdaemon_requests_total{outcome="refused"}`:                          0,
		`pcapdaemon_requests_total{outcome="other_node"}`:                       0,
		`pcapdaemon_requests_total{outcome="malformed"}`:                        0,
		`pcapdaemon_captures_running`:                                           0,
		`pcapdaemon_captured_packets_total`:                                     0,
		`pcapdaemon_captured_bytes_total`:                                       0,
		`pcapdaemon_dropped_packets_total`:                                      0,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="ok"}`:    0,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="error"}`: 0,
		`pcapdaemon_deliveries_total{destination="local",outcome="ok"}`:         0,
		`pcapdaemon_deliveries_total{destination="local",outcome="error"}`:      0,
		`pcapdaemon_delivery_seconds_count{destination="cloudshark"}`:           0,
		`pcapdaemon_delivery_seconds_count{destination="local"}`:                0,
		`pcapdaemon_memory_held_bytes`:                                          0,
		`pcapdaemon_subscribed`:                                                 1,
	} {
		if got := series(t, port, name); got != want {
			t.Errorf("%s: want %v, got %v", name, want, got)
		}
	}
	_, body := get(t, port, "/metrics")
	for _, want := range []string{`pcapdaemon_build_info{goversion="` + runtime.Version() + `",libpcap="libpcap version`, `version="test"`, "go_goroutines", "process_open_fds"} {
		if !strings.Contains(body, want) {
			t.Errorf("want %s on /metrics", want)
		}
	}
}

// TestMetricsCount follows requests of every kind.
func TestMetricsCount(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try == 2 {
			w.WriteHeader(403)
		}
		return try == 2
	})
	port := testbed.FreePort(t)
	startDaemon(t, r, append(append(uploading(t, s), keeping(t.TempDir())...), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	stream := testbed.StartStream(t, time.Millisecond)
	good := `{"node":"web1","interface":"lo","packets":5,"bpf":"` + stream.Filter() + `"}`
	for _, request := range []string{good, good} {
		r.Publish(t, request)
		l.await(t, 5*time.Second, "done", "failed")
	}
	for _, request := range []string{`{"node":"web1","interface":["lo","nosuch0"],"timeout":1,"bpf":"ether proto 0x9999"}`, `{"node":"web1"}`, `{"node":"x"}`, `{"node":"y"}`, `{`} {
		r.Publish(t, request)
	}
	testbed.Eventually(t, 5*time.Second, "a capture is running", func() bool { return series(t, port, "pcapdaemon_captures_running") == 1 })
	if got := series(t, port, "pcapdaemon_memory_held_bytes"); got != chunk {
		t.Errorf("want a chunk held, got %v", got)
	}
	l.await(t, 5*time.Second, "done")
	for name, want := range map[string]float64{
		`pcapdaemon_requests_total{outcome="accepted"}`:                         3,
		`pcapdaemon_requests_total{outcome="refused"}`:                          2,
		`pcapdaemon_requests_total{outcome="other_node"}`:                       2,
		`pcapdaemon_requests_total{outcome="malformed"}`:                        1,
		`pcapdaemon_captures_running`:                                           0,
		`pcapdaemon_captured_packets_total`:                                     10,
		`pcapdaemon_captured_bytes_total`:                                       2*(24+5*(16+57)) + 24,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="ok"}`:    1,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="error"}`: 1,
		`pcapdaemon_deliveries_total{destination="local",outcome="ok"}`:         2,
		`pcapdaemon_delivery_seconds_count{destination="cloudshark"}`:           2,
	} {
		if got := series(t, port, name); got != want {
			t.Errorf("%s: want %v, got %v", name, want, got)
		}
	}
	testbed.Eventually(t, time.Second, "the memory is given back", func() bool { return series(t, port, "pcapdaemon_memory_held_bytes") == 0 })
}

func TestHealth(t *testing.T) {
	r := testbed.StartRedis(t)
	port := testbed.FreePort(t)
	startDaemon(t, r, append(keeping(t.TempDir()), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	if code, body := get(t, port, "/healthz"); code != 200 || !strings.Contains(body, "subscribed") {
		t.Errorf("want 200, got %d, %s", code, body)
	}
	r.Signal(t, syscall.SIGKILL)
	testbed.Eventually(t, 5*time.Second, "503 with the reason", func() bool {
		code, body := get(t, port, "/healthz")
		return code == 503 && strings.Contains(body, "connection refused")
	})
	if got := series(t, port, "pcapdaemon_subscribed"); got != 0 {
		t.Errorf("want pcapdaemon_subscribed 0, got %v", got)
	}
}

// TestAddressInUse: an endpoint that cannot be opened is an error, not a surprise later.
func TestAddressInUse(t *testing.T) {
	r := testbed.StartRedis(t)
	p := testbed.Start(t, daemonCommand(r, append(keeping(t.TempDir()), "-listen", r.Address())...))
	if code := p.Wait(t, 5*time.Second); code != 1 || !strings.Contains(p.Output.String(), "address already in use") {
		t.Errorf("want exit code 1 and the cause, got %d, %s", code, p.Output.String())
	}
}

// TestAlertsNameSeries: the alert rules use series that exist.
func TestAlertsNameSeries(t *testing.T) {
	rules, err := os.ReadFile(root + "/examples/prometheus/pcapdaemon.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	r := testbed.StartRedis(t)
	port := testbed.FreePort(t)
	startDaemon(t, r, append(keeping(t.TempDir()), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	_, body := get(t, port, "/metrics")
	expressions := 0
	for _, line := range testbed.ReadLines(string(rules)) {
		expression, found := strings.CutPrefix(strings.TrimSpace(line), "expr: ")
		if !found {
			continue
		}
		expressions++
		expression = strings.TrimPrefix(expression, "increase(")
		name := expression[:strings.IndexAny(expression, "[{ ")]
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no series %s", name)
		}
	}
	if expressions != 3 {
		t.Errorf("want 3 alerts, got %d", expressions)
	}
}

// TestNothingLeaks: after 100 captures no descriptor, thread, memory or
// promiscuous mode more than after 5.
func TestNothingLeaks(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, nil)
	dir := t.TempDir()
	port := testbed.FreePort(t)
	d := startDaemon(t, r, append(append(uploading(t, s), keeping(dir)...), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	stream := testbed.StartStream(t, 100*time.Microsecond)
	capture := func(n int) {
		for range n {
			r.Publish(t, `{"node":"web1","interface":["lo","any"],"packets":20,"bpf":"`+stream.Filter()+`"}`)
			l.await(t, 10*time.Second, "done")
			l.await(t, 10*time.Second, "done")
			r.Publish(t, `{"node":"web1","interface":"lo","bpf":"nonsense"}`)
			l.await(t, 10*time.Second, "refused")
		}
	}
	// settled waits until handles are closed, and returns what is in use.
	settled := func() map[string]int {
		time.Sleep(500 * time.Millisecond)
		http.DefaultClient.CloseIdleConnections()
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		sockets := 0
		for _, file := range files {
			if target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", d.Process.Pid, file.Name())); strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
		links, err := exec.Command("ip", "-d", "link", "show", "lo").Output()
		if err != nil {
			t.Fatal(err)
		}
		promiscuous := 0
		if _, after, found := strings.Cut(string(links), "promiscuity "); found {
			promiscuous, _ = strconv.Atoi(strings.Fields(after)[0])
		}
		return map[string]int{"descriptors": len(files), "sockets": sockets, "promiscuity": promiscuous,
			"goroutines": int(series(t, port, "go_goroutines")), "memory": int(series(t, port, "process_resident_memory_bytes"))}
	}
	capture(5)
	before := settled()
	capture(100)
	after := settled()
	for what, slack := range map[string]int{"descriptors": 2, "sockets": 2, "promiscuity": 0, "goroutines": 2, "memory": 16 << 20} {
		if after[what] > before[what]+slack {
			t.Errorf("%s: %d after 5 captures, %d after 105", what, before[what], after[what])
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 210 {
		t.Errorf("want 210 files, got %d", len(files))
	}
}
