package client

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/result"
)

// hear returns a result of the request r1 in a few words: node[/interface] state [start].
// Without one, the interface is eth0.
func hear(t *testing.T, words string) result.Result {
	t.Helper()
	parts := append(strings.Fields(words), "")
	node, iface, given := strings.Cut(parts[0], "/")
	if !given {
		iface = "eth0"
	}
	fields := map[string]string{"id": "r1", "node": node, "interface": iface, "state": parts[1]}
	if parts[2] != "" {
		fields["started"] = "2026-01-02T03:04:05.00000000" + parts[2] + "Z"
	}
	message, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	r, err := result.Decode(message)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// followed returns a session that has heard all this, given as times after the
// publication and results, and when it began.
func followed(t *testing.T, listeners int, interfaces, heard string) (f *session, began time.Time) {
	t.Helper()
	began = time.Now()
	q := request{id: "r1", field: "node", value: "any", asked: Asked{Interfaces: strings.Fields(interfaces)}}
	f = newSession(q, listeners, spans{capture: 50 * time.Second, longest: 24 * time.Hour, delivery: 10 * time.Second}, began)
	hearAll(t, f, began, heard)
	return f, began
}

// hearAll has a session hear what is given as times after a beginning and results.
func hearAll(t *testing.T, f *session, began time.Time, heard string) {
	t.Helper()
	for event := range strings.SplitSeq(heard, ";") {
		at, what, _ := strings.Cut(strings.TrimSpace(event), " ")
		now := began.Add(after(t, at))
		switch what {
		case "":
		case "lost":
			f.lose(now)
		case "regained":
			f.regain(now)
		case "stop":
			f.stop(now)
		default:
			f.take(hear(t, what), now)
		}
	}
}

// after returns a duration; none is 0.
func after(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil && text != "" {
		t.Fatal(err)
	}
	return d
}

func TestSession(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, test := range map[string]struct {
		listeners int
		heard     string
		over      time.Duration // after the publication
		code      Outcome
	}{
		"nobody answers":                {2, "", 3 * s, Unanswered},
		"the only host is done":         {1, "0s a started 1; 50ms a done 1", 50 * ms, Done},
		"the only host refuses":         {1, "40ms a refused", 40 * ms, Failed},
		"the only host fails":           {1, "0s a started 1; 1s a failed 1", s, Failed},
		"another host may be late":      {2, "0s a started 1; 50ms a done 1", 3 * s, Done},
		"another host is late":          {2, "0s a started 1; 1s a done 1; 1500ms b started 2; 2s b done 2", 2 * s, Done},
		"a third host may be later":     {3, "0s a refused; 2s b refused", 5 * s, Failed},
		"a long capture, then no wait":  {2, "0s a started 1; 30s a done 1", 30 * s, Done},
		"a host falls silent":           {1, "1s a started 1", 61 * s, Failed},
		"one of two falls silent":       {2, "1s a started 1; 1s b started 2; 20s b done 2", 61 * s, Failed},
		"two hosts of one name":         {2, "0s a started 1; 0s a started 2; 1s a done 1; 9s a done 2", 9 * s, Done},
		"two of one name refuse":        {2, "0s a refused; 1s a refused", s, Failed},
		"one of two of one name":        {2, "0s a started 1; 1s a done 1", 3 * s, Done},
		"results come twice":            {2, "0s a started 1; 1s a done 1; 1s a started 1; 2s a done 1", 3 * s, Done},
		"the start was missed":          {1, "2s a done 1", 2 * s, Done},
		"how far it is":                 {1, "0s a started 1; 1s a running 1; 5s a done 1", 5 * s, Done},
		"how far it is, then silence":   {1, "0s a started 1; 50s a running 1", 60 * s, Failed},
		"a state of the future":         {1, "0s a started 1; 1s a archived 1; 5s a done 1", 5 * s, Done},
		"a state without a capture":     {1, "1s a/ present", s, Done},
		"done stays done":               {2, "0s a started 1; 1s a done 1; 2s a running 1", 3 * s, Done},
		"Redis is away, then an answer": {1, "1s lost; 30s regained; 32s a refused", 32 * s, Failed},
		"Redis is away, then none":      {1, "1s lost; 30s regained", 39 * s, Unanswered},
		"Redis is away at the end":      {1, "0s a started 1; 50s lost; 90s regained", 106 * s, Failed},
		"Redis stays away":              {1, "0s a started 1; 10s lost", 70 * s, Failed},
		"its upload has to wait":        {1, "0s a started 1; 5s a kept 1", 5 * s, Done},
		"kept, and refused after all":   {2, "0s a started 1; 1s a kept 1; 2s a failed 1", 3 * s, Failed},
		"stopped, and done":             {2, "0s a started 1; 1s stop; 1200ms a done 1", 2 * s, Done},
		"stopped, others are late": {3, "0s a started 1; 1s stop; 2s b started 1; 2s a done 1; 2s b done 1",
			3 * s, Done},
		"stopped, and silent":       {1, "0s a started 1; 1s stop", 11 * s, Failed},
		"stopped at its end":        {1, "0s a started 1; 55s stop", 60 * s, Failed},
		"stopped before any answer": {1, "1s stop", 2 * s, Unanswered},
		"all were there before":     {2, "0s a started 1; 10s lost; 11s regained; 12s a done 1", 12 * s, Done},
	} {
		f, began := followed(t, test.listeners, "eth0", test.heard)
		last, _, _ := strings.Cut(strings.TrimSpace(test.heard[strings.LastIndex(test.heard, ";")+1:]), " ")
		if test.over > after(t, last) && f.over(began.Add(test.over-ms)) {
			t.Errorf("%s: over before %v", name, test.over)
		}
		if !f.over(began.Add(test.over)) {
			t.Errorf("%s: not over after %v", name, test.over)
		}
		if got := f.outcome(); got != test.code {
			t.Errorf("%s: want outcome %d, got %d", name, test.code, got)
		}
	}
}

// TestSessionOutage: while nothing can be heard, a capture is waited for as long as its host has said, and
// 15 s more, whatever the asker's own flags say of deliveries.
func TestSessionOutage(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		listeners int
		heard     string
		over      time.Duration // after the publication
	}{
		"while it is captured":       {1, "1s lost", 35 * s},
		"while it is delivered":      {1, "8s lost", 35 * s},
		"before others have started": {2, "1s lost", 1*s + 50*s + 10*s},
		"after it is done":           {1, "9s a done 1; 9s lost", 9 * s},
		"and back":                   {1, "8s lost; 30s regained", 46 * s},
	} {
		f, began := followed(t, test.listeners, "eth0", "")
		started := hear(t, "a started 1")
		started.Limits = &result.Limits{Timeout: 5, Delivery: 15}
		f.take(started, began)
		hearAll(t, f, began, test.heard)
		if f.over(began.Add(test.over-time.Millisecond)) && test.over > 9*s {
			t.Errorf("%s: over before %v", name, test.over)
		}
		if !f.over(began.Add(test.over)) {
			t.Errorf("%s: not over after %v", name, test.over)
		}
	}
}

