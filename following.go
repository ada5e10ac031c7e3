package main

import (
	"slices"
	"time"
)

const (
	// patience is how long whoever asks waits for the next host to answer.
	patience = 3 * time.Second
	// afterword is how long that is when no other host is expected to.
	afterword = time.Second
	// lateness is what a capture's last result may take beyond its timeout and its delivery.
	lateness = 10 * time.Second
	// comeback is the time in which everybody is connected again after an outage of Redis.
	comeback = 6 * time.Second
)

// A following is what somebody who asked has heard so far. It has no clock: its
// methods are told the time.
type following struct {
	question  question
	listeners int // that the request has reached
	spans     spans

	answered time.Time // the newest answer of a host, or the publication
	stopped  time.Time // when the captures were asked to end; zero if they were not
	lost     time.Time // since when nothing can be heard; zero if it can
	// answers counts the hosts that have answered, by node and interface, so
	// that two hosts of one name are two.
	answers map[string]map[string]int
	refused int
	tracks  []*track // in the order of their answers
	known   map[trackKey]*track
}

// A trackKey tells captures apart: two hosts of one name do not start in the same nanosecond.
type trackKey struct {
	node, iface string
	started     int64 // since 1970, in nanoseconds
}

// A track is one capture as whoever asked for it sees it.
type track struct {
	result             // the newest
	heard    time.Time // when the first one was
	deadline time.Time // for the last one
	fetching bool      // its file is on its way
}

// newFollowing returns what is known of a request that was just published.
func newFollowing(q question, listeners int, s spans, now time.Time) *following {
	return &following{question: q, listeners: listeners, spans: s, answered: now,
		answers: map[string]map[string]int{}, known: map[trackKey]*track{}}
}

// take notes a result, and returns the capture if it is of one. What is not
// for this request, or is known already, is no news: results may come twice.
func (f *following) take(r result, now time.Time) (t *track, news bool) {
	if r.ID != f.question.id {
		return nil, false
	}
	key := trackKey{r.Node, r.Interface, time.Time(r.Started).UnixNano()}
	if t := f.known[key]; t != nil {
		return t, t.take(r)
	}
	switch {
	case r.State == stateRefused:
		f.refused++
	case !r.Started.IsZero():
		t = &track{result: r, heard: now, deadline: now.Add(f.lasting(r))}
		f.tracks, f.known[key] = append(f.tracks, t), t
	}
	f.answered = now
	if f.answers[r.Node] == nil {
		f.answers[r.Node] = map[string]int{}
	}
	f.answers[r.Node][r.Interface]++
	return t, true
}

// lasting returns what a capture takes at most, until its last result.
func (f *following) lasting(r result) time.Duration {
	if r.Limits == nil {
		return f.spans.capture + f.spans.delivery
	}
	return r.Limits.span() + f.spans.delivery
}

// span returns the timeout. What a host says may be anything.
func (g granted) span() time.Duration { return fromSeconds(g.Timeout) }

// fromSeconds returns a duration that makes sense: at most a year.
func fromSeconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), maxSeconds) * float64(time.Second))
}

// take notes a result of this capture; false means that it says nothing new.
func (t *track) take(r result) bool {
	if t.ended() && (r.State == t.State || !r.ended()) || r.State == stateStarted {
		return false
	}
	if r.Limits == nil {
		r.Limits = t.Limits // only the first one has them
	}
	t.result = r
	return true
}

// ended tells whether a capture is off its host's hands, for now at least.
// Only states that are known are: others may come with newer hosts.
func (r result) ended() bool {
	return slices.Contains([]string{stateKept, stateDone, stateFailed}, r.State)
}

// hosts returns how many hosts have said all that is to be expected: a word
// for each interface, or one for all.
func (f *following) hosts() int {
	n := 0
	for _, answers := range f.answers {
		if len(f.question.asked.Interfaces) > 0 {
			n += slices.Min(f.each(answers))
		}
		n += answers[""]
	}
	return n
}

// each returns how many hosts of one name have answered for each interface.
func (f *following) each(answers map[string]int) []int {
	var counts []int
	for _, iface := range f.question.asked.Interfaces {
		counts = append(counts, answers[iface])
	}
	return counts
}

// gathered tells whether no further host is to be expected.
func (f *following) gathered(now time.Time) bool {
	since, wait := f.answered, patience
	if f.question.exact() && len(f.answers) > 0 {
		wait = afterword
	}
	if !f.stopped.IsZero() {
		wait = afterword
		if f.stopped.After(since) {
			since = f.stopped
		}
	}
	return f.hosts() >= f.listeners || now.Sub(since) >= wait
}

// over tells whether no more results are to be expected.
func (f *following) over(now time.Time) bool {
	switch {
	case !f.lost.IsZero() && now.Sub(f.lost) < f.spans.capture+f.spans.delivery:
		return false
	case f.lost.IsZero() && !f.gathered(now):
		return false
	}
	return !slices.ContainsFunc(f.tracks, func(t *track) bool { return !t.ended() && now.Before(t.deadline) })
}

// stop notes that the captures have been asked to end.
func (f *following) stop(now time.Time) {
	f.stopped = now
	for _, t := range f.tracks {
		if latest := now.Add(f.spans.delivery); t.deadline.After(latest) {
			t.deadline = latest
		}
	}
}

// lose notes that from now on nothing can be heard.
func (f *following) lose(now time.Time) {
	if f.lost.IsZero() {
		f.lost = now
	}
}

// regain notes that from now on everything can be heard again. What hosts have
// to say comes when they are back too.
func (f *following) regain(now time.Time) {
	f.lose(now) // an outage that was shorter than the look at it
	if !f.gathered(f.lost) {
		f.answered = now.Add(comeback)
	}
	for _, t := range f.tracks {
		if earliest := now.Add(comeback + lateness); t.deadline.Before(earliest) {
			t.deadline = earliest
		}
	}
	f.lost = time.Time{}
}

// silent returns the captures that have not told their end.
func (f *following) silent() []*track {
	var silent []*track
	for _, t := range f.tracks {
		if !t.ended() {
			silent = append(silent, t)
		}
	}
	return silent
}

// outcome returns what the answers amount to.
func (f *following) outcome() Outcome {
	failed := func(t *track) bool { return !t.ended() || t.State == stateFailed }
	switch {
	case len(f.answers) == 0:
		return Unanswered
	case f.refused > 0 || slices.ContainsFunc(f.tracks, failed):
		return Failed
	}
	return Done
}
