package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// redisForm and programForm are the two forms of rsyslog's action.
const (
	redisForm   = `type="omhiredis" server="127.0.0.1" serverport="6379" mode="publish" key="capture"`
	programForm = `type="omprog" binary="/usr/share/pcapdaemon/triggers/rsyslog/pcapdaemon-lines"`
)

// An rsyslog is a real rsyslogd with the lines of the example, which writes down all it takes.
type rsyslog struct {
	*testbed.Process
	log, stats string
	conn       net.Conn
}

// startRsyslog starts one, with other words in some places of the example.
func startRsyslog(t testing.TB, env []string, words ...string) *rsyslog {
	t.Helper()
	testbed.NeedTools(t, "rsyslogd")
	dir, port := t.TempDir(), testbed.FreePort(t)
	r := &rsyslog{log: filepath.Join(dir, "log"), stats: filepath.Join(dir, "stats")}
	lines := fmt.Sprintf(`global(workDirectory=%q maxMessageSize="64k")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="%d")
module(load="impstats" interval="1" format="json" log.syslog="off" log.file=%q)
action(type="omfile" file=%q)
`, dir, port, r.stats, r.log) + adapt(t, "rsyslog/pcapdaemon.conf", words...)
	config := writeFile(t, dir, "rsyslog.conf", lines)
	if out, err := exec.Command("rsyslogd", "-N1", "-f", config).CombinedOutput(); err != nil {
		t.Fatalf("rsyslogd refuses its configuration: %s", out)
	}
	cmd := exec.Command("rsyslogd", "-n", "-iNONE", "-f", config)
	cmd.Env = env
	r.Process = testbed.Start(t, cmd)
	conn, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.conn = conn
	testbed.Eventually(t, time.Minute, "rsyslogd takes lines", func() bool {
		r.send("<14>Nov 28 01:02:03 web1 test: are you there")
		return len(r.taken()) > 0
	})
	return r
}

// send sends a line; what is refused is sent again by who waits for it.
func (r *rsyslog) send(line string) { _, _ = r.conn.Write([]byte(line)) }

// taken returns the lines that were taken so far.
func (r *rsyslog) taken() []string {
	text, _ := os.ReadFile(r.log)
	return testbed.ReadLines(string(text))
}

// fullest returns the most that has waited in a queue of an action that asks.
func (r *rsyslog) fullest(t testing.TB) (most int) {
	t.Helper()
	var lines []string
	testbed.Eventually(t, time.Minute, "there are statistics", func() bool {
		text, _ := os.ReadFile(r.stats)
		lines = testbed.ReadLines(string(text))
		return len(lines) > 0
	})
	for _, line := range lines {
		var queue struct {
			Name, Origin string
			Maxqsize     int
		}
		_, object, _ := strings.Cut(line, "{")
		if json.Unmarshal([]byte("{"+object), &queue) == nil && queue.Origin == "core.queue" && queue.Name != "main Q" {
			most = max(most, queue.Maxqsize)
		}
	}
	return most
}

// toServer returns the words that lead the example to a server, without its limit.
func toServer(server *testbed.Redis) []string {
	return []string{`serverport="6379"`, fmt.Sprintf(`serverport="%d"`, server.Port), `Interval="10"`, `Interval="0"`}
}

