package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestLog: one line an event, with the request's id, and nothing from a request can forge another.
func TestLog(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	for format, check := range map[string]func(line string) bool{
		"text": func(line string) bool { return strings.HasPrefix(line, "time=") },
		"json": func(line string) bool { return json.Valid([]byte(line)) },
	} {
		t.Run(format, func(t *testing.T) {
			d := startDaemon(t, r, append(keeping(t.TempDir()), "-logformat", format)...)
			r.Publish(t, `{"node":"web1","interface":"x\nlevel=error\u001b[31m","id":"forged\nid"}`)
			l.next(t, 5*time.Second)
			r.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"id":"good id"}`)
			l.await(t, 5*time.Second, "done")
			d.Signal(t, syscall.SIGTERM)
			d.Wait(t, 5*time.Second)
			lines := testbed.ReadLines(d.Output.String())
			about := 0
			for _, line := range lines {
				if !check(line) || strings.Contains(line, "\x1b") {
					t.Errorf("not one line of %s: %q", format, line)
				}
				if strings.Contains(line, "good id") || strings.Contains(line, "forged") {
					about++
				}
			}
			if about != 3 {
				t.Errorf("want 3 lines about requests, got %d: %s", about, d.Output.String())
			}
		})
	}
}

// TestLogLevel: requests for others are seen at debug only.
func TestLogLevel(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	for level, want := range map[string]bool{"debug": true, "info": false} {
		d := startDaemon(t, r, append(keeping(t.TempDir()), "-loglevel", level)...)
		r.Publish(t, `{"node":"other"}`)
		r.Publish(t, `{"node":"web1"}`)
		l.next(t, 5*time.Second)
		d.Signal(t, syscall.SIGTERM)
		d.Wait(t, 5*time.Second) // by then all lines are written
		if got := strings.Contains(d.Output.String(), "another node"); got != want {
			t.Errorf("%s: want %v, got %v: %s", level, want, got, d.Output.String())
		}
	}
}

// TestSecretsAreNotShown looks for them wherever the daemon writes.
func TestSecretsAreNotShown(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "default", "on", ">geheim")
	p := testbed.Start(t, exec.Command(binary, "-upload", "-csscheme", "http", "-cshost", "127.0.0.1:1",
		"-cstoken", sharktest.Token, "-cstimeout", "1s", "-loglevel", "debug",
		"-redisurl", "redis://default:falsch@"+r.Address()))
	testbed.Eventually(t, 5*time.Second, "refused by Redis", func() bool {
		return strings.Contains(p.Output.String(), "WRONGPASS")
	})
	log := p.Output.String()
	for _, flag := range []string{"-cstoken", "-redisurl"} {
		if !strings.Contains(log, flag) {
			t.Errorf("want a warning for %s", flag)
		}
	}
	for _, secret := range []string{sharktest.Token, "falsch", "geheim"} {
		if strings.Contains(log, secret) {
			t.Errorf("the secret %s is in the log: %s", secret, log)
		}
	}
}
