package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestAnyNamesInterfaces: packets of all interfaces say which one they came on, in
// both formats, live and recorded, and tcpdump and Wireshark's tools read that.
func TestAnyNamesInterfaces(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "tcpdump", "tshark", "capinfos")
	stream := testbed.StartStream(t, time.Millisecond)
	request := `{"interface":"any","packets":20,"timeout":5,"bpf":"ifindex 1 and inbound and ` + stream.Filter() + `"}`
	for name, args := range map[string][]string{
		"pcap":   {"-format", "pcap"},
		"pcapng": {"-format", "pcapng"},
	} {
		t.Run("live "+name, func(t *testing.T) {
			out, err := exec.Command(binary, append(append(args, keeping(t.TempDir())...), "-request", request)...).Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			lines := testbed.ReadLines(string(out))
			var done result
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &done); err != nil {
				t.Fatal(err)
			}
			checkNamesLoopback(t, done)
		})
	}
	t.Run("recorded", func(t *testing.T) {
		r := testbed.StartRedis(t)
		l := listen(t, r)
		startDaemon(t, r, append(keeping(t.TempDir()), append(passing(stream), "-record", "any", "-recordsize", "8MiB")...)...)
		r.Publish(t, `{"node":"web1","lookback":5,`+request[1:])
		checkNamesLoopback(t, l.await(t, time.Minute, "done", "failed"))
	})
}

// checkNamesLoopback checks a file of 20 packets that came in on the loopback interface.
func checkNamesLoopback(t *testing.T, done result) {
	t.Helper()
	if done.State != "done" || done.Packets != 20 {
		t.Fatalf("want 20 packets, got %s", done.text)
	}
	for command, want := range map[string]string{
		"tcpdump -nr":  "lo    In  IP 127.0.0.1",
		"capinfos -E":  "Linux cooked-mode capture v2",
		"capinfos -Mc": "20",
	} {
		words := strings.Fields(command)
		out, err := exec.Command(words[0], append(words[1:], done.File)...).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: want %q, got %v, %s", command, want, err, out)
		}
	}
	out, err := exec.Command("tshark", "-r", done.File, "-T", "fields", "-e", "sll.ifindex", "-e", "udp.dstport").Output()
	lines := testbed.ReadLines(string(out))
	if err != nil || len(lines) != 20 || !strings.HasPrefix(lines[0], "1\t") || len(lines[0]) < 3 {
		t.Errorf("tshark: want 20 lines with interface 1 and a port, got %v, %s", err, out)
	}
}
