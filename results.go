package main

import (
	"encoding/json"
	"maps"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/result"
	"pcapdaemon/store"
)

// A finalResults holds the last results of a capture, one for each requester. They
// are alike in what became of it.
type finalResults []result.Result

// finalResultsOf returns the last results of a capture, as they are before it is delivered.
func (s *jobs) finalResultsOf(j *job, requesters []requester, outcome outcome) finalResults {
	state := result.Done
	if outcome.err != nil {
		state = result.Failed
	}
	if outcome.Packets > 0 {
		outcome.Bytes = s.delivery.Size(outcome.Bytes)
	}
	results := make(finalResults, len(requesters))
	for i, a := range requesters {
		r := j.result(a, s.node, state)
		r.Stop, r.Counts, r.Losses, r.Ended = outcome.stop, &outcome.Counts, &outcome.Losses, result.Stamp(outcome.ended)
		if outcome.stop == stopRequest {
			r.StoppedBy = j.stoppedBy
		}
		results[i] = r
	}
	results.add(outcome.note)
	for _, err := range []error{j.gap, outcome.err} {
		if err != nil {
			results.add(err.Error())
		}
	}
	return results
}

// add adds a text, unless it is empty, to the errors of all results, which are one line each.
func (c finalResults) add(text string) {
	if text == "" {
		return
	}
	for i := range c {
		if c[i].Error != "" {
			c[i].Error += "; "
		}
		c[i].Error += strings.ReplaceAll(text, "\n", "; ")
	}
}

// conclude tells all who asked for a capture where it is, and what went wrong.
func (s *jobs) conclude(results finalResults, place store.Place, err error) {
	state, level := results[0].State, logrus.InfoLevel
	results.add(place.Why)
	if err != nil {
		state = result.Failed
		results.add(err.Error())
	}
	switch {
	case place.Kept:
		if err != nil { // of the local file
			s.failed.Add(1)
		}
		state, level = result.Kept, logrus.WarnLevel
	case state == result.Failed:
		level = logrus.ErrorLevel
		s.failed.Add(1)
	}
	for i, r := range results {
		r.State = state
		r.File, r.URL, r.Stored, r.Key, r.Name = place.File, place.URL, place.Stored, place.Key, place.Name
		s.tell(r, levelOf(i, level), results.more())
	}
}

// more returns what one line of the log says for all of them.
func (c finalResults) more() logrus.Fields {
	if len(c) == 1 {
		return nil
	}
	return logrus.Fields{"requesters": len(c)}
}

// encode returns the results as a note for the spool: who settles them may be another process.
func (c finalResults) encode() []byte {
	lines := make([]json.RawMessage, len(c))
	for i, r := range c {
		lines[i] = r.Encode()
	}
	note, _ := json.Marshal(lines) // of JSON
	return note
}

// settle concludes a capture that had to wait in the spool.
func (s *jobs) settle(note []byte, place store.Place, err error) {
	var lines []json.RawMessage
	var results finalResults
	if json.Unmarshal(note, &lines) == nil {
		for _, line := range lines {
			if r, err := result.Decode(line); err == nil {
				r.Presence = nil
				results = append(results, r)
			}
		}
	}
	if len(results) == 0 {
		s.log.WithFields(logrus.Fields{"url": place.URL, "file": place.File}).
			Error("the spool does not say who asked for this capture")
		return
	}
	s.conclude(results, place, err)
}

// levelOf returns the level at which the i-th requester's result is logged: one line
// says how many there are, the others are seen at debug level only.
func levelOf(i int, first logrus.Level) logrus.Level {
	if i == 0 {
		return first
	}
	return logrus.DebugLevel
}

// refuse answers a request that is not served.
func (s *jobs) refuse(a requester, err error, level logrus.Level) {
	s.refused.Add(1)
	s.metrics.requests.WithLabelValues(outcomeRefused).Inc()
	refusal := a.request.result(s.node, a.iface, result.Refused)
	refusal.Error = err.Error()
	s.tell(refusal, level, nil)
}

// tell reports a result and writes it to the log, with more fields if there are any.
func (s *jobs) tell(r result.Result, level logrus.Level, more logrus.Fields) {
	s.results.Publish(r)
	if !s.log.IsLevelEnabled(level) {
		return
	}
	fields := logrus.Fields{"request": r.ID, "interface": r.Interface}
	maps.Copy(fields, more)
	if r.Losses != nil {
		fields["stop"], fields["packets"], fields["bytes"] = r.Stop, r.Packets, r.Bytes
		fields["dropped"] = r.Dropped + r.IfDropped
		fields["took"] = time.Since(time.Time(r.Started)).Round(time.Millisecond)
	}
	for name, value := range map[string]string{"file": r.File, "url": r.URL, "stored": r.Stored, "error": r.Error,
		"stoppedby": r.StoppedBy} {
		if value != "" {
			fields[name] = value
		}
	}
	s.log.WithFields(fields).Log(level, "capture "+r.State)
}

// An outlet takes results to requesters. Publish never blocks.
type outlet interface{ Publish(result.Result) }

// discard is the outlet where nobody wants results.
type discard struct{}

// Publish implements outlet.
func (discard) Publish(result.Result) {}
