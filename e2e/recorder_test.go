package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// recording are the flags for a daemon that records the loopback interface.
func recording(t testing.TB, more ...string) []string {
	t.Helper()
	return append(append(keeping(t.TempDir()), "-record", "lo", "-recordsize", "16MiB"), more...)
}

// passing returns the flags for a daemon that sees nothing but streams: the others
// on the interface may be many, and what is recorded is bounded.
func passing(streams ...*testbed.Stream) []string {
	var filters []string
	for _, s := range streams {
		filters = append(filters, s.Filter())
	}
	return []string{"-filter", strings.Join(filters, " or ")}
}

// TestLookback: the file begins before the request, goes on after it, and no packet is missing or twice.
func TestLookback(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	stream, other := testbed.StartStream(t, time.Millisecond), testbed.StartStream(t, time.Millisecond)
	startDaemon(t, r, recording(t, passing(stream, other)...)...)
	awaitRecorded(t, r, l, 3*time.Second)
	asked := time.Now()
	r.Publish(t, `{"node":"web1","interface":"lo","lookback":2,"timeout":1,"bpf":"`+stream.Filter()+`"}`)
	started := l.await(t, time.Minute, "started")
	if heard := started.Since.Add(2 * time.Second); heard.Before(asked) || heard.After(time.Now()) {
		t.Errorf("want it whole since 2 s before the request at %v, got it since %v", asked, started.Since)
	}
	done := l.await(t, time.Minute, "done", "failed")
	done.check(t, says{"state": "done", "stop": "timeout", "error": nil, "dropped": 0, "received": done.Packets,
		"since": started.said["since"]})
	if want, got := 3*time.Second, done.Ended.Sub(started.Since); want != got {
		t.Errorf("want the end 1 s after the request, and %v of packets, got %v", want, got)
	}
	checkWindow(t, stream, done, started.Since)
}

// awaitRecorded waits until the recorder reaches back so far.
func awaitRecorded(t *testing.T, r *testbed.Redis, l *listener, back time.Duration) {
	t.Helper()
	testbed.Eventually(t, time.Minute, "recorded for "+back.String(), func() bool {
		r.Publish(t, `{"node":"web1","rollcall":true}`)
		var present struct{ Interfaces []struct{ Recorded float64 } }
		answer := l.await(t, time.Minute, "present")
		if err := json.Unmarshal([]byte(answer.text), &present); err != nil {
			t.Fatal(err)
		}
		for _, i := range present.Interfaces {
			if i.Recorded >= back.Seconds() {
				return true
			}
		}
		return false
	})
}

// TestRecordedWithoutLookback: a capture begins with the request, not before it.
func TestRecordedWithoutLookback(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	stream, other := testbed.StartStream(t, time.Millisecond), testbed.StartStream(t, time.Millisecond)
	startDaemon(t, r, recording(t, passing(stream, other)...)...)
	time.Sleep(time.Second)
	for name, filter := range map[string]string{
		"quick": stream.Filter(), "slow": stream.Filter() + " or " + slowFilter(40),
	} {
		const attempts = 10 // on a busy machine requests take their time, and one is enough
		var late, ready time.Duration
		for range attempts {
			asked := time.Now()
			r.Publish(t, `{"node":"web1","interface":"lo","packets":100,"bpf":"`+filter+`"}`)
			first := l.next(t, time.Minute)
			if isGivenUp(first) {
				continue
			}
			first.check(t, says{"state": "started"})
			ready = time.Since(asked)
			done := l.await(t, time.Minute, "done", "failed")
			done.check(t, says{"state": "done", "packets": 100, "since": nil})
			if hasDrops(done) {
				continue
			}
			stream.CheckWhole(t, readNumbers(t, done.File), done.Started, time.Time{}) // it has ended with the last packet
			if late = done.Started.Sub(asked); late < 0 || late > ready {
				t.Errorf("%s filter: want it begun with the request, got it %v after", name, late)
			}
			if name == "quick" || late < ready/2 {
				break
			}
		}
		if ready == 0 || name == "slow" && late > ready/2 {
			t.Errorf("want it begun before its filter was ready %v after the request, got it %v after", ready, late)
		}
	}
}

