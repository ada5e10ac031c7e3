package status

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/result"
	"pcapdaemon/testbed"
)

// hostile are texts as those choose them who want to get out of the place
// where their text stands.
var hostile = []string{
	`<script>document.title = "broken"</script>`,
	`"><img src=x onerror="document.title = 'broken'">`,
	`' onmouseover='document.title = "broken"`,
	`</title></style></code></li></ul><iframe src="https://example.com/"></iframe>`,
	`javascript:document.title="broken"`,
	`{{.Node}}`, `<!--`, `]]>`, `&lt;b&gt;`,
	"\u202etxt.exe", "a\x00b\nc",
	strings.Repeat("W", 1024),
}

// newState returns the state of a page on which every text is foreign.
func newState(now time.Time, foreign string) State {
	asked := result.Result{ID: foreign, Node: foreign, Interface: foreign, Device: foreign, State: result.Running,
		Tags: foreign, Customer: foreign, Filter: foreign, By: foreign, AlertID: new(uint64)}
	running := asked
	running.Started, running.Counts = result.Stamp(now.Add(-30*time.Second)), &result.Counts{Packets: 750, Bytes: 1 << 10}
	running.Limits = &result.Limits{Packets: 1000, Bytes: 1 << 20, Timeout: 60}
	done := asked
	done.State = result.Done
	done.Stop = "timeout"
	done.Counts, done.Losses = &result.Counts{Packets: 1234567, Bytes: 123456789}, &result.Losses{Dropped: 12, IfDropped: 5}
	done.File, done.Key = "/var/lib/pcapdaemon/"+foreign, foreign
	done.URL = "https://cloudshark.example.com/captures/" + foreign
	failed := done
	failed.State, failed.Error, failed.URL = result.Failed, foreign, foreign
	refused := asked
	refused.State = result.Refused
	refused.Error = foreign
	shared := Sharers{IDs: []string{foreign}, Count: 2}
	return State{
		Node: foreign, Version: foreign, Trouble: errors.New(foreign), Channel: foreign, Server: foreign,
		Directory: &Directory{Free: 3 << 30}, Spool: &Spool{Captures: 2, Bytes: 5 << 20, Oldest: now},
		Recorded: []Recorded{{foreign, time.Hour, errors.New(foreign)}},
		Running:  []RunningCapture{{running, shared}},
		Recent:   []past{{done, now, 1, shared}, {failed, now, 1, Sharers{}}, {refused, now, 984, Sharers{}}},
	}
}

// renderPage returns the page of a state at a moment.
func renderPage(t *testing.T, state State, now time.Time, still bool) string {
	t.Helper()
	html, err := NewPage(func() State { return state }).render(now, still)
	if err != nil {
		t.Fatal(err)
	}
	return string(html)
}

// visible returns the text of a page, in one line.
func visible(html string) string {
	html = html[strings.Index(html, "<body>"):]
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")), " ")
}

