package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// unpackedSyslogNG is where packaging/deps unpacks syslog-ng, which cannot be
// installed beside rsyslog.
const unpackedSyslogNG = "/opt/syslog-ng/usr"

// startSyslogNG starts a real syslog-ng with the lines of the example, and returns
// the connection that it takes log lines from.
func startSyslogNG(t testing.TB, server *testbed.Redis, words ...string) net.Conn {
	t.Helper()
	program, modules := unpackedSyslogNG+"/sbin/syslog-ng", unpackedSyslogNG+"/lib/syslog-ng"
	testbed.NeedTools(t, program)
	dir, port := t.TempDir(), testbed.FreePort(t)
	words = append(words, "port(6379)", fmt.Sprintf("port(%d)", server.Port))
	config := writeFile(t, dir, "syslog-ng.conf", fmt.Sprintf("@version: 3.38\noptions { keep-hostname(yes); };\n"+
		"source s_src { network(ip(127.0.0.1) port(%d) transport(udp)); };\n", port)+
		adapt(t, "syslog-ng/pcapdaemon.conf", words...))
	command := func(more ...string) *exec.Cmd {
		cmd := exec.Command(program, append([]string{"-F", "--no-caps", "-f", config, "-R",
			filepath.Join(dir, "persist"),
			"-p", filepath.Join(dir, "pid"), "-c", filepath.Join(dir, "ctl"),
			"--module-path=" + modules + "/3.38:" + modules}, more...)...)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+modules)
		return cmd
	}
	if out, err := command("--syntax-only").CombinedOutput(); err != nil {
		t.Fatalf("syslog-ng refuses its configuration: %s", out)
	}
	testbed.Start(t, command("-e"))
	conn, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// logLine sends a log line.
func logLine(conn net.Conn, line string) { _, _ = conn.Write([]byte(line)) }

// awaitLogLine sends a log line until it has become a request, and returns how many
// of other hosts came before it.
func awaitLogLine(t testing.TB, conn net.Conn, requests <-chan []byte, host string) (others int) {
	t.Helper()
	testbed.Eventually(t, time.Minute, "a log line asks "+host, func() bool {
		logLine(conn, "<11>Nov 28 01:02:03 "+host+" test: are you there")
		time.Sleep(100 * time.Millisecond)
		for len(requests) > 0 {
			if heardRequest(t, requests, time.Second)["node"] == host {
				return true
			}
			others++
		}
		return false
	})
	for len(requests) > 0 {
		<-requests
	}
	return others
}

func TestSyslogNG(t *testing.T) {
	t.Parallel()
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	conn := startSyslogNG(t, server, `rate(1)`, `rate(1000000)`)
	awaitLogLine(t, conn, requests, "web0")
	by := "syslog-ng@" + hostName(t)
	for name, test := range map[string]struct{ line, node, tags, bpf string }{
		"no address":   {"web1 disk[7]: it broke", "web1", "disk", ""},
		"an address":   {"web1 sshd: refused from 192.0.2.7 port 1", "web1", "sshd", "host 192.0.2.7"},
		"at the end":   {"web1 sshd: refused 192.0.2.7.", "web1", "sshd", "host 192.0.2.7"},
		"five numbers": {"web1 snmp: .1.3.6.1.4.1", "web1", "snmp", ""},
		"six numbers":  {"web1 snmp: 1.3.6.1.4.1", "web1", "snmp", ""},
		"a big number": {"web1 sshd: from 192.0.2.256", "web1", "sshd", ""},
		"nobody":       {"web1 sshd: on 0.0.0.0", "web1", "sshd", ""},
		"a filter":     {"web1 sshd: 192.0.2.7 or net 0.0.0.0/0", "web1", "sshd", "host 192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			logLine(conn, "<11>Nov 28 01:02:03 "+test.line)
			heardRequest(t, requests, 10*time.Second).checkOnly(t, requested{"node": test.node, "bpf": test.bpf,
				"tags": "syslog-ng," + test.tags, "interface": "default", "timeout": 10.0, "by": by})
		})
	}
	for name, text := range hostileTexts {
		t.Run("hostile/"+name, func(t *testing.T) {
			text = text[:min(len(text), 20_000)] // of a datagram's 64 KiB
			logLine(conn, "<11>Nov 28 01:02:03 "+text+" "+text+": \x00"+text)
			heardRequest(t, requests, 10*time.Second).checkHarmless(t, "node")
		})
	}
	logLine(conn, "<14>Nov 28 01:02:03 web1 test: not that bad")
	logLine(conn, "<11>Nov 28 01:02:03 web1 pcapdaemon: redis is away")
	logLine(conn, "<11>Nov 28 01:02:03 last x: y")
	heardRequest(t, requests, 10*time.Second).check(t, requested{"node": "last"})
}

// TestSyslogNGStorm: of a thousand lines in a second few ask, and of those that
// find no Redis none asks later.
func TestSyslogNGStorm(t *testing.T) {
	t.Parallel()
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	conn := startSyslogNG(t, server)
	awaitLogLine(t, conn, requests, "web0")
	storm := func() {
		began := time.Now()
		for n := range 1000 {
			logLine(conn, fmt.Sprintf("<11>Nov 28 01:02:03 web1 app: %d", n))
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
		}
	}
	storm()
	awaitLogLine(t, conn, requests, "web2") // after all of them
	storm()
	time.Sleep(time.Second)
	if n := len(requests); n > 10 { // two, where nothing holds the storm up
		t.Errorf("want few requests, got %d", n)
	}
	server.Signal(t, syscall.SIGKILL)
	server.Wait(t, time.Minute)
	storm()
	server.Restart(t)
	requests = server.Hear(t, "capture")
	if late := awaitLogLine(t, conn, requests, "web3"); late > 2 {
		t.Errorf("want at most two requests that waited, got %d", late)
	}
}
