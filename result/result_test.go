package result

import (
	"testing"
	"time"
)

func TestResultEncode(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600))
	started := Result{ID: "x", Node: "web1", Interface: "eth0", State: Started, Started: Stamp(at),
		Tags: "a", Customer: "c", AlertID: new(uint64), Filter: "len > 5", By: "me@here"}
	done := Result{ID: "x", Node: "web1", Interface: "eth0", State: Done}
	done.Stop, done.Counts, done.Losses = "packets", &Counts{Bytes: 24}, &Losses{}
	refused := Result{ID: "x", Node: "web1", State: Refused}
	refused.Error = "bpf: no"
	for want, r := range map[string]Result{
		`{"id":"x","node":"web1","interface":"eth0","state":"started",` +
			`"started":"2026-01-02T02:04:05.000000060Z","tags":"a","customer":"c",` +
			`"alertid":0,"bpf":"len > 5","by":"me@here"}`: started,
		`{"id":"x","node":"web1","interface":"eth0","state":"done","stop":"packets",` +
			`"packets":0,"bytes":24,"received":0,"dropped":0,"ifdropped":0}`: done,
		`{"id":"x","node":"web1","state":"refused","error":"bpf: no"}`: refused,
	} {
		if got := string(r.Encode()); got != want {
			t.Errorf("want %s\n got %s", want, got)
		}
	}
}