func TestPageShows(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	full := newState(now, "x")
	opening := RunningCapture{Result: result.Result{ID: "y", Interface: "eth1"}}
	for name, test := range map[string]struct {
		state State
		want  string
	}{
		"where nothing has happened": {State{Node: "web1", Version: "v1.2.3"},
			"web1 subscribed Running No capture is running. Results None since the start. pcapdaemon v1.2.3 · "},
		"where no request can be received": {State{Node: "web1", Trouble: errors.New("not subscribed: no")},
			"web1 not subscribed: no Running"},
		"what to look after": {State{Node: "web1", Remark: errors.New("1 capture in /spool")},
			"web1 subscribed 1 capture in /spool Running"},
		"whom it listens to": {State{Channel: "capture", Server: "127.0.0.1:6379"},
			"subscribed channel capture at 127.0.0.1:6379 Running"},
		"where captures go": {State{Directory: &Directory{3 << 30}, Spool: &Spool{2, 5 << 20, now.Add(-24 * time.Hour)}},
			"Storage directory 3.0 GiB free spool 2 captures, 5.0 MiB, the oldest since 2026-11-27 12:00:30 Running"},
		"where nothing waits": {State{Directory: &Directory{}, Spool: &Spool{}},
			"directory free space not known spool nothing waits Running"},
		"an interface that is recorded": {State{Recorded: []Recorded{{"eth0", 90 * time.Second, nil}}},
			"Recorded eth0 the last 1m30s Running"},
		"an interface that is not there": {State{Recorded: []Recorded{{"eth0", 0, errors.New("gone")}}},
			"Recorded eth0 nothing yet gone Running"},
		"a capture that runs": {State{Running: full.Running},
			"Running x x since 12:00:00 750 of 1,000 packets 1.0 KiB of 1.0 MiB 30s left " +
				"filter x tags x customer x alert 0 by x id x shared by 2 more x … Results"},
		"a capture whose last packets are read": {State{Running: newState(now.Add(-31*time.Second), "x").Running}, "of 1.0 MiB 0s left"},
		"a capture that is being opened": {State{Running: []RunningCapture{opening}},
			"Running eth1 is being opened id y Results"},
		"a capture that went well": {State{Recent: full.Recent[:1]},
			"Results done x x 12:00:30 · 0s ago 1,234,567 packets 118 MiB stop: timeout 17 dropped " +
				"https://cloudshark.example.com/captures/x " +
				"/var/lib/pcapdaemon/x Redis key x filter x tags x customer x alert 0 by x id x shared by 2 more x … pcapdaemon"},
		"a capture that lost nothing": {State{Recent: []past{{At: now, Result: result.Result{State: result.Done,
			Stop: "packets", Counts: &result.Counts{Packets: 1, Bytes: 100}, Losses: &result.Losses{}}}}},
			" 1 packet 100 B stop: packets id"},
		"requests that were refused": {State{Recent: full.Recent[2:]},
			"Results refused x x 12:00:30 · 0s ago 984 times x filter x"},
	} {
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("far east", 14*60*60)} { // of the host
			if got := visible(renderPage(t, test.state, now.In(zone), false)); !strings.Contains(got, test.want) {
				t.Errorf("%s, %s: want %q in %q", name, zone, test.want, got)
			}
		}
	}
}

// TestPageReloads: a page reloads itself, unless it is asked to stand still.
func TestPageReloads(t *testing.T) {
	for still, want := range map[bool]bool{false: true, true: false} {
		got := strings.Contains(renderPage(t, State{}, time.Now(), still), `<meta http-equiv="refresh" content="5">`)
		if got != want {
			t.Errorf("asked to stand still %t: want it to reload %t, got %t", still, want, got)
		}
	}
}

// TestPageEscapes: no text that others choose becomes part of the page's structure.
func TestPageEscapes(t *testing.T) {
	now := time.Now()
	tags := regexp.MustCompile(`<[^>]*>`)
	links := regexp.MustCompile(`(?s)<a href="https?:[^>]*>(.*?)</a>`) // where there may be one, or as well none
	structure := func(foreign string) []string {
		html := renderPage(t, newState(now, foreign), now, false)
		if strings.ContainsAny(html, "\u202e\x00") {
			t.Errorf("%q stands there as it is", foreign)
		}
		return tags.FindAllString(links.ReplaceAllString(html, "<code>$1</code>"), -1)
	}
	want := structure("plain")
	for _, foreign := range hostile {
		if got := structure(foreign); !slices.Equal(want, got) {
			t.Errorf("%q: want tags\n%q, got\n%q", foreign, want, got)
		}
	}
}

func TestPercent(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		started        time.Time
		packets, bytes int64
		want           int
	}{
		"being opened":            {time.Time{}, 0, 0, 0},
		"just started":            {now, 0, 24, 2},
		"packets are nearest":     {now.Add(-10 * time.Second), 50, 400, 50},
		"bytes are nearest":       {now.Add(-10 * time.Second), 50, 600, 60},
		"time is nearest":         {now.Add(-70 * time.Second), 50, 600, 70},
		"the time is over":        {now.Add(-101 * time.Second), 50, 600, 100},
		"the clock was set back":  {now.Add(time.Hour), 0, 0, 0},
		"everything at its limit": {now.Add(-100 * time.Second), 100, 1000, 100},
	} {
		c := RunningCapture{Result: result.Result{Started: result.Stamp(test.started), Counts: &result.Counts{Packets: test.packets, Bytes: test.bytes},
			Limits: &result.Limits{Packets: 100, Bytes: 1000, Timeout: 100}}}
		if got := c.percent(now); got != test.want {
			t.Errorf("%s: want %d, got %d", name, test.want, got)
		}
	}
}

