package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// newFollowing returns a request that was published now.
func newFollowing(out *bytes.Buffer) *following {
	now := time.Now()
	return &following{id: "r1", published: now, answered: now, running: map[string]time.Time{}, lasting: time.Minute, out: out}
}

func TestFollowing(t *testing.T) {
	say := func(node, state string) string {
		return fmt.Sprintf(`{"id":"r1","node":"%s","interface":"eth0","state":"%s"}`, node, state)
	}
	for name, test := range map[string]struct {
		said []string
		over time.Duration // after the publication
	}{
		"nobody answers":               {nil, calm},
		"all refuse":                   {[]string{say("a", "refused")}, calm},
		"one done":                     {[]string{say("a", "started"), say("a", "done")}, gathering},
		"one refuses, one done":        {[]string{say("b", "refused"), say("a", "started"), say("a", "done")}, gathering},
		"one runs for ever":            {[]string{say("a", "started"), say("b", "started"), say("b", "done")}, time.Minute},
		"others' results do not count": {[]string{`{"id":"r2","node":"a","state":"started"}`, "nonsense"}, calm},
	} {
		var out bytes.Buffer
		f := newFollowing(&out)
		for _, message := range test.said {
			f.take([]byte(message))
		}
		before, after := f.published.Add(test.over-50*time.Millisecond), f.answered.Add(test.over+50*time.Millisecond)
		if f.over(before) || !f.over(after) {
			t.Errorf("%s: want it over after %v", name, test.over)
		}
		if want := strings.Count(strings.Join(test.said, ""), `"r1"`); len(testbed.ReadLines(out.String())) != want {
			t.Errorf("%s: want %d lines, got %q", name, want, out.String())
		}
	}
}

func TestFollowingForPeople(t *testing.T) {
	var out bytes.Buffer
	f := newFollowing(&out)
	f.live = true
	f.take([]byte(`{"id":"r1","node":"a\u001b[2J","interface":"eth0","state":"done","stop":"packets","packets":50,"bytes":4200,"file":"/x.pcap"}`))
	f.take([]byte(`{"id":"r1","node":"a","interface":"eth0","state":"started"}`))
	f.show(f.answered.Add(3 * time.Second))
	for _, want := range []string{`a\x1b[2J  eth0  done  50 packets, 4.2 kB, 0 dropped, stopped by packets  /x.pcap`, "1 capturing: a eth0 3s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q, got %q", want, out.String())
		}
	}
}
