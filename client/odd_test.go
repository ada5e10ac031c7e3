package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"pcapdaemon/result"
	"pcapdaemon/store"
)

// oddValues are what a host may say for anything, as JSON.
var oddValues = []string{`null`, `true`, `-1`, `0`, `1.5`, `1e308`, `1e999`, `9223372036854775807`, `-9223372036854775808`,
	`18446744073709551616`, `""`, `"x"`, `"a\u001b[2J\u009b2J\u0000\n\r\u007f\u202e\ud800"`, "\"\xff\x9b\"", `"../../etc/passwd"`,
	`"2026-01-02T03:04:05Z"`, `"9999-12-31T23:59:59.999999999Z"`, `"0001-01-01T00:00:00.000000001Z"`, `"done"`,
	`"capture-results:r1:odd:k"`, `"capture-results:r1:good:k"`, `"capture-results:r1:odd:eth0:live"`, `"secret"`, `[]`, `{}`, `[null]`,
	`[{}]`, `[{"name":"\u001b","recorded":1e308,"up":true}]`, `{"timeout":1e308,"delivery":-1,"packets":-1,"bytes":-9223372036854775808}`,
	`{"timeout":-5,"delivery":9223372036854775807,"captures":-1,"snap":-1,"return":-1}`,
	`"` + strings.Repeat("y", 20<<10) + `"`, strings.Repeat("[", 2000) + strings.Repeat("]", 2000)}

// oddFields are the fields of results, and some that are none.
var oddFields = []string{"id", "node", "interface", "device", "state", "shared", "stop", "stoppedby", "packets", "bytes",
	"received", "dropped", "ifdropped", "started", "ended", "since", "limits", "file", "url", "stored", "key", "name", "error",
	"tags", "customer", "alertid", "bpf", "by", "version", "format", "running", "interfaces", "trouble", "Node", "STATE", ""}

// oddResult returns a result of the host odd in which some fields are not as they should be.
func oddResult(state string, fields map[string]string) []byte {
	said := map[string]string{"id": `"r1"`, "node": `"odd"`, "interface": `"eth0"`, "state": `"` + state + `"`}
	if state != result.Refused && state != result.Present {
		said["started"] = `"2026-01-02T03:04:05.000000001Z"`
	}
	for name, value := range fields {
		said[name] = value
	}
	var parts []string
	for name, value := range said {
		parts = append(parts, `"`+name+`":`+value)
	}
	return []byte("{" + strings.Join(parts, ",") + "}")
}