func TestLink(t *testing.T) {
	for address, good := range map[string]bool{
		"https://cloudshark.example.com/captures/0123456789abcdef": true,
		"http://127.0.0.1:8080/captures/1?a=b&c=d":                 true,
		"javascript:alert(1)":                                      false,
		"javascript://example.com/%0aalert(1)":                     false,
		"data:text/html,hello":                                     false,
		"//example.com/":                                           false,
		"/captures/1":                                              false,
		"https:captures":                                           false,
		"https://[":                                                false,
		"http://example.com/\n":                                    false,
		"":                                                         false,
	} {
		want := ""
		if good {
			want = address
		}
		if got := link(address); got != want {
			t.Errorf("%q: want %q, got %q", address, want, got)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 90 * time.Second: "1m30s", 59*time.Minute + 59*time.Second: "59m59s",
		time.Hour: "1h", time.Hour + 29*time.Second: "1h", 26*time.Hour + 5*time.Minute: "26h5m",
	} {
		if got := seconds(d); got != want {
			t.Errorf("%v: want %s, got %s", d, want, got)
		}
	}
}

// TestPageInBrowser has a real browser show the page: it holds the page to its
// policy, shows foreign texts as texts, and never has to scroll sideways. Pictures
// of what it shows go to the directory SCREENSHOTS, if that is set.
func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	var state State
	e := newEndpoint(nil)
	e.Page = NewPage(func() State { return state })
	server := httptest.NewServer(e.handler())
	t.Cleanup(server.Close)
	b := testbed.StartBrowser(t)
	for i, foreign := range slices.Concat([]string{"plain"}, hostile) {
		state = newState(time.Now(), foreign)
		b.Visit(server.URL)
		for _, width := range []int{320, 1280} {
			scheme := []string{"light", "dark"}[i%2]
			b.Resize(width, 800, scheme)
			checkShown(t, b, foreign, width)
			if dir := os.Getenv("SCREENSHOTS"); dir != "" {
				name := strconv.Itoa(i) + "-" + scheme + "-" + strconv.Itoa(width) + ".png"
				if err := os.WriteFile(filepath.Join(dir, name), b.Screenshot(), 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if got := b.Complaints(); len(got) > 0 {
		t.Errorf("want a silent console, got %q", got)
	}
}

// checkShown compares what a browser has made of the page with what it is to be.
func checkShown(t *testing.T, b *testbed.Browser, foreign string, width int) {
	t.Helper()
	var shown struct {
		Title, Text string
		Width       int
		Foreign     int // elements and attributes that the page does not have
	}
	b.Evaluate(`({Title: document.title, Text: document.body.textContent, Width: document.documentElement.scrollWidth,
		Foreign: document.querySelectorAll("script,img,iframe,object,embed,form,[onerror],[onmouseover]," +
			"a:not([href^='https:'],[href^='/'])").length})`, &shown)
	if want := strings.Join(strings.Fields(printed(foreign)), " ") + " · pcapdaemon"; shown.Title != want {
		t.Errorf("%q: want title %q, got %q", foreign, want, shown.Title)
	}
	if want, got := 45, strings.Count(shown.Text, printed(foreign)); want != got {
		t.Errorf("%q: want it on the page %d times, got %d", foreign, want, got)
	}
	if shown.Foreign != 0 {
		t.Errorf("%q: want nothing that the page does not have, got %d elements", foreign, shown.Foreign)
	}
	if shown.Width != width {
		t.Errorf("%q: want a page %d wide, got %d", foreign, width, shown.Width)
	}
}
