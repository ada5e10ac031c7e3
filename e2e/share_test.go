package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestStormMakesOneCapture: an alarm that fires ten thousand times makes one
// capture, one file and one upload, and each who asked is answered. The receive
// loop is not held up: a request behind them is answered before anything is captured.
// Memory hardly grows.
func TestStormMakesOneCapture(t *testing.T) {
	const requests = 10_000
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, nil)
	dir, port := t.TempDir(), testbed.FreePort(t)
	flags := append(uploading(t, s), keeping(dir)...)
	startDaemon(t, r, append(flags, "-share", "1h", "-listen", "127.0.0.1:"+strconv.Itoa(port))...)
	stream := testbed.NewStream(t, 0)
	before := series(t, port, "process_resident_memory_bytes")

	conn, err := redis.Dial("tcp", r.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for n := range requests {
		message := fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":%q,"timeout":600,"packets":1,"id":"storm-%d",`+
			`"tags":"linkdown,flapping","customer":"ACME","alertid":%d,"by":"trap@collector"}`, stream.Filter(), n, n)
		if err := conn.Send("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Do("PUBLISH", "capture", `{"node":"web1","interface":"nosuch0","id":"behind"}`); err != nil {
		t.Fatal(err)
	}
	started, done, behind := map[string]bool{}, map[string]bool{}, false
	for len(done) < requests {
		if behind && len(started) == requests && stream.Sent() == 0 {
			stream.Send()
		}
		got := l.next(t, time.Minute)
		switch {
		case got.ID == "behind":
			behind = true
		case got.State == "started" && !started[got.ID]:
			started[got.ID] = true
		case got.State == "done" && started[got.ID] && !done[got.ID]:
			done[got.ID] = true
			if got.ID != "storm-0" {
				got.check(t, says{"shared": "storm-0"})
			}
		default:
			t.Fatalf("want each started, then done, got %s", got.text)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 || len(s.Received()) != 1 {
		t.Errorf("want one file and one upload, got %d and %d", len(files), len(s.Received()))
	}
	if grown := series(t, port, "process_resident_memory_bytes") - before; grown > 40e6 {
		t.Errorf("memory grew by %.0f MB", grown/1e6)
	}
	if got := series(t, port, `pcapdaemon_requests_total{outcome="shared"}`); got != requests-1 {
		t.Errorf("want %d shared, got %v", requests-1, got)
	}
}