// oddAnswers returns what an odd host says: each odd value in each field, and many at a time.
func oddAnswers() (answers [][]byte) {
	states := []string{result.Started, result.Running, result.Kept, result.Done, result.Failed, result.Refused, result.Present, "odd"}
	for n, field := range oddFields {
		for m, value := range oddValues {
			answers = append(answers, oddResult(states[(n+m)%len(states)], map[string]string{field: value}))
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		fields := map[string]string{}
		for range 1 + random.IntN(6) {
			fields[oddFields[random.IntN(len(oddFields))]] = oddValues[random.IntN(len(oddValues))]
		}
		answers = append(answers, oddResult(states[random.IntN(len(states))], fields))
	}
	return append(answers, nil, []byte("null"), []byte("{"), []byte("[]"), []byte(`"x"`), []byte("\xff\x00"))
}

// A rowsView shows what a terminal would, without one.
type rowsView struct {
	t    *testing.T
	said strings.Builder
}

func (*rowsView) heard([]byte)                         {}
func (*rowsView) fetched(result.Result, string)        {}
func (v *rowsView) ended(r result.Result, file string) { v.say(r.Describe(file)) }
func (v *rowsView) say(words string)                   { v.said.WriteString(words + "\n") }
func (*rowsView) close()                               {}
func (v *rowsView) draw(s *session, now time.Time) {
	for _, row := range drawRows(s, now, 79, 23) {
		if width(row) > 79 || strings.ContainsFunc(row, isUnprintable) {
			v.t.Errorf("want a line that fits, got %q", row)
		}
	}
}

// isUnprintable reports whether a character would control a terminal.
func isUnprintable(r rune) bool { return unicode.IsControl(r) || r == 0x202e }

// A watchedVault has what the host good has returned, and notes what else is touched.
type watchedVault struct {
	t    *testing.T
	kept string // the key that exists
}

// check fails what does not belong to the request.
func (v watchedVault) check(key string) {
	if !strings.HasPrefix(key, "capture-results:r1:") {
		v.t.Errorf("want no key touched that belongs to others, was asked for %q", key)
	}
}

// Fetch implements keys.
func (v watchedVault) Fetch(_ context.Context, key string, to io.Writer) (int64, error) {
	if v.check(key); key != v.kept {
		return 0, fmt.Errorf("fetch %s: no such key", key)
	}
	n, err := io.WriteString(to, "abc")
	return int64(n), err
}

// Remove implements keys.
func (v watchedVault) Remove(_ context.Context, key string) error {
	v.check(key)
	return nil
}

// ReadList implements lists.
func (v watchedVault) ReadList(_ context.Context, key string, take func([]byte) error) error {
	v.check(key)
	return take([]byte("no capture file"))
}

// TestOddHosts: whatever a host says, in any field, harms no kind of client, and hides no other host.
func TestOddHosts(t *testing.T) {
	answers := oddAnswers()
	for name, prepare := range map[string]func(c *client, out, errs io.Writer, dir string){
		"lines":       func(c *client, out, errs io.Writer, _ string) { c.view = jsonLines{out, errs} },
		"a terminal":  func(*client, io.Writer, io.Writer, string) {},
		"a roll call": func(c *client, out, errs io.Writer, _ string) { c.view = &roll{out: out, err: errs, table: true} },
		"fetching": func(c *client, _, _ io.Writer, dir string) {
			c.request.returns = true
			c.fetcher = newFetcher(watchedVault{t, "capture-results:r1:good:k"}, store.NewDirectory(dir), "capture-results:r1:")
		},
		"live": func(c *client, _, _ io.Writer, dir string) {
			file, err := os.Create(filepath.Join(dir, "all.pcapng"))
			if err != nil {
				t.Fatal(err)
			}
			c.live = newLive(Options{Results: "capture-results", Packets: file}, "r1", 1000)
			c.live.lists = watchedVault{t, ""}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out, errs bytes.Buffer
				dir := t.TempDir()
				shown := &rowsView{t: t}
				e := newFakeExchange(2)
				e.answers = make(chan []byte, len(answers)+10)
				c := newTestClient(e, shown)
				c.spans.longest, c.spans.period = time.Minute, 5*time.Second
				prepare(c, &out, &errs, dir)
				if err := c.ask(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, answer := range answers {
					e.answers <- answer
				}
				state := result.Done
				if name == "a roll call" {
					state = result.Present
				}
				e.answers <- oddResult(state, map[string]string{"node": `"good"`, "packets": "1", "bytes": "3",
					"key": `"capture-results:r1:good:k"`, "name": `"good.pcap"`, "stop": `"timeout"`})
				twice, leave := context.WithTimeout(t.Context(), 90*time.Second) // one has promised a day
				defer leave()
				c.wait(interruption{t.Context(), twice})
				all := out.String() + errs.String() + shown.said.String()
				if !strings.Contains(all, "good") {
					t.Error("want the other host shown")
				}
				for line := range strings.Lines(all) {
					if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), isUnprintable) {
						t.Errorf("want no control characters, got %.300q", line)
					}
				}
				for line := range strings.Lines(out.String()) {
					if name == "lines" && !json.Valid([]byte(line)) {
						t.Errorf("want lines of JSON, got %.300q", line)
					}
				}
				checkFiles(t, dir, name)
			})
		})
	}
}

// checkFiles fails unless the directory holds what the good host has sent, and no more.
func checkFiles(t *testing.T, dir, kind string) {
	t.Helper()
	want := map[string]string{"fetching": "good.pcap", "live": "all.pcapng"}[kind]
	if got := strings.Join(listDir(t, dir), " "); got != want {
		t.Errorf("want the files %q, got %q", want, got)
	}
	if above := listDir(t, filepath.Dir(dir)); len(above) != 1 {
		t.Errorf("want nothing beside the directory, got %q", above)
	}
}

// TestKeptIsBounded: hosts that never stop talking fill no memory, and end nobody's patience.
func TestKeptIsBounded(t *testing.T) {
	f, began := followed(t, 2, "eth0", "0s a started 1")
	long := strings.Repeat("x", maxTexts-100)
	for n := range maxKept / maxTexts * 2 {
		r := hear(t, fmt.Sprintf("n%d refused", n))
		r.Error = long
		f.take(r, began)
		r = hear(t, fmt.Sprintf("m%d started 1", n))
		r.Error = long
		f.take(r, began)
	}
	if len(f.captures)+len(f.answers) > maxKept/maxTexts*2 {
		t.Errorf("want no more than %d bytes kept, got %d captures and %d hosts", maxKept, len(f.captures), len(f.answers))
	}
	brief, _ := followed(t, 2, "eth0", "")
	brief.kept = maxKept - 10*resultCost
	for n := range 20 {
		brief.take(result.Result{ID: "r1", Node: strconv.Itoa(n), State: result.Refused}, began)
	}
	if len(brief.answers) != 9 { // each has a little beside its cost
		t.Errorf("want room for nine short ones, got %d", len(brief.answers))
	}
	r := hear(t, "a running 1")
	r.Error = strings.Repeat("x", maxTexts)
	if _, news := f.take(r, began); news {
		t.Error("want a result ignored that is too long")
	}
	if _, news := f.take(hear(t, "a done 1"), began); !news {
		t.Error("want a capture followed that was there before")
	}
}
