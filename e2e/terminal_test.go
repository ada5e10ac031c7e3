package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
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

// A fleet is hosts that a test plays: all of them answer every request.
type fleet struct {
	redis    *testbed.Redis
	hosts    int
	requests chan map[string]any
}

// startFleet plays hosts. They tell of a capture that goes on until it is
// stopped, and return its file of three bytes then.
func startFleet(t *testing.T, r *testbed.Redis, hosts int) *fleet {
	t.Helper()
	f := &fleet{redis: r, hosts: hosts, requests: make(chan map[string]any, 10)}
	heard, done := r.Hear(t, "capture"), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case message := <-heard:
				var request map[string]any
				_ = json.Unmarshal(message, &request)
				f.answer(t, request)
				f.requests <- request
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return f
}

// answer tells what all hosts have to say of a request.
func (f *fleet) answer(t *testing.T, request map[string]any) {
	for n := range f.hosts {
		capture := fmt.Sprintf(`"node":"n%d","interface":"eth0","started":"2026-01-02T03:04:05.%09dZ"`, n+1, n)
		tell := func(id any, rest string) {
			f.redis.Do(t, "PUBLISH", "capture-results", fmt.Sprintf(`{"id":"%v",%s,%s}`, id, capture, rest))
		}
		if id, stops := request["stop"]; stops {
			key := fmt.Sprintf("capture-results:%v:n%d:eth0", id, n+1)
			f.redis.Do(t, "SET", key, "abc")
			tell(id, fmt.Sprintf(`"state":"done","stop":"request","packets":5,"bytes":3,"key":"%s","name":"n%d.pcap"`, key, n+1))
			continue
		}
		tell(request["id"], `"state":"started","limits":{"packets":1000,"bytes":1000000,"timeout":60}`)
		tell(request["id"], `"state":"running","packets":500,"bytes":1000`)
	}
}

// startClient runs a client on a terminal.
func startClient(t *testing.T, r *testbed.Redis, screen *testbed.Terminal, args ...string) *testbed.Process {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"-redisport", strconv.Itoa(r.Port)}, args...)...)
	cmd.Stdin, cmd.Stdout = screen.File, screen.File
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return testbed.Start(t, cmd)
}

// awaitRows waits until the terminal shows so many captures under way, and their rows whole.
func awaitRows(t *testing.T, screen *testbed.Terminal, want int) {
	t.Helper()
	testbed.Eventually(t, time.Minute, "captures are shown", func() bool {
		rows := strings.Join(screen.Screen(), "\n")
		return strings.Count(rows, " running ") == want && strings.Count(rows, "s left") == want
	})
}

// TestTerminal: a key on the keyboard of one who asks ends the captures of all hosts, and brings the files.
func TestTerminal(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	f := startFleet(t, r, 5)
	screen, dir := testbed.OpenTerminal(t, 80, 24), t.TempDir()
	client := startClient(t, r, screen, "-destdir", dir, "-publish", "nodere=^n", "interface=eth0", "id=mine")
	awaitRows(t, screen, 5)
	request := <-f.requests
	for field, want := range map[string]any{"nodere": "^n", "return": true, "progress": 1.0, "id": "mine"} {
		if got := request[field]; got != want {
			t.Errorf("want %s %v in the request, got %v", field, want, got)
		}
	}
	if by, _ := request["by"].(string); !strings.Contains(by, "@") {
		t.Errorf("want user@host, got %q", by)
	}
	for _, line := range screen.Screen() {
		for _, part := range []string{"500 packets", "#.", "s left"} {
			if !strings.Contains(line, part) {
				t.Errorf("want %q, got %q", part, line)
			}
		}
	}

	began := time.Now()
	screen.Type(t, "\x03")
	if code := client.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	t.Logf("from Ctrl-C to the last file: %v (should be 1.5s)", time.Since(began))
	stop := <-f.requests
	if want := map[string]any{"stop": "mine", "nodere": "^n", "by": request["by"]}; !maps.Equal(want, stop) {
		t.Errorf("want a stop of what was asked, %v, got %v", want, stop)
	}
	for n := range 5 {
		file := filepath.Join(dir, fmt.Sprintf("n%d.pcap", n+1))
		if content, err := os.ReadFile(file); string(content) != "abc" {
			t.Errorf("want the file, got %q, %v", content, err)
		}
		testbed.Eventually(t, 30*time.Second, file+" is on the screen", func() bool {
			return strings.Contains(strings.Join(screen.All(), ""), file) // the line may be wrapped
		})
	}
	if all := strings.Join(screen.All(), "\n"); strings.Contains(all, "running") {
		t.Errorf("want nothing left of the bars, got\n%s", all)
	}
	if keys := r.Do(t, "KEYS", "*").([]any); len(keys) > 0 {
		t.Errorf("want no keys left, got %s", keys)
	}
}

// TestTerminalIsLeft: twice on the keyboard, and it is said how to stop by hand.
func TestTerminalIsLeft(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startFleet(t, r, 1)
	screen := testbed.OpenTerminal(t, 80, 24)
	client := startClient(t, r, screen, "-publish", "node=any", "interface=eth0", "id=mine")
	awaitRows(t, screen, 1)
	// The host is not stopped by a stop that it does not hear.
	r.Do(t, "ACL", "SETUSER", "default", "-publish")
	screen.Type(t, "\x03")
	testbed.Eventually(t, 30*time.Second, "the stop is not published", func() bool {
		return strings.Contains(client.Output.String(), "stop not published: ")
	})
	screen.Type(t, "\x03")
	if code := client.Wait(t, 30*time.Second); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if want := "pcapdaemon -publish node=any stop=mine"; !strings.Contains(client.Output.String(), want) {
		t.Errorf("want %q, got %s", want, client.Output.String())
	}
}
