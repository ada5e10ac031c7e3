package status

import (
	"slices"
	"sync"
	"time"

	"pcapdaemon/result"
)

// maxHistory is how many results the history holds.
const maxHistory = 50

// A History remembers how the last captures ended, 50 of them. The zero value is ready to use,
// from any goroutine.
type History struct {
	mu   sync.Mutex
	past []past // oldest first
}

// A past result is one that says how a capture ended, or that its upload has to wait.
type past struct {
	result.Result
	At     time.Time // when it was told last
	Times  int       // how often, with nothing else between
	Shared Sharers
}

// Sharers are the other requests that share a capture.
type Sharers struct {
	IDs   []string // the first of them, at most 20
	Count int      // of all
}

// Add takes the id of one more request. It may be called by one goroutine at a time.
func (s *Sharers) Add(id string) {
	s.Count++
	if len(s.IDs) < 20 {
		s.IDs = append(s.IDs, id)
	}
}

// Add keeps a result if it ends a capture. What the others who share the
// capture are told is the same once more, so that of them only the ids are kept. A
// storm of requests that are refused for one reason must not drive out all else.
func (h *History) Add(r result.Result) {
	if !r.Over() && r.State != result.Refused {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Shared != "" {
		h.share(r)
		return
	}
	times := 1
	if last := len(h.past) - 1; last >= 0 && repeats(r, h.past[last].Result) {
		times += h.past[last].Times
		h.past = h.past[:last]
	}
	h.past = slices.DeleteFunc(h.past, func(p past) bool { return follows(r, p.Result) })
	h.past = append(h.past, past{Result: r, At: time.Now(), Times: times})
	h.past = slices.Delete(h.past, 0, max(0, len(h.past)-maxHistory))
}

// share notes who else shares a capture. It is remembered already: the result of whoever asked
// first comes first.
func (h *History) share(r result.Result) {
	for i := range h.past {
		if p := &h.past[i]; p.ID == r.Shared && p.State == r.State && p.Started == r.Started {
			p.Shared.Add(r.ID)
		}
	}
}

// repeats reports whether a refusal says the same as another one.
func repeats(r, other result.Result) bool {
	return r.State == result.Refused && other.State == result.Refused &&
		r.Interface == other.Interface && r.Error == other.Error
}

// follows reports whether a result says what became of a capture that was kept.
func follows(r, kept result.Result) bool {
	return kept.State == result.Kept && r.State != result.Refused &&
		r.ID == kept.ID && r.Interface == kept.Interface && r.Started == kept.Started
}

// Recent returns what is remembered, newest first. The caller may keep it.
func (h *History) Recent() []past {
	h.mu.Lock()
	defer h.mu.Unlock()
	recent := slices.Clone(h.past)
	slices.Reverse(recent)
	return recent
}