func TestRsyslog(t *testing.T) {
	t.Parallel()
	forms := map[string]func(testing.TB, *testbed.Redis) *rsyslog{
		"omhiredis": func(t testing.TB, server *testbed.Redis) *rsyslog {
			return startRsyslog(t, nil, toServer(server)...)
		},
		"omprog": func(t testing.TB, server *testbed.Redis) *rsyslog {
			return startRsyslog(t, withProgram(t, server), `module(load="omhiredis")`, `module(load="omprog")`,
				redisForm, programForm, installedTriggers, triggerPath(t, ""),
				`Interval="10"`, `Interval="0"`)
		},
	}
	for form, start := range forms {
		t.Run(form, func(t *testing.T) {
			server := testbed.StartRedis(t)
			requests := server.Hear(t, "capture")
			r := start(t, server)
			by := "rsyslog@" + strings.Split(hostName(t), ".")[0]
			for name, test := range map[string]struct{ line, node, tags, bpf string }{
				"no address":   {"web1 disk[7]: it broke", "web1", "disk", ""},
				"an address":   {"web1 sshd: refused from 192.0.2.7 port 1", "web1", "sshd", "host 192.0.2.7"},
				"at the end":   {"web1 sshd: refused 192.0.2.7.", "web1", "sshd", "host 192.0.2.7"},
				"five numbers": {"web1 snmp: .1.3.6.1.4.1", "web1", "snmp", ""},
				"six numbers":  {"web1 snmp: 1.3.6.1.4.1", "web1", "snmp", ""},
				"a big number": {"web1 sshd: from 192.0.2.256", "web1", "sshd", ""},
				"nobody":       {"web1 sshd: on 0.0.0.0", "web1", "sshd", ""},
				"a filter":     {"web1 sshd: 192.0.2.7 or net 0.0.0.0/0", "web1", "sshd", "host 192.0.2.7"},
				"commas":       {"web1 a,customer:b: x", "web1", "a_customer", ""},
			} {
				t.Run(name, func(t *testing.T) {
					r.send("<11>Nov 28 01:02:03 " + test.line)
					heard := heardRequest(t, requests, time.Minute)
					heard.check(t, requested{"node": test.node, "tags": "rsyslog," + test.tags,
						"interface": "default",
						"timeout":   10.0, "by": by, "nodere": nil, "lookback": nil})
					if bpf, _ := heard["bpf"].(string); bpf != test.bpf {
						t.Errorf("bpf: want %q, got %q", test.bpf, bpf)
					}
				})
			}
			for name, text := range hostileTexts {
				t.Run("hostile/"+name, func(t *testing.T) {
					text = text[:min(len(text), 20_000)] // of a datagram's 64 KiB
					r.send("<11>Nov 28 01:02:03 " + text + " " + text + ": \x00" + text)
					heardRequest(t, requests, time.Minute).checkHarmless(t, "node", "id")
				})
			}
			r.send("<14>Nov 28 01:02:03 web1 test: not that bad")
			r.send("<11>Nov 28 01:02:03 web1 pcapdaemon: redis is away")
			r.send("<11>Nov 28 01:02:03 last x: y")
			heardRequest(t, requests, time.Minute).check(t, requested{"node": "last"})
		})
	}
}

// A rsyslogStorm is an rsyslog with the limit of the example, and who hears its requests.
type rsyslogStorm struct {
	*rsyslog
	server   *testbed.Redis
	requests <-chan []byte
}

// startStorm starts one, with other words in some places of the example.
func startStorm(t *testing.T, words ...string) *rsyslogStorm {
	t.Helper()
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	words = append(words, `"interface\":\"default\", \"timeout\":10`, `"interface\":\"lo\", \"timeout\":1`)
	return &rsyslogStorm{startRsyslog(t, nil, append(toServer(server)[:2], words...)...), server, requests}
}

// blow sends a thousand lines in a second, or as fast as the log takes them, and waits until it
// has all: a log that is held up never does.
func (s *rsyslogStorm) blow(t *testing.T, text string) {
	t.Helper()
	const ahead = 100 // lines for which the socket has room
	before, began := len(s.taken()), time.Now()
	has := func(lines int) {
		t.Helper()
		testbed.Eventually(t, time.Minute, fmt.Sprintf("the log has %d lines of %s", lines, text), func() bool {
			return len(s.taken()) >= before+lines
		})
	}
	for n := range 1000 {
		s.send(fmt.Sprintf("<11>Nov 28 01:02:03 web1 app: %s %d", text, n))
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
		if n%ahead == 0 {
			has(max(0, n-ahead))
		}
	}
	has(1000)
}

// again waits until the limit is over, which is when the next line gets through, and returns how
// many requests of the storm came before.
func (s *rsyslogStorm) again(t *testing.T, what string) (before int) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, what, func() bool {
		s.send("<11>Nov 28 01:02:03 web2 " + "app: " + what)
		for len(s.requests) > 0 {
			r := parseRequested(t, string(<-s.requests))
			if r["node"] == "web2" {
				return true
			}
			r.check(t, requested{"node": "web1"})
			before++
		}
		return false
	})
	if n := len(s.requests); n > 0 {
		t.Errorf("%s: want one request, got %d more", what, n)
	}
	s.checkQueue(t)
	return before
}

// checkQueue fails if more requests have waited than there may.
func (s *rsyslogStorm) checkQueue(t *testing.T) {
	t.Helper()
	if got := s.fullest(t); got > 2 {
		t.Errorf("want at most 2 waiting, got %d", got)
	}
}

