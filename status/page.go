// Package status shows people and Prometheus how the daemon is: the page, its
// history of results, the health, and the HTTP endpoint that serves them. It is
// given results and numbers, changes nothing, and knows neither requests nor captures.
package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// pageHTML is the template of the page.
//
//go:embed page.html
var pageHTML string

// pageCSS is the style that the page has in itself.
//
//go:embed page.css
var pageCSS string

// A page shows people how the daemon is. It runs no script and loads nothing,
// and all that stands in it is escaped: what a request says is not to be trusted.
type page struct {
	template *template.Template
	// policy is the Content-Security-Policy that a browser has to hold the page to.
	policy string
	state  func() State
}

// A State is what a page shows. All texts may be foreign: the page escapes them.
type State struct {
	Node, Version string
	Trouble       error // what is wrong; nil: subscribed
	Remark        error // what somebody should look after; nil: nothing
	Channel       string
	Server        string     // of Redis, without secrets
	Directory     *Directory // nil: there is none
	Spool         *Spool     // nil: there is none
	Recorded      []Recorded
	Running       []RunningCapture
	Recent        []past // newest first
}

// A Directory is where captures are written.
type Directory struct{ Free uint64 } // bytes that are free; 0: not known

// A Spool holds captures whose delivery has to wait.
type Spool struct {
	Captures int
	Bytes    int64
	Oldest   time.Time // when the first of them came
}

// A Recorded has a past that requests may reach into.
type Recorded struct {
	Name    string
	Reach   time.Duration // how far back; 0: nothing is recorded yet
	Trouble error         // why nothing is recorded now, or nil
}

// A RunningCapture has started, or is being opened. Its result is that of the
// first request for it, with its limits and the counts so far.
type RunningCapture struct {
	result.Result
	Shared Sharers
}

// NewPage returns a page that shows what state returns when somebody looks. It is called for
// each look, from any goroutine, several at one time.
func NewPage(state func() State) *page {
	hash := sha256.Sum256([]byte(pageCSS))
	return &page{
		template: template.Must(template.New("page").Funcs(template.FuncMap{
			"text":     printed,
			"seconds":  seconds,
			"ago":      ago,
			"clock":    clock,
			"size":     humanize.IBytes,
			"link":     link,
			"percent":  RunningCapture.percent,
			"progress": RunningCapture.progress,
			"began":    RunningCapture.began,
			"facts":    past.facts,
			"waiting":  Spool.waiting,
		}).Parse(pageHTML)),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; " +
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		state: state,
	}
}

// render returns the page as it is at a moment, now. One that stands still does not reload
// itself, so that a reader can mark something in it.
func (p *page) render(now time.Time, still bool) ([]byte, error) {
	var html bytes.Buffer
	err := p.template.Execute(&html, struct {
		State
		Style template.CSS
		Now   time.Time
		Still bool
	}{p.state(), template.CSS(pageCSS), now, still})
	if err != nil {
		return nil, fmt.Errorf("make the page: %w", err)
	}
	return html.Bytes(), nil
}

// percent returns how far a capture is towards the limit that is nearest.
func (c RunningCapture) percent(now time.Time) int {
	if c.Started.IsZero() {
		return 0
	}
	return int(100 * min(1, max(float64(c.Packets)/float64(c.Limits.Packets),
		float64(c.Bytes)/float64(c.Limits.Bytes),
		now.Sub(time.Time(c.Started)).Seconds()/c.Limits.Timeout)))
}

// began tells when a capture has started.
func (c RunningCapture) began(now time.Time) string {
	return "since " + clock(time.Time(c.Started), now)
}

// progress tells in words how far a capture is.
func (c RunningCapture) progress(now time.Time) []string {
	words := []string{"is being opened"}
	if !c.Started.IsZero() {
		left := max(0, time.Time(c.Started).Add(c.Limits.Duration()).Sub(now))
		words = []string{
			humanize.Comma(c.Packets) + " of " + packets(c.Limits.Packets),
			humanize.IBytes(uint64(c.Bytes)) + " of " + humanize.IBytes(uint64(c.Limits.Bytes)),
			seconds(left) + " left",
		}
	}
	return words
}

// facts tells in words what became of a capture.
func (p past) facts() []string {
	var words []string
	if p.State != result.Refused { // which has no counts
		words = append(words, packets(p.Packets), humanize.IBytes(uint64(p.Bytes)), "stop: "+p.Stop)
		if lost := p.Dropped + p.IfDropped; lost > 0 {
			words = append(words, humanize.Comma(lost)+" dropped")
		}
	}
	if p.Times > 1 {
		words = append(words, humanize.Comma(int64(p.Times))+" times")
	}
	return words
}

// waiting tells in words what waits in the spool.
func (s Spool) waiting(now time.Time) string {
	if s.Captures == 0 {
		return "nothing waits"
	}
	return fmt.Sprintf("%s, %s, the oldest since %s", english.Plural(s.Captures, "capture", ""),
		humanize.IBytes(uint64(s.Bytes)), clock(s.Oldest, now))
}

// packets writes a number of packets.
func packets(n int64) string {
	return humanize.Comma(n) + " " + english.PluralWord(int(n), "packet", "")
}

// link returns an address that a browser may be sent to, or nothing: where
// CloudShark is, a setting says, but the rest of a link was told by others.
func link(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return address
}

// ago returns in words how long ago something was.
func ago(then, now time.Time) string { return seconds(now.Sub(then)) + " ago" }

// clock writes when something was, in UTC, with the day unless it is today's.
func clock(then, now time.Time) string {
	then, now = then.UTC(), now.UTC()
	if then.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return then.Format(time.TimeOnly)
	}
	return then.Format(time.DateTime)
}

// seconds writes a duration in whole seconds, or minutes where seconds no longer matter.
func seconds(d time.Duration) string {
	if d >= time.Hour {
		return text.FormatDuration(d.Round(time.Minute))
	}
	return text.FormatDuration(d.Round(time.Second))
}

// printed returns foreign text without characters that cannot be seen or that
// change how others are seen, as those do that turn the direction of writing.
func printed(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
