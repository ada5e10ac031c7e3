package client

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/testbed"
)

// presentHosts are the answers of four hosts to a roll call, two of one name.
func presentHosts() [][]byte {
	recorded, size := 125.4, int64(16<<20)
	large := &result.Limits{Packets: 100_000, Bytes: 100 << 20, Timeout: 3600, Snap: capfile.MaxSnap, Captures: 16, Return: &size}
	small := &result.Limits{Packets: 5, Bytes: 1500, Timeout: 90, Snap: 96, Captures: 1, Return: new(int64)}
	wan := []result.Interface{{Name: "eth0", Alias: "wan", Up: true, Recorded: &recorded}, {Name: "lo"}}
	tab := []result.Interface{{Name: "e\t", Up: true}}
	var messages [][]byte
	for _, r := range []result.Result{
		{Node: "web2", Limits: large, Presence: &result.Presence{Version: "1.0", Format: "pcap", Running: 3, Interfaces: wan}},
		{Node: "web1", Limits: small, Presence: &result.Presence{Version: "1.0", Format: "pcapng", Running: 0, Interfaces: []result.Interface{{Name: "eth0", Up: true}}}},
		{Node: "web2", Limits: large, Presence: &result.Presence{Version: "0.9", Format: "pcap", Running: 0, Interfaces: nil}},
		{Node: "a\x1b[2J\tb", Limits: small, Presence: &result.Presence{Version: "1\n", Format: "pcap", Running: 0, Interfaces: tab}},
	} {
		r.ID, r.State = "r1", result.Present
		messages = append(messages, r.Encode())
	}
	return messages
}

