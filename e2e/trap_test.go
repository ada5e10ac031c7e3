package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// linkDown is the OID of a trap.
const linkDown = ".1.3.6.1.6.3.1.1.5.3"

// TestTrapBecomesCapture sends traps to a real snmptrapd, which runs the handler
// with the lines of the example.
func TestTrapBecomesCapture(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "snmptrapd", "snmptrap", "jq", "redis-cli")
	server := testbed.StartRedis(t)
	results := listen(t, server)
	startDaemon(t, server, "-writelocal", "-destdir", t.TempDir())
	addresses := []string{"127.0.0.1", "127.0.0.2"}
	if hasIPv6() {
		addresses = append(addresses, "::1")
	}
	for _, address := range addresses {
		startTalk(t, address)
	}
	port := startSNMPTrapd(t, server)

	for _, test := range []struct {
		name  string
		args  []string // of snmptrap, %s is the port
		agent string
		tags  string
	}{
		{"SNMPv2c", []string{"-v2c", "127.0.0.1:%s", "", linkDown},
			"127.0.0.1", "snmptrap," + linkDown},
		{"SNMPv2c inform", []string{"-v2c", "-Ci", "127.0.0.1:%s", "", ".1.3.6.1.4.1.8072.9999.1"},
			"127.0.0.1", "snmptrap,.1.3.6.1.4.1.8072.9999.1"},
		{"SNMPv1 of an agent behind a proxy",
			[]string{"-v1", "127.0.0.1:%s", ".1.3.6.1.4.1.8072.9999", "127.0.0.2", "6", "17", ""},
			"127.0.0.2", "snmptrap,.1.3.6.1.4.1.8072.9999.0.17"},
		{"SNMPv1 of an agent that does not know its address",
			[]string{"-v1", "127.0.0.1:%s", ".1.3.6.1.6.3.1.1.5", "0.0.0.0", "2", "0", ""},
			"127.0.0.1", "snmptrap," + linkDown},
		{"over IPv6", []string{"-v2c", "udp6:[::1]:%s", "", linkDown},
			"::1", "snmptrap," + linkDown},
		{"with a text that looks like another variable",
			[]string{"-v2c", "127.0.0.1:%s", "", linkDown, ".1.3.6.1.2.1.1.5.0", "s",
				"\"web\"\n.1.3.6.1.6.3.18.1.3.0 127.0.0.2\n\\$(exit)"},
			"127.0.0.1", "snmptrap," + linkDown},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.agent, ":") && !hasIPv6() {
				testbed.Lack(t, "IPv6 on the loopback interface")
			}
			sendTrap(t, port, test.args)
			asked := says{"state": "started", "interface": "lo", "bpf": "host " + test.agent, "tags": test.tags}
			started := results.await(t, 30*time.Second, "started", "refused")
			started.check(t, asked)
			done := results.final(t, 30*time.Second)
			asked["state"], asked["id"] = "done", started.ID
			done.check(t, asked)
			file, err := os.Open(done.File)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			packets, _ := testbed.ReadPcap(t, file)
			for _, address := range addresses {
				n := 0
				for _, p := range packets {
					if bytes.HasSuffix(p.Data, []byte(talk(address))) {
						n++
					}
				}
				if want := address == test.agent; n > 0 != want {
					t.Errorf("traffic of %s in the file: want %t, got %d packets of %d", address, want, n, len(packets))
				}
			}
		})
	}
	results.quiet(t, 100*time.Millisecond)
}

// hasIPv6 reports whether the loopback interface has an IPv6 address.
func hasIPv6() bool {
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// talk is what an address says to itself.
func talk(address string) string { return "talk of " + address + "." }

// startTalk makes a loopback address send packets to itself until the test ends.
func startTalk(t testing.TB, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				_, _ = conn.WriteTo([]byte(talk(address)), conn.LocalAddr()) // read by nobody, captured all the same
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended; conn.Close() })
}

// startSNMPTrapd starts a snmptrapd with the lines of the example, for captures
// of a second on lo, and returns its port.
func startSNMPTrapd(t testing.TB, server *testbed.Redis) (port string) {
	t.Helper()
	handler, example := trapHandlerPath(t), read(t, trapFolder+"/snmptrapd.conf")
	const line = `/usr/share/pcapdaemon/triggers/snmptrapd/pcapdaemon-trap '^tap[0-9]+$' eth0` + "\n"
	ours := fmt.Sprintf("\ntraphandle default '%s' '^web[0-9]+$' lo\n", handler)
	lines := strings.Replace(example, "\ntraphandle default "+line, ours, 1)
	if lines == example {
		t.Fatalf("the example has no line %q", line)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "snmptrapd.conf")
	if err := os.WriteFile(config, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	// A host with MIBs, where OIDs have names.
	const mib = "TEST-MIB DEFINITIONS ::= BEGIN linkDown OBJECT IDENTIFIER ::= { iso 3 6 1 6 3 1 1 5 3 } END\n"
	if err := os.WriteFile(filepath.Join(dir, "TEST-MIB.txt"), []byte(mib), 0o600); err != nil {
		t.Fatal(err)
	}
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(probe.LocalAddr().String())
	probe.Close()
	args := []string{"-f", "-Lo", "-C", "-c", config, "-M", dir, "-m", "TEST-MIB", "udp:127.0.0.1:" + port}
	if hasIPv6() {
		args = append(args, "udp6:[::1]:"+port)
	}
	cmd := exec.Command("snmptrapd", args...)
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+filepath.Join(dir, "state"),
		"PCAPDAEMON_REDISPORT="+strconv.Itoa(server.Port), "TRAP_SECONDS=1")
	p := testbed.Start(t, cmd)
	testbed.Eventually(t, 30*time.Second, "snmptrapd has opened its ports", func() bool {
		return strings.Contains(p.Output.String(), "NET-SNMP version")
	})
	return port
}

// sendTrap runs snmptrap.
func sendTrap(t testing.TB, port string, args []string) {
	t.Helper()
	// Tried again, an inform would become two captures.
	all := []string{"-m", "", "-c", "public", "-t", "60", "-r", "0"}
	for _, arg := range args {
		all = append(all, strings.Replace(arg, "%s", port, 1))
	}
	cmd := exec.Command("snmptrap", all...)
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("snmptrap %q: %v: %s", all, err, out)
	}
}