// stormLimit is how long the example asks for nothing after it has asked.
const stormLimit = 10 * time.Second

// begin lets one request through, and waits until its limit is over.
func (s *rsyslogStorm) begin(t *testing.T) {
	t.Helper()
	s.send("<11>Nov 28 01:02:03 web1 app: begin")
	heardRequest(t, s.requests, time.Minute).check(t, requested{"node": "web1"})
	time.Sleep(stormLimit)
}

// TestRsyslogStorm: a thousand lines in a second become one capture. The limit is longer than
// any machine needs for them.
func TestRsyslogStorm(t *testing.T) {
	t.Parallel()
	s := startStorm(t, `Interval="10"`, `Interval="3600"`)
	results := listen(t, s.server)
	testbed.NeedRoot(t)
	testbed.Start(t, daemonCommand(s.server, keeping(t.TempDir())...))
	s.server.AwaitSubscribers(t, time.Minute, 2) // the test is one
	s.blow(t, "first")
	heardRequest(t, s.requests, time.Minute).check(t, requested{"node": "web1", "interface": "lo"})
	results.final(t, time.Minute).check(t, says{"state": "done"})
	results.quiet(t, 2*time.Second) // one capture, and no other
	if n := len(s.requests); n > 0 {
		t.Errorf("want one request, got %d more", n)
	}
	s.checkQueue(t)
}

// TestRsyslogWhileRedisHangs: a server that hangs does not hold up the log, and hears
// of what came meanwhile at most once for each time that the limit was over.
func TestRsyslogWhileRedisHangs(t *testing.T) {
	t.Parallel()
	s := startStorm(t)
	s.begin(t)
	began := time.Now()
	s.server.Signal(t, syscall.SIGSTOP)
	s.blow(t, "while it hangs")
	s.server.Signal(t, syscall.SIGCONT)
	most := 1 + int(time.Since(began)/stormLimit)
	// The publication of the first one hung.
	if got := s.again(t, "when it goes on"); got < 1 || got > most {
		t.Errorf("want 1 to %d requests of what came meanwhile, got %d", most, got)
	}
}

// TestRsyslogWithoutRedis: a server that is away does not hold up the log, and finds no
// old requests when it is back.
func TestRsyslogWithoutRedis(t *testing.T) {
	t.Parallel()
	s := startStorm(t)
	s.begin(t)
	s.server.Signal(t, syscall.SIGKILL)
	s.server.Wait(t, time.Minute)
	s.blow(t, "while it is away")
	s.server.Restart(t)
	s.requests = s.server.Hear(t, "capture")
	if got := s.again(t, "when it is back"); got > 0 {
		t.Errorf("want no old requests, got %d", got)
	}
}

// TestLogLineBecomesCapture: the file begins before the log line that asked for it.
func TestLogLineBecomesCapture(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	server := testbed.StartRedis(t)
	results := listen(t, server)
	startDaemon(t, server, "-writelocal", "-destdir", t.TempDir(), "-record", "lo", "-recordsize", "16MiB",
		"-filter", "host 127.0.0.2") // other tests use this interface, too
	startTalk(t, "127.0.0.2")
	r := startRsyslog(t, nil, append(toServer(server), `"interface\":\"default\", \"timeout\":10`,
		`"interface\":\"lo\", \"timeout\":1`, "#constant(value=\", \\\"lookback", "constant(value=\", \\\"lookback")...)
	time.Sleep(11 * time.Second) // which the file is to reach back
	asked := time.Now()
	r.send("<11>Nov 28 01:02:03 web1 app: no answer from 127.0.0.2")
	results.await(t, time.Minute, "started").check(t, says{"bpf": "host 127.0.0.2", "tags": "rsyslog,app"})
	done := results.final(t, time.Minute)
	done.check(t, says{"state": "done"})
	file, err := os.Open(done.File)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packets, _ := testbed.ReadPcap(t, file)
	if len(packets) == 0 {
		t.Fatal("the file is empty")
	}
	// Ten seconds count from the request, which comes after the log line.
	if before := asked.Sub(packets[0].Timestamp); before <= 0 || before > 10*time.Second {
		t.Errorf("want a file that begins up to 10 s before the log line, got %v", before)
	}
}