// TestSessionOneHost: who names one host waits for it, and not for others.
func TestSessionOneHost(t *testing.T) {
	for name, test := range map[string]struct {
		heard string
		over  time.Duration
	}{
		"no answer":     {"", nextAnswer},
		"done at once":  {"0s a started 1; 1ms a done 1", lastAnswer},
		"done later":    {"0s a started 1; 9s a done 1", 9 * time.Second},
		"refused later": {"2s a refused", 2*time.Second + lastAnswer},
	} {
		f, began := followed(t, 5, "eth0", test.heard)
		f.request.value = "a"
		if test.over < 4*time.Second && f.over(began.Add(test.over-time.Millisecond)) {
			t.Errorf("%s: over before %v", name, test.over)
		}
		if !f.over(began.Add(test.over)) {
			t.Errorf("%s: not over after %v", name, test.over)
		}
	}
}

// TestSessionLimits: what a host says of its limits counts more than what a client can guess.
func TestSessionLimits(t *testing.T) {
	for name, test := range map[string]struct {
		limits string
		over   time.Duration
	}{
		"shorter":    {`{"packets":1,"bytes":2,"timeout":2}`, 12 * time.Second},
		"longer":     {`{"packets":1,"bytes":2,"timeout":3600}`, time.Hour + 10*time.Second},
		"a fraction": {`{"packets":1,"bytes":2,"timeout":0.5}`, 10500 * time.Millisecond},
		"negative":   {`{"timeout":-5}`, 10 * time.Second},
		"for ever":   {`{"timeout":1e308}`, 24*time.Hour + 10*time.Second},
		"not said":   {"null", time.Minute},
		// Ten seconds beyond what the host says of the delivery.
		"a quick delivery":      {`{"timeout":2,"delivery":6}`, 18 * time.Second},
		"a slow delivery":       {`{"timeout":2,"delivery":3600}`, time.Hour + 12*time.Second},
		"a negative delivery":   {`{"timeout":2,"delivery":-6}`, 12 * time.Second},
		"an unending delivery":  {`{"timeout":2,"delivery":9223372036854775807}`, 25*time.Hour + 12*time.Second},
		"nothing but what ends": {`{"delivery":6}`, 16 * time.Second},
	} {
		f, began := followed(t, 1, "eth0", "")
		r, err := result.Decode([]byte(`{"id":"r1","node":"a","interface":"eth0","state":"started",` +
			`"started":"2026-01-02T03:04:05.000000001Z","limits":` + test.limits + `}`))
		if err != nil {
			t.Fatal(err)
		}
		f.take(r, began)
		f.take(hear(t, "a running 1"), began)
		if (f.captures[0].Limits == nil) != (test.limits == "null") {
			t.Errorf("%s: want the limits kept, got %v", name, f.captures[0].Limits)
		}
		if f.over(began.Add(test.over-time.Millisecond)) || !f.over(began.Add(test.over)) {
			t.Errorf("%s: want it over after %v", name, test.over)
		}
	}
}