// TestLookbackRefused: what cannot be had is refused in words that say why.
func TestLookbackRefused(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, recording(t)...)
	for request, culprit := range map[string]string{
		`"interface":"any","lookback":5`:                         "lookback: any is not in -record",
		`"interface":"lo","lookback":86401`:                      "lookback",
		`"interface":"lo","lookback":-1`:                         "lookback",
		`"interface":"lo","lookback":5,"bpf":"ip6 protochain 6"`: "a loop (protochain) cannot be judged",
		`"interface":"lo","lookback":5,"bpf":"udp porrt 53"`:     "bpf",
	} {
		r.Publish(t, `{"node":"web1",`+request+`}`)
		if got := l.next(t, time.Minute); got.State != "refused" || !strings.Contains(got.Error, culprit) {
			t.Errorf("%s: want it refused for %q, got %s, %s", request, culprit, got.State, got.Error)
		}
	}
	r.Publish(t, `{"node":"web1","interface":"lo","bpf":"inbound","timeout":1}`)
	if got := l.next(t, time.Minute); got.State != "started" {
		t.Errorf("want a live capture for what is not recorded, got %s, %s", got.State, got.Error)
	}
}

// TestRecordedInterfaceReturns: a recorder waits for its interface, says so
// once, and what was recorded can be had when the interface has gone.
func TestRecordedInterfaceReturns(t *testing.T) {
	t.Parallel()
	ns, far := testbed.NewNamespace(t, "rec"), testbed.NewNamespace(t, "recfar")
	testbed.NeedTools(t, "redis-server", "redis-cli")
	testbed.Start(t, ns.Command("redis-server", "--save", "", "--dir", t.TempDir()))
	cli := func(args ...string) string {
		out, _ := ns.Command("redis-cli", args...).CombinedOutput()
		return string(out)
	}
	testbed.Eventually(t, time.Minute, "redis-server answers", func() bool {
		return strings.Contains(cli("PING"), "PONG")
	})
	results := testbed.Start(t, ns.Command("redis-cli", "SUBSCRIBE", "capture-results"))
	dir := t.TempDir()
	args := append(keeping(dir), "-node", "web1", "-record", "v0", "-recordsize", "8MiB")
	d := testbed.Start(t, ns.Command(binary, args...))
	testbed.Eventually(t, time.Minute, "subscribed", func() bool {
		return strings.HasSuffix(strings.TrimSpace(cli("PUBSUB", "NUMSUB", "capture")), "1")
	})
	time.Sleep(3 * time.Second)
	if n := strings.Count(d.Output.String(), "not recorded"); n != 1 {
		t.Errorf("want one line about what is missing, got %d", n)
	}
	ns.Pair(t, far)
	testbed.Eventually(t, time.Minute, "recorded", func() bool {
		return strings.Contains(d.Output.String(), "msg=recorded")
	})
	ns.Do(t, func() { // somebody has to listen: a refused packet makes the next one fail
		sink, err := net.ListenPacket("udp", "10.99.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { sink.Close() })
	})
	far.Do(t, func() {
		conn := testbed.DialUDPAt(t, "10.99.0.1:9")
		for range 6 {
			fmt.Fprint(conn, "packet")
			time.Sleep(50 * time.Millisecond)
		}
	})
	time.Sleep(200 * time.Millisecond)
	ns.IP(t, "link", "del", "v0")
	time.Sleep(time.Second)
	cli("PUBLISH", "capture", `{"node":"web1","interface":"v0","lookback":60,"timeout":5,"bpf":"udp port 9"}`)
	testbed.Eventually(t, time.Minute, "the past is delivered, and why there is no more", func() bool {
		out := results.Output.String()
		return strings.Contains(out, `"failed"`) && strings.Contains(out, `"stop":"interface"`) &&
			strings.Contains(out, `"packets":6`)
	})
}

// TestRecorderMetrics: what is recorded shows in metrics and status.
func TestRecorderMetrics(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	port := testbed.FreePort(t)
	stream := testbed.StartStream(t, time.Millisecond)
	startDaemon(t, r, append(recording(t, passing(stream)...), "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	for name, least := range map[string]float64{
		"packets_total": 1000, "bytes": 50_000, "seconds": 1, "up": 1, "dropped_total": 0,
	} {
		testbed.Eventually(t, time.Minute, fmt.Sprintf("%s is at least %v", name, least), func() bool {
			return series(t, port, fmt.Sprintf(`pcapdaemon_recorder_%s{interface="lo"}`, name)) >= least
		})
	}
}
