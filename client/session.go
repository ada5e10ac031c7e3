package client

import (
	"fmt"
	"slices"
	"time"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

const (
	// nextAnswer is how long whoever asks waits for the next host to answer.
	nextAnswer = 3 * time.Second
	// lastAnswer is how long that is when no other host is expected to.
	lastAnswer = time.Second
	// lateness is what a capture's last result may take beyond its timeout and its delivery.
	lateness = 10 * time.Second
	// outageLateness is what it may take beyond that while nothing can be heard.
	outageLateness = 5 * time.Second
	// longestCapture is what a host is believed at most that says how long a capture may
	// last for which no timeout was asked, unless -maxtimeout is longer here.
	longestCapture = 24 * time.Hour
	// longestDelivery is what a host is believed at most of how long a delivery may take.
	longestDelivery = 25 * time.Hour
	// silentPeriods is how many results on the way have to be missing in turn of a host that is called silent.
	silentPeriods = 3
	// reconnection is the time in which everybody is connected again after an outage of Redis.
	reconnection = 6 * time.Second
)

// Whatever hosts say of one request, what is kept of it stays in bounds, and what is beyond them is not heard.
const (
	maxKept    = 64 << 20 // bytes of all results that are kept
	maxTexts   = 16 << 10 // bytes of the texts of one of them: no host says so much
	resultCost = 1 << 10  // bytes that one takes beside its texts
)

// A session is what somebody who asked has heard so far. It has no clock: its
// methods are told the time.
type session struct {
	request   request
	listeners int // that the request has reached
	spans     spans

	answered time.Time // the newest answer of a host, or the publication
	stopped  time.Time // when the captures were asked to end; zero if they were not
	lost     time.Time // since when nothing can be heard; zero if it can
	// answers counts the hosts that have answered, by node and interface, so
	// that two hosts of one name are two.
	answers  map[string]map[string]int
	refused  int
	kept     int         // bytes of results
	captures []*progress // in the order of their answers
	known    map[progressKey]*progress
}

// A progressKey tells captures apart: two hosts of one name do not start in the same nanosecond.
type progressKey struct {
	node, iface string
	started     int64 // since 1970, in nanoseconds
}

// A progress is one capture as whoever asked for it sees it.
type progress struct {
	result.Result           // the newest
	heard         time.Time // when the first one was
	latest        time.Time // when anything was heard of it
	end           time.Time // of the capture, at most
	deadline      time.Time // for the last result
	silent        bool      // results on the way are missing
	returned      bool      // a key of its file was told
	fetching      bool      // its file is on its way
	broken        bool      // its file is not to be had whole, and that was said
}

// name names a capture for people.
func (t *progress) name() string { return text.Printable(t.Node) + " " + text.Printable(t.Interface) }

// newSession returns what is known of a request that was just published.
func newSession(q request, listeners int, s spans, now time.Time) *session {
	return &session{request: q, listeners: listeners, spans: s, answered: now,
		answers: map[string]map[string]int{}, known: map[progressKey]*progress{}}
}

// take notes a result, and returns the capture if it is of one. What is not
// for this request, or is known already, is no news: results may come twice.
func (s *session) take(r result.Result, now time.Time) (t *progress, news bool) {
	r.Presence = nil // of a capture there is none
	size := textSize(r)
	if r.ID != s.request.id || size > maxTexts {
		return nil, false
	}
	key := progressKey{r.Node, r.Interface, time.Time(r.Started).UnixNano()}
	if t := s.known[key]; t != nil {
		t.latest = now
		return t, t.take(r)
	}
	if s.kept += size + resultCost; s.kept > maxKept {
		return nil, false
	}
	switch {
	case r.State == result.Refused:
		s.refused++
	case !r.Started.IsZero():
		capture, delivery := s.spans.believe(r.Limits)
		t = &progress{Result: r, heard: now, latest: now, end: now.Add(capture), deadline: now.Add(capture + delivery)}
		s.captures, s.known[key] = append(s.captures, t), t
	}
	s.answered = now
	if s.answers[r.Node] == nil {
		s.answers[r.Node] = map[string]int{}
	}
	s.answers[r.Node][r.Interface]++
	return t, true
}

// take notes a result of this capture; false means that it says nothing new.
func (t *progress) take(r result.Result) bool {
	if t.Over() && (r.State == t.State || !r.Over()) || r.State == result.Started {
		return false
	}
	if r.Limits == nil {
		r.Limits = t.Limits // only the first one has them
	}
	t.Result = r
	return true
}

// checkCounts returns an error if the capture has more than was asked for, or more than its host has granted.
func (t *progress) checkCounts(asked Asked) error {
	var granted result.Limits
	if t.Limits != nil {
		granted = *t.Limits
	}
	for _, c := range []struct {
		what          string
		has, may, was int64
	}{{"packets", t.Packets, granted.Packets, asked.Packets}, {"bytes", t.Bytes, granted.Bytes, asked.Bytes}} {
		for _, most := range []int64{c.was, c.may} {
			if most > 0 && c.has > most {
				return fmt.Errorf("%d %s, more than the %d that it may have", c.has, c.what, most)
			}
		}
	}
	return nil
}

// hosts returns how many hosts have said all that is to be expected: a word
// for each interface, or one for all.
func (s *session) hosts() int {
	n := 0
	for _, answers := range s.answers {
		if len(s.request.asked.Interfaces) > 0 {
			n += slices.Min(s.each(answers))
		}
		n += answers[""]
	}
	return n
}

// each returns how many hosts of one name have answered for each interface.
func (s *session) each(answers map[string]int) []int {
	var counts []int
	for _, iface := range s.request.asked.Interfaces {
		counts = append(counts, answers[iface])
	}
	return counts
}

// gathered reports whether no further host is to be expected.
func (s *session) gathered(now time.Time) bool {
	since, wait := s.answered, nextAnswer
	if s.request.exact() && len(s.answers) > 0 {
		wait = lastAnswer
	}
	if !s.stopped.IsZero() {
		wait = lastAnswer
		if s.stopped.After(since) {
			since = s.stopped
		}
	}
	return s.hosts() >= s.listeners || now.Sub(since) >= wait
}

// over reports whether no more results are to be expected.
func (s *session) over(now time.Time) bool {
	switch {
	case !s.lost.IsZero() && now.Before(s.outlast()):
		return false
	case !s.gathered(now):
		return false
	}
	return !slices.ContainsFunc(s.captures, func(t *progress) bool { return s.awaits(t, now) })
}

// outlast returns until when somebody waits who cannot hear anything: where hosts have said how long
// their captures may take, a little longer than that.
func (s *session) outlast() (latest time.Time) {
	unknown := s.lost.Add(s.spans.capture + s.spans.delivery)
	if !s.gathered(s.lost) {
		return unknown
	}
	for _, t := range s.unfinished() {
		if t.Limits == nil {
			return unknown
		}
		if end := t.deadline.Add(outageLateness); end.After(latest) {
			latest = end
		}
	}
	return latest
}

// awaits reports whether the last result of a capture can still come. Of a host that has fallen
// silent it is not expected by somebody who wants to leave.
func (s *session) awaits(t *progress, now time.Time) bool {
	return !t.Over() && now.Before(t.deadline) && (s.stopped.IsZero() || !t.silent)
}

// fallSilent returns the captures of which nothing is heard any more since the last call, though
// they should still be running.
func (s *session) fallSilent(now time.Time) (fallen []*progress) {
	patience := silentPeriods * s.spans.period
	if patience == 0 || !s.lost.IsZero() {
		return nil
	}
	for _, t := range s.captures {
		spoken := t.latest.Add(patience)
		if !t.Over() && !t.silent && !now.Before(spoken) && !spoken.After(t.end) && !t.isFull(now) {
			t.silent = true
			fallen = append(fallen, t)
		}
	}
	return fallen
}

// isFull reports whether a capture may have all that was asked for by now, if packets
// come as fast as they did. Its host then delivers it, without a word.
func (t *progress) isFull(now time.Time) bool {
	told, since := t.latest.Sub(t.heard).Seconds(), now.Sub(t.heard).Seconds()
	if t.Limits == nil || told <= 0 {
		return false
	}
	reaches := func(count, limit int64) bool {
		return limit > 0 && float64(count)*since >= float64(limit)*told
	}
	return reaches(t.Packets, t.Limits.Packets) || reaches(t.Bytes, t.Limits.Bytes)
}

// stop notes that the captures have been asked to end.
func (s *session) stop(now time.Time) {
	s.stopped = now
	for _, t := range s.captures {
		_, delivery := s.spans.believe(t.Limits)
		if latest := now.Add(delivery); t.deadline.After(latest) {
			t.deadline = latest
		}
		if t.end.After(now) {
			t.end = now
		}
	}
}

// lose notes that from now on nothing can be heard.
func (s *session) lose(now time.Time) {
	if s.lost.IsZero() {
		s.lost = now
	}
}

// regain notes that from now on everything can be heard again. What hosts have
// to say comes when they are back too.
func (s *session) regain(now time.Time) {
	s.lose(now) // an outage that was shorter than the look at it
	if !s.gathered(s.lost) {
		s.answered = now.Add(reconnection)
	}
	for _, t := range s.captures {
		t.latest = now
		if earliest := now.Add(reconnection + lateness); t.deadline.Before(earliest) {
			t.deadline = earliest
		}
	}
	s.lost = time.Time{}
}

// resume notes that nobody has listened since a time.
func (s *session) resume(since, now time.Time) {
	if s.lost.IsZero() {
		s.lose(since)
		s.regain(now)
	}
}

// unfinished returns the captures that have not told their end.
func (s *session) unfinished() []*progress {
	var unfinished []*progress
	for _, t := range s.captures {
		if !t.Over() {
			unfinished = append(unfinished, t)
		}
	}
	return unfinished
}

// textSize returns how many bytes the texts of a result have.
func textSize(r result.Result) (bytes int) {
	for _, text := range []string{r.Node, r.Interface, r.Device, r.State, r.Shared, r.Stop, r.StoppedBy, r.File, r.URL,
		r.Stored, r.Key, r.Name, r.Error, r.Tags, r.Customer, r.Filter, r.By} {
		bytes += len(text)
	}
	return bytes
}