// TestSessionInterfaces: a host has answered when it has for each interface, or once for all.
func TestSessionInterfaces(t *testing.T) {
	for name, test := range map[string]struct {
		listeners int
		heard     string
		over      bool
	}{
		"one of two":            {1, "0s a refused", false},
		"both":                  {1, "0s a refused; 0s a/eth1 refused", true},
		"one word for all":      {1, "0s a/ refused", true},
		"one of them goes on":   {1, "0s a refused; 0s a/eth1 started 1", false},
		"two hosts of one name": {2, "0s a refused; 0s a/eth1 refused; 0s a/eth1 refused", false},
		"not asked for":         {1, "0s a refused; 0s a/eth9 refused", false},
	} {
		f, began := followed(t, test.listeners, "eth0 eth1", test.heard)
		if got := f.over(began.Add(time.Second)); got != test.over {
			t.Errorf("%s: want over %v, got %v", name, test.over, got)
		}
	}
}

// TestSessionNews: what is not for this request, or was heard before, is no news.
func TestSessionNews(t *testing.T) {
	f, began := followed(t, 1, "eth0", "0s a started 1; 0s a done 1")
	for result, want := range map[string]bool{
		"a started 1": false,
		"a done 1":    false,
		"a running 1": false,
		"b refused":   true,
	} {
		if _, got := f.take(hear(t, result), began); got != want {
			t.Errorf("%s: want news %v, got %v", result, want, got)
		}
	}
	other := hear(t, "c refused")
	other.ID = "r2"
	if _, news := f.take(other, began); news {
		t.Error("a result for another request is news")
	}
}

// TestSessionNamesTheSilent: who has started and said no more is known by name.
func TestSessionNamesTheSilent(t *testing.T) {
	f, _ := followed(t, 2, "eth0", "0s a started 1; 0s b started 2; 0s a done 1")
	var got []string
	for _, track := range f.unfinished() {
		got = append(got, track.Node)
	}
	if want := []string{"b"}; !slices.Equal(want, got) {
		t.Errorf("want %q silent, got %q", want, got)
	}
}

