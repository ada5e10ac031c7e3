package client

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/result"
	"pcapdaemon/testbed"
)

// say returns a result of the request r1 as hosts send it.
func say(t *testing.T, format string, args ...any) result.Result {
	t.Helper()
	text := `{"id":"r1","started":"2026-01-02T03:04:05.000000001Z",` + fmt.Sprintf(format, args...) + `}`
	r, err := result.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// showHosts returns a terminal that shows captures of so many hosts, half of
// their packets there after 15 of 60 s, and what is shown.
func showHosts(t *testing.T, columns, lines, hosts int) (*testbed.Terminal, *display, *session, time.Time) {
	t.Helper()
	screen := testbed.OpenTerminal(t, columns, lines)
	d := &display{terminal: openTerminal(screen.File), err: io.Discard}
	f, began := followed(t, hosts, "eth0", "")
	for n := range hosts {
		capture := fmt.Sprintf(`"node":"n%d","interface":"eth0",`, n+1)
		f.take(say(t, `%s"state":"started","limits":{"packets":1000,"bytes":100000000,"timeout":60}`, capture), began)
		f.take(say(t, `%s"state":"running","packets":500,"bytes":123456`, capture), began)
	}
	now := began.Add(15 * time.Second)
	d.draw(f, now)
	return screen, d, f, now
}

func TestDisplayFits(t *testing.T) {
	const lines = 24
	for _, columns := range []int{40, 80, 200} {
		for _, hosts := range []int{1, 5, 100} {
			t.Run(fmt.Sprintf("%d hosts in %d columns", hosts, columns), func(t *testing.T) {
				screen, d, f, now := showHosts(t, columns, lines, hosts)
				want := min(hosts, lines-1)
				var shown []string
				testbed.Eventually(t, time.Second, "all lines are drawn", func() bool {
					shown = screen.Screen()
					last := shown[len(shown)-1]
					return len(shown) == want && (strings.Contains(last, " 45s") || strings.HasSuffix(last, " 78 running"))
				})
				if hosts > lines-1 {
					if rest := shown[len(shown)-1]; rest != "and 78 more: 78 running" {
						t.Errorf("want the rest as a count, got %q", rest)
					}
					shown = shown[:len(shown)-1]
				}
				for n, line := range shown {
					for _, part := range []string{fmt.Sprintf("n%d ", n+1), "running", "500", "120KiB", "#.", "45s"} {
						if !strings.Contains(line, part) {
							t.Errorf("want %q, got %q", part, line)
						}
					}
					filled, empty := strings.Count(line, "#"), strings.Count(line, ".")
					if filled != (filled+empty)/2 {
						t.Errorf("want half of the bar, got %q", line)
					}
				}

				for n := range hosts { // all of them end, and one line stays for each
					r := say(t, `"node":"n%d","interface":"eth0","state":"done","stop":"packets","file":"/x/%d.pcap"`, n+1, n)
					f.take(r, now)
					d.ended(r, "")
				}
				d.draw(f, now)
				d.close()
				testbed.Eventually(t, time.Second, "all lines stay", func() bool {
					return strings.Count(strings.Join(screen.All(), ""), ".pcap") == hosts
				})
				all := strings.Join(screen.All(), "\n")
				if strings.Contains(all, "running") || strings.Contains(all, "more") {
					t.Errorf("want nothing left of what was drawn, got\n%s", all)
				}
				if strange := screen.Strange(); len(strange) > 0 {
					t.Errorf("want sequences that every terminal knows, got %q", strange)
				}
			})
		}
	}
}

// TestDisplayRedraws: what is drawn again takes the place of what was there, and what is said stays above.
func TestDisplayRedraws(t *testing.T) {
	screen, d, f, now := showHosts(t, 80, 24, 3)
	for range 5 {
		now = now.Add(time.Second)
		d.draw(f, now)
	}
	d.err = screen.File
	d.say("Redis is away")
	d.draw(f, now)
	d.ended(say(t, `"node":"n9","interface":"eth0","state":"refused","error":"no"`), "")
	d.draw(f, now)
	want := []string{"Redis is away", "n9  eth0  refused  no", "n1", "n2", "n3"}
	testbed.Eventually(t, time.Second, "said, refused and three captures", func() bool {
		return slices.EqualFunc(screen.All(), want, strings.HasPrefix)
	})
	if line := screen.All()[4]; !strings.HasSuffix(line, " 40s left") {
		t.Errorf("want the newest state, got %q", line)
	}
}

// TestDisplayOnNarrowerTerminal: lines that a smaller terminal has wrapped are erased as well.
func TestDisplayOnNarrowerTerminal(t *testing.T) {
	_, d, f, now := showHosts(t, 80, 24, 2)
	small := testbed.OpenTerminal(t, 40, 24)
	d.terminal = openTerminal(small.File)
	if _, err := small.File.WriteString(strings.Join(d.drawn, "\n") + "\r"); err != nil {
		t.Fatal(err)
	}
	d.draw(f, now)
	testbed.Eventually(t, time.Second, "two lines", func() bool { return len(small.All()) == 2 })
}

// TestDisplayLeavesAColumn: what fills the last one makes some terminals wrap.
func TestDisplayLeavesAColumn(t *testing.T) {
	screen := testbed.OpenTerminal(t, 50, 24)
	d := &display{terminal: openTerminal(screen.File), err: io.Discard}
	f, began := followed(t, 1, "eth0", "")
	f.take(say(t, `"node":"%s","interface":"eth0","state":"running"`, strings.Repeat("x", 100)), began)
	if d.draw(f, began); len(d.drawn) != 1 || width(d.drawn[0]) != 49 {
		t.Errorf("want a line of 49 columns, got %q", d.drawn)
	}
}

// TestTerminalSize: a terminal that knows only half of its size, or nothing, is taken for a usual one.
func TestTerminalSize(t *testing.T) {
	for given, want := range map[[2]int][2]int{{100, 30}: {100, 30}, {0, 0}: {80, 24}, {0, 30}: {80, 24}, {100, 0}: {80, 24}} {
		screen := testbed.OpenTerminal(t, given[0], given[1])
		columns, lines := openTerminal(screen.File).size()
		if got := [2]int{columns, lines}; got != want {
			t.Errorf("%v: want %v, got %v", given, want, got)
		}
	}
}

func TestDrawRows(t *testing.T) {
	limits := `"limits":{"packets":1000,"bytes":100000,"timeout":100}`
	stop := func(f *session) { f.stop(f.answered) }
	fetch := func(f *session) { f.captures[0].fetching = true }
	silence := func(f *session) { stop(f); f.captures[0].silent = true }
	nothing := func(*session) {}
	for name, test := range map[string]struct {
		result string
		after  time.Duration
		change func(*session)
		filled int // of 40
		want   []string
	}{
		"packets are nearest": {`"state":"running","packets":750,"bytes":200,` + limits, 10 * time.Second, nothing, 30,
			[]string{" 90s left", "       750 packets", "   200B"}},
		"bytes are nearest": {`"state":"running","packets":7,"bytes":25000,` + limits, 10 * time.Second, nothing, 10,
			[]string{" 24KiB"}},
		"time is nearest": {`"state":"running","packets":7,"bytes":200,` + limits, 50 * time.Second, nothing, 20,
			[]string{" 50s left"}},
		"time is up":      {`"state":"running",` + limits, 150 * time.Second, nothing, 40, []string{"  0s left"}},
		"limits not said": {`"state":"running","packets":7`, 25 * time.Second, nothing, 20, []string{" 25s left"}},
		"after Ctrl-C":    {`"state":"running",` + limits, 0, stop, 0, []string{" ending "}},
		"silent, Ctrl-C":  {`"state":"running",` + limits, 0, silence, 0, []string{" silent "}},
		"being fetched":   {`"state":"done","packets":7,` + limits, 0, fetch, 40, []string{" fetch "}},
		"millions": {`"state":"running","packets":12345678,"bytes":999999999`, 0, nothing, 0,
			[]string{"12,345,678 packets", "953MiB"}},
		"a foreign state": {`"state":"re\u001b[2Jady"`, 0, nothing, 0, []string{` re\x1b… `}},
	} {
		f, began := followed(t, 2, "eth0", "")
		f.take(say(t, `"node":"web1","interface":"eth0",%s`, test.result), began)
		test.change(f)
		rows := drawRows(f, began.Add(test.after), 199, 23)
		if len(rows) != 1 {
			t.Fatalf("%s: want a line, got %q", name, rows)
		}
		bar := "[" + strings.Repeat("#", test.filled) + strings.Repeat(".", 40-test.filled) + "]"
		for _, want := range append(test.want, bar) {
			if !strings.Contains(rows[0], want) {
				t.Errorf("%s: want %q, got %q", name, want, rows[0])
			}
		}
	}
}

// TestDrawRowsWaits: as long as nothing is under way, it is said what is waited for.
func TestDrawRowsWaits(t *testing.T) {
	for heard, want := range map[string]string{
		"":                        "waiting for answers: 0 of 2 hosts",
		"1s a refused":            "waiting for answers: 1 of 2 hosts",
		"1s a refused; 1s b done": "",
	} {
		f, began := followed(t, 2, "eth0", heard)
		if got := strings.Join(drawRows(f, began.Add(time.Second), 79, 23), "\n"); got != want {
			t.Errorf("%q: want %q, got %q", heard, want, got)
		}
	}
}

// TestDrawRowsNames: long and wide names give way, and no line is too wide.
func TestDrawRowsNames(t *testing.T) {
	nodes := []string{"a", "web1.frankfurt.example.com", strings.Repeat("x", 500),
		"サーバー1.example", "e\u0301\u202e", "a\x1b[2J"}
	for _, columns := range []int{1, 10, 20, 39, 60, 79, 100, 199} {
		for _, node := range nodes {
			f, began := followed(t, 1, "eth0", "")
			r := say(t, `"node":"","interface":"eth0","state":"running","packets":123456789,"bytes":123456789`)
			r.Node = node
			f.take(r, began)
			row := drawRows(f, began, columns, 23)[0]
			if got := width(row); got > columns {
				t.Errorf("%s: want at most %d columns, got %d: %q", node, columns, got, row)
			}
			if columns >= 39 && !strings.Contains(row, "123M") && !strings.Contains(row, "123,456,789") {
				t.Errorf("%s in %d columns: want the packets, got %q", node, columns, row)
			}
			if strings.ContainsAny(row, "\x1b\u202e") {
				t.Errorf("%s: want it printable, got %q", node, row)
			}
		}
	}
}

// TestDrawRowsInterfaces: captures of one host are told apart by their interfaces.
func TestDrawRowsInterfaces(t *testing.T) {
	for _, columns := range []int{39, 79, 199} {
		f, began := followed(t, 1, "eth0 eth1", "")
		for _, iface := range f.request.asked.Interfaces {
			f.take(say(t, `"node":"web1.frankfurt.example.com","interface":"%s","state":"running"`, iface), began)
		}
		rows := drawRows(f, began, columns, 23)
		for n, want := range []string{" eth0 running", " eth1 running"} {
			if !strings.Contains(rows[n], want) || !strings.HasPrefix(rows[n], "w") {
				t.Errorf("%d columns: want %q, got %q", columns, want, rows[n])
			}
		}
	}
}

func TestWidth(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é…": 2, "サー": 4, "x日": 3} {
		if got := width(s); got != want {
			t.Errorf("%s: want %d, got %d", s, want, got)
		}
	}
	for s, want := range map[string]string{"abc": "abc ", "abcd": "abcd", "abcde": "abc…", "サーバ": "サ… "} {
		if got := fit(s, 4); got != want {
			t.Errorf("%s: want %q, got %q", s, want, got)
		}
	}
}

func TestShortNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 9999: "9999", 10_000: "10k", 123_456: "123k", 999_999: "999k",
		1_234_567: "1.2M", 9_999_999: "9.9M"} {
		if got := shortCount(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
	for n, want := range map[int64]string{-1: "0B", 0: "0B", 999: "999B", 1234: "1.2KiB", 999_999: "976KiB", 1023 << 10: "0.9MiB",
		12_345_678: "11MiB", 1 << 62: "4.0EiB"} {
		if got := shortSize(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 1500 * time.Millisecond: "2s", 99 * time.Second: "99s",
		100 * time.Second: "1m", time.Hour: "60m", 2 * time.Hour: "2h", 365 * 24 * time.Hour: "365d"} {
		if got := shortTime(d); got != want {
			t.Errorf("%v: want %s, got %s", d, want, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	long := "/" + strings.Repeat("d", 300) + "/x.pcap"
	for _, test := range []struct{ result, want string }{
		{`"node":"a\u001b[2J","state":"done","stop":"packets","packets":50,"bytes":4200,"file":"/x.pcap"`,
			`a\x1b[2J  done  50 packets, 4.1 KiB, 0 dropped, stopped by packets  /x.pcap  /here.pcap`},
		{`"node":"a","interface":"eth0","state":"refused","error":"no such\ninterface"`,
			`a  eth0  refused  /here.pcap  no such\ninterface`},
		{`"node":"a","state":"kept","file":"` + long + `"`,
			`a  kept  ` + long + `  /here.pcap`},
	} {
		if got := say(t, "%s", test.result).Describe("/here.pcap"); got != test.want {
			t.Errorf("want %q, got %q", test.want, got)
		}
	}
}

// TestDrawRowsOnFewLines: one capture is shown and the others are counted, however low the terminal is.
func TestDrawRowsOnFewLines(t *testing.T) {
	f, began := followed(t, 3, "eth0", "1s a running 1; 1s b running 2; 1s c running 3")
	for _, lines := range []int{1, 2} {
		rows := drawRows(f, began, 79, lines)
		if len(rows) != 2 || !strings.HasPrefix(rows[0], "a ") || !strings.HasPrefix(rows[1], "and 2 more: 2 running") {
			t.Errorf("%d: want a row and a count, got %q", lines, rows)
		}
	}
}
