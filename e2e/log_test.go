package e2e

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestLog: one line an event, with the request's id, and nothing from a request can forge another.
func TestLog(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	for format, check := range map[string]func(line string) bool{
		"text": func(line string) bool { return strings.HasPrefix(line, "time=") },
		"json": func(line string) bool { return json.Valid([]byte(line)) },
	} {
		t.Run(format, func(t *testing.T) {
			d := startDaemon(t, r, append(keeping(t.TempDir()), "-logformat", format)...)
			r.Publish(t, `{"node":"web1","interface":"x\nlevel=error\u001b[31m","id":"forged\nid"}`)
			l.next(t, time.Minute)
			r.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"id":"good id"}`)
			l.await(t, time.Minute, "done")
			d.Signal(t, syscall.SIGTERM)
			d.Wait(t, time.Minute)
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
		l.next(t, time.Minute)
		d.Signal(t, syscall.SIGTERM)
		d.Wait(t, time.Minute) // by then all lines are written
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
	testbed.Eventually(t, time.Minute, "refused by Redis", func() bool {
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

// TestLogThatNobodyReads: a full pipe holds up neither requests nor the end,
// and what was not written is said when it flows again.
func TestLogThatNobodyReads(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	cmd := exec.Command("sh", "-c", `exec "$0" "$@" 2>&3`)
	cmd.Args = append(cmd.Args, daemonCommand(r, keeping(t.TempDir())...).Args...)
	cmd.ExtraFiles = []*os.File{to}
	d := testbed.Start(t, cmd)
	to.Close()
	r.AwaitSubscribers(t, time.Minute, 1)
	const messages = 3000 // a line each from the receive loop, far more than a pipe and a queue hold
	for range messages {
		r.Publish(t, `{`)
	}
	r.Publish(t, `{"node":"web1","interface":"nosuch0"}`)
	l.next(t, time.Minute)
	var log testbed.Transcript
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&log, from)
	}()
	testbed.Eventually(t, time.Minute, "all lines are written, or said to be lost", func() bool {
		lost := 0
		for _, match := range regexp.MustCompile(`msg="log dropped" lines=(\d+)`).FindAllStringSubmatch(log.String(), -1) {
			n, _ := strconv.Atoi(match[1]) // digits
			lost += n
		}
		return lost > 0 && lost+strings.Count(log.String(), `msg="message ignored"`) >= messages
	})
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	<-read
}

// TestLogHidesNothing: what a terminal would turn around or obey is written in digits.
func TestLogHidesNothing(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	d := startDaemon(t, r, keeping(t.TempDir())...)
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"tags":"a\u202eb","customer":"c\u009b2Jd","by":"e\u2066f"}`)
	l.final(t, time.Minute)
	r.Publish(t, `{"node":"web1","interface":"x\u202ey"}`)
	l.final(t, time.Minute).check(t, says{"error": about(`x\u202ey`)}) // in the answer as well
	d.Signal(t, syscall.SIGTERM)
	d.Wait(t, time.Minute)
	log := d.Output.String()
	for _, want := range []string{`a\u202eb`, `c\u009b2Jd`, `e\u2066f`, `x\u202ey`} {
		// The quotes of a text within a text are written by another stroke.
		if !strings.Contains(strings.ReplaceAll(log, `\\`, `\`), want) {
			t.Errorf("want %s in the log, got %s", want, log)
		}
	}
	for _, raw := range []string{"\u202e", "\u009b", "\u2066"} {
		if strings.Contains(log, raw) {
			t.Errorf("want no raw %q in the log, got %s", raw, log)
		}
	}
}
