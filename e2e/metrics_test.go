package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
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

// checkSeries fails for each series whose value is another one.
func checkSeries(t testing.TB, port int, want map[string]float64) {
	t.Helper()
	for name, want := range want {
		if got := series(t, port, name); got != want {
			t.Errorf("%s: want %v, got %v", name, want, got)
		}
	}
}

// TestMetricsFromTheStart: every series exists before anything has happened.
func TestMetricsFromTheStart(t *testing.T) {
	args, port := listening(t)
	r := testbed.StartRedis(t)
	startDaemon(t, r, append(args, keeping(t.TempDir())...)...)
	checkSeries(t, port, map[string]float64{
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
		`pcapdaemon_deliveries_total{destination="spool",outcome="ok"}`:         0,
		`pcapdaemon_deliveries_total{destination="spool",outcome="error"}`:      0,
		`pcapdaemon_delivery_seconds_count{destination="cloudshark"}`:           0,
		`pcapdaemon_delivery_seconds_count{destination="local"}`:                0,
		`pcapdaemon_memory_held_bytes`:                                          0,
		`pcapdaemon_subscribed`:                                                 1,
	})
	_, body := get(t, port, "/metrics")
	build := `pcapdaemon_build_info{goversion="` + runtime.Version() + `",libpcap="libpcap version`
	for _, want := range []string{build, `version="test"`, "go_goroutines", "process_open_fds"} {
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
			_, _ = io.Copy(io.Discard, r.Body) // an early answer is another test's subject
			w.WriteHeader(403)
		}
		return try == 2
	})
	args, port := listening(t)
	startDaemon(t, r, slices.Concat(args, uploading(t, s), keeping(t.TempDir()))...)
	stream := testbed.StartStream(t, time.Millisecond)
	good := `{"node":"web1","interface":"lo","packets":5,"bpf":"` + stream.Filter() + `"}`
	for _, request := range []string{good, good} {
		r.Publish(t, request)
		l.final(t, time.Minute)
	}
	half := `{"node":"web1","interface":["lo","nosuch0"],"id":"half","timeout":60,"bpf":"ether proto 0x9999"}`
	long := strings.Repeat(" ", 64<<10)
	for _, request := range []string{half, `{"node":"web1"}`, `{"node":"x"}`, `{"node":"y"}`, `{`, long + "{}", "[" + long, long + "x"} {
		r.Publish(t, request)
	}
	testbed.Eventually(t, time.Minute, "a capture is running", func() bool {
		return series(t, port, "pcapdaemon_captures_running") == 1
	})
	if got := series(t, port, "pcapdaemon_memory_held_bytes"); got <= 0 || got > 4<<20 {
		t.Errorf("want a little memory held, got %v bytes", got)
	}
	r.Publish(t, `{"node":"web1","stop":"half"}`)
	l.await(t, time.Minute, "done")
	checkSeries(t, port, map[string]float64{
		`pcapdaemon_requests_total{outcome="accepted"}`:                         3,
		`pcapdaemon_requests_total{outcome="refused"}`:                          2,
		`pcapdaemon_requests_total{outcome="other_node"}`:                       2,
		`pcapdaemon_requests_total{outcome="malformed"}`:                        4,
		`pcapdaemon_messages_too_long_total`:                                    3,
		`pcapdaemon_captures_running`:                                           0,
		`pcapdaemon_captured_packets_total`:                                     10,
		`pcapdaemon_captured_bytes_total`:                                       2*(24+5*(16+57)) + 24,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="ok"}`:    1,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="error"}`: 1,
		`pcapdaemon_deliveries_total{destination="local",outcome="ok"}`:         2,
		`pcapdaemon_delivery_seconds_count{destination="cloudshark"}`:           2,
	})
	testbed.Eventually(t, time.Minute, "the memory is given back", func() bool {
		return series(t, port, "pcapdaemon_memory_held_bytes") == 0
	})
}