// TestFallenSilent: a host whose results on the way are missing is named once, but
// not one that may be delivering what it has.
func TestFallenSilent(t *testing.T) {
	const started = `"node":"a","interface":"eth0","state":"started","limits":{"packets":100,"bytes":1000,"timeout":50,"delivery":6}`
	for name, test := range map[string]struct {
		period  time.Duration
		running string // counts, 10 s after the start; empty: it says nothing
		events  string
		looks   time.Duration // after the start
		want    int
	}{
		"three periods":         {5 * time.Second, `"packets":1,"bytes":100`, "", 25 * time.Second, 1},
		"not a word":            {5 * time.Second, "", "", 15 * time.Second, 1},
		"not yet":               {5 * time.Second, `"packets":1,"bytes":100`, "", 25*time.Second - 1, 0},
		"no periods":            {0, `"packets":1,"bytes":100`, "", 40 * time.Second, 0},
		"ended meanwhile":       {14 * time.Second, `"packets":1,"bytes":100`, "", 55 * time.Second, 0},
		"all packets by now":    {5 * time.Second, `"packets":40,"bytes":100`, "", 25 * time.Second, 0},
		"all bytes by now":      {5 * time.Second, `"packets":1,"bytes":400`, "", 25 * time.Second, 0},
		"nearly all by now":     {5 * time.Second, `"packets":39,"bytes":399`, "", 25 * time.Second, 1},
		"negative counts":       {5 * time.Second, `"packets":-1,"bytes":-9223372036854775808`, "", 25 * time.Second, 1},
		"is over":               {5 * time.Second, `"packets":1,"bytes":100`, "11s a done 1", 27 * time.Second, 0},
		"Redis is away":         {5 * time.Second, `"packets":1,"bytes":100`, "12s lost", 27 * time.Second, 0},
		"Redis was away":        {5 * time.Second, `"packets":1,"bytes":100`, "12s lost;20s regained", 34 * time.Second, 0},
		"since Redis is back":   {5 * time.Second, `"packets":1,"bytes":100`, "12s lost;20s regained", 35 * time.Second, 1},
		"was asked to stop":     {5 * time.Second, `"packets":1,"bytes":100`, "12s stop", 27 * time.Second, 0},
		"is stopped afterwards": {time.Second, `"packets":1,"bytes":100`, "15s stop", 16 * time.Second, 1},
	} {
		f, began := followed(t, 1, "eth0", "")
		f.spans.period = test.period
		f.take(say(t, "%s", started), began)
		if test.running != "" {
			f.take(say(t, `"node":"a","interface":"eth0","state":"running",%s`, test.running), began.Add(10*time.Second))
		}
		hearAll(t, f, began, test.events)
		now := began.Add(test.looks)
		if got := len(f.fallSilent(now)); got != test.want {
			t.Errorf("%s: want %d named, got %d", name, test.want, got)
		}
		if again := f.fallSilent(now); len(again) > 0 {
			t.Errorf("%s: named twice", name)
		}
	}
}

// TestWhyNobody: who gets no answer is told what to look at.
func TestWhyNobody(t *testing.T) {
	for want, f := range map[string]session{
		"nobody listens; check -redisnode":                              {listeners: 0, request: request{field: "node", value: "a"}},
		`1 listens, but no host is called "a"; pcapdaemon -rollcall`:    {listeners: 1, request: request{field: "node", value: "a"}},
		`2 listen, but no name matches "^\x1b"; pcapdaemon -rollcall`:   {listeners: 2, request: request{field: "nodere", value: "^\x1b"}},
		"2 listen, but none with this -resultchannel (redis-cli SUBSCR": {listeners: 2, request: request{field: "node", value: "any"}},
		`2 listen, but no capture of id "x" runs`: {listeners: 2, request: request{field: "node", value: "any", id: "x",
			asked: Asked{Stop: "x"}}},
		`1 listens, but no capture of id "x" runs on a host of node "a"`: {listeners: 1, request: request{field: "node",
			value: "a", id: "x", asked: Asked{Stop: "x"}}},
		`1 listens, but no capture of id "x" runs on a host of nodere "^a"`: {listeners: 1, request: request{field: "nodere",
			value: "^a", id: "x", asked: Asked{Stop: "x"}}},
	} {
		if got := f.whyNobody(); !strings.HasPrefix(got, want) {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}
