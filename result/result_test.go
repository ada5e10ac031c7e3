package result

import (
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
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

// TestResultDecode: what was encoded is what is decoded, and nobody has to look whether a part is there.
func TestResultDecode(t *testing.T) {
	reach, size := 1.5, int64(16)
	r := Result{ID: "x", Node: "web1", State: Present, Started: Stamp(time.Unix(1, 2).UTC()), AlertID: new(uint64),
		Counts: &Counts{Packets: 1, Bytes: 2}, Losses: &Losses{Received: 3, Dropped: 4, IfDropped: 5},
		Limits: &Limits{Packets: 6, Bytes: 7, Timeout: 8, Snap: 9, Captures: 10, Return: &size},
		Presence: &Presence{Version: "v", Format: "pcap", Running: 11, Trouble: "t",
			Interfaces: []Interface{{Name: "eth0", Alias: "wan", Up: true, Recorded: &reach}}}}
	if got, err := Decode(r.Encode()); err != nil || !reflect.DeepEqual(r, got) {
		t.Errorf("want %s, got %s, %v", r.Encode(), got.Encode(), err)
	}
	got, err := Decode([]byte(`{"state":"done"}`))
	if err != nil || got.Packets+got.Bytes+got.Received+got.Dropped+got.IfDropped+int64(got.Running) != 0 {
		t.Errorf("want zeros, got %+v, %v", got, err)
	}
	for _, message := range []string{``, `[]`, `{"started":"yesterday"}`, `{"packets":"1"}`, `{"id":1}`} {
		if _, err := Decode([]byte(message)); err == nil {
			t.Errorf("%s: want an error", message)
		}
	}
}

func TestDescribe(t *testing.T) {
	done := Result{Node: "web1", Interface: "eth0", State: Done, Stop: "timeout", URL: "http://x", File: "/x.pcap",
		Counts: &Counts{Packets: 1234, Bytes: 56_000}, Losses: &Losses{Dropped: 7, IfDropped: 1}}
	odd := done
	odd.Counts, odd.Node, odd.URL, odd.File = &Counts{Packets: -1, Bytes: -1}, "a\x1b", "", ""
	for want, r := range map[string]Result{
		"web1  eth0  done  1234 packets, 55 KiB, 8 dropped, stopped by timeout  http://x  /x.pcap  /here.pcap": done,
		`a\x1b  eth0  done  -1 packets, 0 B, 8 dropped, stopped by timeout  /here.pcap`:                        odd,
		"web1  refused  /here.pcap  bpf: no":                                                                   {Node: "web1", State: Refused, Error: "bpf: no"},
	} {
		if got := r.Describe("/here.pcap"); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

func TestCells(t *testing.T) {
	reach := 75.6
	for _, test := range []struct {
		of   Interface
		want []string
	}{
		{Interface{Name: "eth0"}, []string{"eth0", "down", "-"}},
		{Interface{Name: "eth0", Alias: "wan", Up: true, Recorded: &reach}, []string{"eth0 (wan)", "up", "1m16s"}},
		{Interface{Name: "e\t", Alias: "w\n", Recorded: new(float64)}, []string{`e\t (w\n)`, "down", "0s"}},
	} {
		if got := test.of.Cells(); !slices.Equal(test.want, got) {
			t.Errorf("want %q, got %q", test.want, got)
		}
	}
}

func TestLimits(t *testing.T) {
	size := int64(16 << 20)
	for want, l := range map[string]Limits{"-": {}, "16MiB": {Return: &size}} {
		if got := l.Returns(); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
	if got := (Limits{Return: new(int64)}).Returns(); got != "-" {
		t.Errorf("want a dash for nothing, got %s", got)
	}
	for seconds, want := range map[float64]time.Duration{
		1.5: 1500 * time.Millisecond, 0: 0, -1: 0, 1e300: MaxSeconds * time.Second, math.Inf(-1): 0,
	} {
		if got := (Limits{Timeout: seconds}).Duration(); got != want {
			t.Errorf("%v: want %v, got %v", seconds, want, got)
		}
	}
}

func TestOver(t *testing.T) {
	for state, want := range map[string]bool{Started: false, Running: false, Kept: true, Done: true, Failed: true,
		Refused: false, Present: false, Fetched: false, "": false, "new": false} {
		if got := (Result{State: state}).Over(); got != want {
			t.Errorf("%q: want %v, got %v", state, want, got)
		}
	}
}

// fieldsOf returns the names that a type and the types of its fields have in JSON.
func fieldsOf(typ reflect.Type) (names []string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return nil
	}
	for i := range typ.NumField() {
		field := typ.Field(i)
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
		if field.IsExported() {
			names = append(names, fieldsOf(field.Type)...)
		}
	}
	return names
}

// TestFieldsAreDocumented: README and man page tell of every field.
func TestFieldsAreDocumented(t *testing.T) {
	for paper, section := range map[string]string{"../README.md": "### Result\n",
		"../packaging/pcapdaemon.8": ".SS Fields\n"} {
		text, err := os.ReadFile(paper)
		if err != nil {
			t.Fatal(err)
		}
		_, told, found := strings.Cut(string(text), section)
		if !found {
			t.Fatalf("%s has no section %q", paper, section)
		}
		told = regexp.MustCompile(`(?m)^(##|\.SH)`).Split(told, 2)[0]
		for _, name := range fieldsOf(reflect.TypeFor[Result]()) {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(told) {
				t.Errorf("%s does not tell of %s", paper, name)
			}
		}
	}
}
