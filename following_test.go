package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// A heard is a result and when it comes, after the publication.
type heard struct {
	at     time.Duration
	result string // node interface state [start]
}

// decode returns the result as it would come from the channel.
func (h heard) decode(t *testing.T) result {
	t.Helper()
	words := append(strings.Fields(h.result), "")
	fields := map[string]string{"id": "r1", "node": words[0], "interface": strings.Trim(words[1], "-"), "state": words[2]}
	if words[3] != "" {
		fields["started"] = "2026-01-02T03:04:05.00000000" + words[3] + "Z"
	}
	message, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeResult(message)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// followed returns a following that has heard all this, and when it began.
func followed(t *testing.T, listeners int, interfaces string, all ...heard) (*following, time.Time) {
	t.Helper()
	began := time.Now()
	q := question{id: "r1", request: request{Interfaces: strings.Fields(interfaces)}}
	f := newFollowing(q, listeners, time.Minute, began)
	for _, h := range all {
		now := began.Add(h.at)
		switch h.result {
		case "lost":
			f.lose(now)
		case "regained":
			f.regain(now)
		default:
			f.take(h.decode(t), now)
		}
	}
	return f, began
}

func TestFollowing(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, test := range map[string]struct {
		listeners int
		heard     []heard
		over      time.Duration // after the publication
		code      int
	}{
		"nobody answers":                {2, nil, 3 * s, exitNobody},
		"the only host is done":         {1, []heard{{0, "a eth0 started 1"}, {50 * ms, "a eth0 done 1"}}, 50 * ms, exitOK},
		"the only host refuses":         {1, []heard{{40 * ms, "a eth0 refused"}}, 40 * ms, exitFailed},
		"the only host fails":           {1, []heard{{0, "a eth0 started 1"}, {s, "a eth0 failed 1"}}, s, exitFailed},
		"another host may be late":      {2, []heard{{0, "a eth0 started 1"}, {50 * ms, "a eth0 done 1"}}, 3 * s, exitOK},
		"another host is late":          {2, []heard{{0, "a eth0 started 1"}, {50 * ms, "a eth0 done 1"}, {1500 * ms, "b eth0 started 2"}, {2 * s, "b eth0 done 2"}}, 2 * s, exitOK},
		"a third host may be later":     {3, []heard{{0, "a eth0 refused"}, {2 * s, "b eth0 refused"}}, 5 * s, exitFailed},
		"a long capture, then no wait":  {2, []heard{{0, "a eth0 started 1"}, {30 * s, "a eth0 done 1"}}, 30 * s, exitOK},
		"the upload has to wait":        {1, []heard{{0, "a eth0 started 1"}, {s, "a eth0 kept 1"}}, s, exitOK},
		"a host falls silent":           {1, []heard{{s, "a eth0 started 1"}}, 61 * s, exitFailed},
		"one of two falls silent":       {2, []heard{{s, "a eth0 started 1"}, {s, "b eth0 started 2"}, {20 * s, "b eth0 done 2"}}, 61 * s, exitFailed},
		"two hosts of one name":         {2, []heard{{0, "a eth0 started 1"}, {0, "a eth0 started 2"}, {s, "a eth0 done 1"}, {9 * s, "a eth0 done 2"}}, 9 * s, exitOK},
		"two of one name refuse":        {2, []heard{{0, "a eth0 refused"}, {s, "a eth0 refused"}}, s, exitFailed},
		"one of two of one name":        {2, []heard{{0, "a eth0 started 1"}, {s, "a eth0 done 1"}}, 3 * s, exitOK},
		"results come twice":            {2, []heard{{0, "a eth0 started 1"}, {s, "a eth0 done 1"}, {s, "a eth0 started 1"}, {2 * s, "a eth0 done 1"}}, 3 * s, exitOK},
		"the start was missed":          {1, []heard{{2 * s, "a eth0 done 1"}}, 2 * s, exitOK},
		"how far it is":                 {1, []heard{{0, "a eth0 started 1"}, {s, "a eth0 running 1"}, {5 * s, "a eth0 done 1"}}, 5 * s, exitOK},
		"how far it is, then silence":   {1, []heard{{0, "a eth0 started 1"}, {50 * s, "a eth0 running 1"}}, 60 * s, exitFailed},
		"a state of the future":         {1, []heard{{0, "a eth0 started 1"}, {s, "a eth0 archived 1"}, {5 * s, "a eth0 done 1"}}, 5 * s, exitOK},
		"a state without a capture":     {1, []heard{{s, "a - present"}}, s, exitOK},
		"done stays done":               {2, []heard{{0, "a eth0 started 1"}, {s, "a eth0 done 1"}, {2 * s, "a eth0 running 1"}}, 3 * s, exitOK},
		"Redis is away, then an answer": {1, []heard{{s, "lost"}, {30 * s, "regained"}, {32 * s, "a eth0 refused"}}, 32 * s, exitFailed},
		"Redis is away, then none":      {1, []heard{{s, "lost"}, {30 * s, "regained"}}, 39 * s, exitNobody},
		"Redis is away at the end":      {1, []heard{{0, "a eth0 started 1"}, {50 * s, "lost"}, {90 * s, "regained"}}, 106 * s, exitFailed},
		"Redis stays away":              {1, []heard{{0, "a eth0 started 1"}, {10 * s, "lost"}}, 70 * s, exitFailed},
		"all were there before":         {2, []heard{{0, "a eth0 started 1"}, {10 * s, "lost"}, {11 * s, "regained"}, {12 * s, "a eth0 done 1"}}, 12 * s, exitOK},
	} {
		f, began := followed(t, test.listeners, "eth0", test.heard...)
		last := time.Duration(0)
		if len(test.heard) > 0 {
			last = test.heard[len(test.heard)-1].at
		}
		if test.over > last && f.over(began.Add(test.over-ms)) {
			t.Errorf("%s: over before %v", name, test.over)
		}
		if !f.over(began.Add(test.over)) {
			t.Errorf("%s: not over after %v", name, test.over)
		}
		if got := f.exitCode(); got != test.code {
			t.Errorf("%s: want exit code %d, got %d", name, test.code, got)
		}
	}
}

// TestFollowingInterfaces: a host has answered when it has for each interface, or once for all.
func TestFollowingInterfaces(t *testing.T) {
	for name, test := range map[string]struct {
		listeners int
		heard     []heard
		over      bool
	}{
		"one of two":            {1, []heard{{0, "a eth0 refused"}}, false},
		"both":                  {1, []heard{{0, "a eth0 refused"}, {0, "a eth1 refused"}}, true},
		"one word for all":      {1, []heard{{0, "a - refused"}}, true},
		"one of them goes on":   {1, []heard{{0, "a eth0 refused"}, {0, "a eth1 started 1"}}, false},
		"two hosts of one name": {2, []heard{{0, "a eth0 refused"}, {0, "a eth1 refused"}, {0, "a eth1 refused"}}, false},
		"not asked for":         {1, []heard{{0, "a eth0 refused"}, {0, "a eth9 refused"}}, false},
	} {
		f, began := followed(t, test.listeners, "eth0 eth1", test.heard...)
		if got := f.over(began.Add(time.Second)); got != test.over {
			t.Errorf("%s: want over %v, got %v", name, test.over, got)
		}
	}
}

// TestFollowingNews: what is not for this request, or was heard before, is no news.
func TestFollowingNews(t *testing.T) {
	f, began := followed(t, 1, "eth0", heard{0, "a eth0 started 1"}, heard{0, "a eth0 done 1"})
	for result, want := range map[string]bool{
		"a eth0 started 1": false,
		"a eth0 done 1":    false,
		"a eth0 running 1": false,
		"b eth0 refused":   true,
	} {
		if got := f.take(heard{0, result}.decode(t), began); got != want {
			t.Errorf("%s: want news %v, got %v", result, want, got)
		}
	}
	other := heard{0, "c eth0 refused"}.decode(t)
	other.ID = "r2"
	if f.take(other, began) {
		t.Error("a result for another request is news")
	}
}

// TestFollowingNamesTheSilent: who has started and said no more is known by name.
func TestFollowingNamesTheSilent(t *testing.T) {
	f, _ := followed(t, 2, "eth0", heard{0, "a eth0 started 1"}, heard{0, "b eth0 started 2"}, heard{0, "a eth0 done 1"})
	var got []string
	for _, track := range f.silent() {
		got = append(got, track.Node)
	}
	if want := []string{"b"}; !slices.Equal(want, got) {
		t.Errorf("want %q silent, got %q", want, got)
	}
}
