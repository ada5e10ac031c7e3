package client

import (
	"fmt"
	"slices"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// An Outcome is how asking has ended.
type Outcome int

// Outcomes.
const (
	Done        Outcome = iota
	Failed              // some host refused, failed or fell silent, or a file was not fetched
	Misused             // the request is wrong; nobody was asked
	Unanswered          // no host answered
	Unpublished         // the request could not be published; nobody was asked
)

// outcome returns what the answers amount to.
func (s *session) outcome() Outcome {
	failed := func(t *progress) bool { return !t.Over() || t.State == result.Failed }
	switch {
	case len(s.answers) == 0:
		return Unanswered
	case s.refused > 0 || slices.ContainsFunc(s.captures, failed):
		return Failed
	}
	return Done
}

// whyNobody says why no host may have answered, and what to look at next.
func (s *session) whyNobody() string {
	const (
		showNames = "; pcapdaemon -rollcall shows the names"
		mute      = "none with this -resultchannel (redis-cli SUBSCRIBE counts as one that listens)"
	)
	q, why := s.request, ""
	switch {
	case s.listeners == 0:
		return "nobody listens; check -redisnode or -redisurl, and -redischannel"
	case q.asked.Stop != "": // whoever has none says nothing
		why = "no capture of id " + text.Quote(q.id) + " runs"
		if q.exact() || q.field == "nodere" {
			why += " on a host of " + q.field + " " + text.Quote(q.value)
		}
	case q.exact():
		why = "no host is called " + text.Quote(q.value) + showNames
	case q.field == "nodere":
		why = "no name matches " + text.Quote(q.value) + showNames
	case q.rollCall:
		why = mute
	default:
		why = mute + showNames
	}
	return fmt.Sprintf("%d %s, but %s", s.listeners, english.PluralWord(s.listeners, "listens", "listen"), why)
}