// TestLostResultsAreCounted: while a server takes no results, 16 MiB of them wait, and those that
// are dropped for newer ones are counted.
func TestLostResultsAreCounted(t *testing.T) {
	t.Parallel()
	const waiting, interfaces, requests = 16 << 20, 64, 16
	args, port := listening(t)
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">geheim", "allchannels", "+@all")
	l := listen(t, r)
	d := exec.Command(binary, slices.Concat(args, keeping(t.TempDir()), []string{"-node", "web1", "-interfaces", "lo"})...)
	d.Env = append(os.Environ(), "PCAPDAEMON_REDISURL=redis://host:geheim@"+r.Address())
	testbed.Start(t, d)
	r.AwaitSubscribers(t, time.Minute, 1)
	var names []string
	for n := range interfaces {
		names = append(names, fmt.Sprintf(`"nosuch%02d"`, n))
	}
	long := strings.Repeat(`\u0001`, 1024) // the results repeat it
	refused := func(names string) string {
		const request = `{"node":"web1","interface":[%[1]s],"id":"a","tags":"%[2]s","customer":"%[2]s","by":"%[2]s"}`
		return fmt.Sprintf(request, names, long)
	}
	r.Publish(t, refused(names[0]))
	size := len(l.await(t, time.Minute, "refused").text)
	r.Do(t, "ACL", "SETUSER", "host", "-publish")
	for range requests {
		r.Publish(t, refused(strings.Join(names, ",")))
	}
	testbed.Eventually(t, time.Minute, "all are refused", func() bool {
		return series(t, port, `pcapdaemon_requests_total{outcome="refused"}`) == requests*interfaces+1
	})
	want := requests*interfaces - waiting/size
	testbed.Eventually(t, time.Minute, fmt.Sprintf("%d results of %d bytes are lost", want, size), func() bool {
		return series(t, port, "pcapdaemon_results_lost_total") == float64(want)
	})
	checkSeries(t, port, map[string]float64{"pcapdaemon_messages_too_long_total": 0})
}

func TestHealth(t *testing.T) {
	args, port := listening(t)
	r := testbed.StartRedis(t)
	startDaemon(t, r, append(args, keeping(t.TempDir())...)...)
	if code, body := get(t, port, "/healthz"); code != 200 || !strings.Contains(body, "subscribed") {
		t.Errorf("want 200, got %d, %s", code, body)
	}
	r.Signal(t, syscall.SIGKILL)
	testbed.Eventually(t, time.Minute, "503 with the reason", func() bool {
		code, body := get(t, port, "/healthz")
		return code == 503 && strings.Contains(body, "connection refused")
	})
	if got := series(t, port, "pcapdaemon_subscribed"); got != 0 {
		t.Errorf("want pcapdaemon_subscribed 0, got %v", got)
	}
}

// TestNothingCanBeCaptured: a host that can capture nothing does not look healthy.
func TestNothingCanBeCaptured(t *testing.T) {
	r := testbed.StartRedis(t)
	args, port := listening(t)
	startDaemon(t, r, append(args, "-maxreturn", "1MiB", "-interfaces", "wan=eht0")...)
	r.AwaitSubscribers(t, time.Minute, 1)
	const words = "nothing can be captured: no interface of -interfaces is there"
	testbed.Eventually(t, time.Minute, "/healthz says that nothing can be captured", func() bool {
		code, body := get(t, port, "/healthz")
		return code == 503 && strings.Contains(body, words)
	})
	checkSeries(t, port, map[string]float64{"pcapdaemon_trouble": 1,
		`pcapdaemon_connected{connection="requests"}`: 1, `pcapdaemon_connected{connection="results"}`: 1})
	out, errs, code := ask(t, "redis://"+r.Address(), `{"node":"any","rollcall":true}`, 10*time.Second)
	if code != 0 || !strings.Contains(out, `"trouble":"no interface of -interfaces is there"`) {
		t.Errorf("want the trouble in the roll call, got %d, %s%s", code, out, errs)
	}
}

// TestAddressInUse: an endpoint that cannot be opened is an error, not a surprise later.
func TestAddressInUse(t *testing.T) {
	r := testbed.StartRedis(t)
	p := testbed.Start(t, daemonCommand(r, append(keeping(t.TempDir()), "-listen", r.Address())...))
	if code := p.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if want := "address already in use"; !strings.Contains(p.Output.String(), want) {
		t.Errorf("want %q, got %s", want, p.Output.String())
	}
}

// TestMetricsCountOnce: a request that was to share a capture which is refused is refused, and not shared.
func TestMetricsCountOnce(t *testing.T) {
	args, port := listening(t)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(append(args, keeping(t.TempDir())...), "-maxcaptures", "1")...)
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":60,"bpf":"ether proto 0x9999"}`) // longer than this takes
	l.await(t, time.Minute, "started")
	var terms []string // takes libpcap a while: the second request finds the first one waiting for it
	for n := range 100 {
		terms = append(terms, "port "+strconv.Itoa(n+1))
	}
	for range 2 {
		r.Publish(t, `{"node":"web1","interface":"lo","bpf":"`+strings.Join(terms, " or ")+`"}`)
	}
	for range 2 {
		l.next(t, time.Minute).check(t, says{"state": "refused"}) // for -maxcaptures, or it was given up
	}
	checkSeries(t, port, map[string]float64{
		`pcapdaemon_requests_total{outcome="accepted"}`: 1,
		`pcapdaemon_requests_total{outcome="refused"}`:  2,
		`pcapdaemon_requests_total{outcome="shared"}`:   0,
	})
}