func TestRollTable(t *testing.T) {
	var out, errs bytes.Buffer
	v := &roll{out: &out, err: &errs, table: true}
	for _, message := range presentHosts() {
		v.heard(message)
	}
	v.heard([]byte(`{"id":"r1","node":"web9","state":"done"}`))
	v.close()
	want := []string{
		`NODE           FORMAT  RUNNING  INTERFACE   LINK  RECORDED`,
		`a\x1b[2J\tb    pcap    0 of 1   e\t         up    -`,
		`web1           pcapng  0 of 1   eth0        up    -`,
		`web2 (1 of 2)  pcap    3 of 16  eth0 (wan)  up    2m5s`,
		`                                lo          down  -`,
		`web2 (2 of 2)  pcap    0 of 16  none        -     -`,
		`VERSION  PACKETS  BYTES   TIME   SNAP  RETURN  NODES`,
		`1\n      5        1500    1m30s  96    -       a\x1b[2J\tb`,
		`1.0      5        1500    1m30s  96    -       web1`,
		`1.0      100000   100MiB  1h     -     16MiB   web2 (1 of 2)`,
		`0.9      100000   100MiB  1h     -     16MiB   web2 (2 of 2)`,
	}
	if got := testbed.ReadLines(out.String()); !slices.Equal(want, got) {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	out.Reset()
	if (&roll{out: &out, err: &errs, table: true}).close(); out.Len() > 0 {
		t.Errorf("want no table of nobody, got %s", out.String())
	}
}

// TestRollTableFits: hosts as they usually are fit in 60 columns, and a fleet of equal ones says once
// what it grants.
func TestRollTableFits(t *testing.T) {
	size, recorded := int64(512<<20), 3599.0
	limits := &result.Limits{Packets: 100_000, Bytes: 100 << 20, Timeout: 5400, Snap: 65535, Captures: 16, Return: &size}
	for name, nodes := range map[string][]string{"one": {"tap1"}, "equal": {"web1", "web2", "web3.example"},
		"unequal": {"web1", "web2", "web3", "web4", "db1.example", "db2.example"}} {
		var out bytes.Buffer
		v := &roll{out: &out, err: &out, table: true}
		for _, node := range nodes {
			p := result.Result{ID: "r1", Node: node, State: result.Present, Limits: limits, Presence: &result.Presence{
				Version: "v1.10.0", Format: "pcapng", Running: 16,
				Interfaces: []result.Interface{{Name: "lo", Up: true}, {Name: "enp0s31f6", Up: false, Recorded: &recorded}}}}
			if name == "unequal" && strings.HasPrefix(node, "db") {
				p.Version = "v1.9.0"
			}
			v.heard(p.Encode())
		}
		v.close()
		for line := range strings.Lines(out.String()) {
			if n := len(line) - 1; n > 60 || strings.TrimRight(line, " \n") != line[:n] {
				t.Errorf("%s: want at most 60 columns and none that is empty, got %d: %q", name, n, line)
			}
		}
		_, grants, _ := strings.Cut(out.String(), "NODES\n")
		if want := map[string]int{"one": 1, "equal": 1, "unequal": 4}[name]; strings.Count(grants, "\n") != want {
			t.Errorf("%s: want %d lines of what they grant, got\n%s", name, want, grants)
		}
		if strings.HasSuffix(grants, " all\n") != (name == "equal") {
			t.Errorf("%s: want all nodes named together if they are equal, got\n%s", name, grants)
		}
	}
}

func TestRollLines(t *testing.T) {
	var out, errs bytes.Buffer
	v := &roll{out: &out, err: &errs}
	messages := presentHosts()
	for _, message := range messages {
		v.heard(message)
	}
	v.close()
	if want, got := string(bytes.Join(messages, []byte("\n")))+"\n", out.String(); want != got {
		t.Errorf("want the answers as they came:\n%s\ngot\n%s", want, got)
	}
	if want, got := "web2: 2 hosts have this name\n", errs.String(); want != got {
		t.Errorf("want %q, got %q", want, got)
	}
}

// TestRollOfOddHosts: what a host leaves out of its answer is no reason to fall.
func TestRollOfOddHosts(t *testing.T) {
	for _, table := range []bool{true, false} {
		var out, errs bytes.Buffer
		v := &roll{out: &out, err: &errs, table: table}
		for _, message := range []string{
			`{"id":"r1","node":"a","state":"present"}`,
			`{"id":"r1","node":"b","state":"present","limits":null,"interfaces":null}`,
			`{"id":"r1","node":"c","state":"present","limits":{},"interfaces":[{}]}`,
			`{"id":"r1","state":"present"}`,
		} {
			v.heard([]byte(message))
		}
		v.close()
		if got := len(testbed.ReadLines(out.String())); got < 4 || errs.Len() > 0 {
			t.Errorf("want a line for each of four hosts, got %d: %s%s", got, out.String(), errs.String())
		}
	}
}

// TestRollCall drives the program: it asks, and ends when all have answered or nobody does.
func TestRollCall(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	requests := r.Hear(t, "capture")
	asked := make(chan map[string]any, 1)
	go func() {
		var request map[string]any
		_ = json.Unmarshal(<-requests, &request)
		asked <- request
		for _, message := range presentHosts()[:1] {
			message = bytes.Replace(message, []byte(`"r1"`), []byte(`"`+request["id"].(string)+`"`), 1)
			r.Do(t, "PUBLISH", "capture-results", message)
		}
	}()
	redis := "redis://" + r.Address()
	began := time.Now()
	out, errs, code := ask(t, redis, "", "rollcall=true", "nodere=^web")
	if code != Done || states(t, out) != "present" || time.Since(began) > time.Second {
		t.Errorf("want one host at once, got outcome %d after %v: %s%s", code, time.Since(began), out, errs)
	}
	request := <-asked
	if by, _ := request["by"].(string); request["nodere"] != "^web" || request["rollcall"] != true || by == "" {
		t.Errorf("want a roll call, got %v", request)
	}
	if out, errs, code := ask(t, redis, "", "rollcall=true"); code != Unanswered || out != "" {
		t.Errorf("want outcome %d when nobody answers, got %d: %s%s", Unanswered, code, out, errs)
	}
}

// TestRollTrouble: each host that can capture nothing is named, in a table and beside lines.
func TestRollTrouble(t *testing.T) {
	for _, table := range []bool{true, false} {
		var errs bytes.Buffer
		v := &roll{out: io.Discard, err: &errs, table: table}
		for _, message := range []string{
			`{"id":"r1","node":"a","state":"present","trouble":"no capability"}`,
			`{"id":"r1","node":"b","state":"present"}`,
			`{"id":"r1","node":"c","state":"present","trouble":"\u001b[2J"}`,
		} {
			v.heard([]byte(message))
		}
		v.close()
		const want = "a: nothing can be captured: no capability\nc: nothing can be captured: \\x1b[2J\n"
		if got := errs.String(); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}
