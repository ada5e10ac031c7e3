package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// startWithFiles starts a daemon that may have only so many open files.
func startWithFiles(t *testing.T, r *testbed.Redis, limit int, args ...string) *testbed.Process {
	t.Helper()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "prlimit")
	daemon := daemonCommand(r, args...)
	p := testbed.Start(t, exec.Command("prlimit", append([]string{fmt.Sprintf("--nofile=%d", limit)}, daemon.Args...)...))
	r.AwaitSubscribers(t, time.Minute, 1)
	return p
}

// TestFewOpenFiles: with few of them, and others who take what they can, each capture that begins
// is delivered, and each other one is refused with the reason.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{160, 96, 48} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			r, s := testbed.StartRedis(t), sharktest.Start(t, nil)
			l, stream := listen(t, r), testbed.StartStream(t, time.Millisecond)
			args, port := listening(t)
			p := startWithFiles(t, r, limit, slices.Concat(args, uploading(t, s), keeping(t.TempDir()),
				[]string{"-spooldir", t.TempDir(), "-maxcaptures", "100", "-share", "0"})...)
			for range 2 * limit {
				idle, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
				if err != nil {
					t.Fatal(err)
				}
				defer idle.Close()
			}
			const asked = 40
			for n := range asked {
				r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","id":"%d","packets":200,"timeout":20,"bpf":%q}`,
					n, stream.Filter()))
			}
			ends := map[string]int{}
			for range asked {
				got := l.final(t, 30*time.Second)
				ends[got.State]++
				switch got.State {
				case "refused":
					got.check(t, says{"error": about("open files")})
				case "done":
					if _, err := os.Stat(got.File); err != nil {
						t.Error(err)
					}
				default:
					t.Errorf("got %s", got.text)
				}
			}
			if ends["done"] == 0 || ends["refused"] == 0 {
				t.Errorf("want some of both, got %v", ends)
			}
			testbed.Eventually(t, time.Minute, "another capture", func() bool { // handles are closed behind the result
				r.Publish(t, `{"node":"web1","interface":"lo","packets":5,"timeout":5,"bpf":"`+stream.Filter()+`"}`)
				return l.final(t, time.Minute).State == "done"
			})
			if !strings.Contains(p.Output.String(), "limit of open files is too low for -maxcaptures") {
				t.Errorf("want it said at the start, got %s", p.Output.String())
			}
		})
	}
}

// TestNoOpenFiles: where not even one capture can be, that is said everywhere.
func TestNoOpenFiles(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	args, port := listening(t)
	startWithFiles(t, r, 24, append(args, keeping(t.TempDir())...)...)
	r.Publish(t, `{"node":"web1","interface":"lo"}`)
	l.next(t, time.Minute).check(t, says{"state": "refused", "error": about("open files")})
	testbed.Eventually(t, time.Minute, "503", func() bool {
		code, body := get(t, port, "/healthz")
		return code == 503 && strings.Contains(body, "open files")
	})
}
