package main

import (
	"encoding/json"
	"strings"

	"github.com/sirupsen/logrus"
)

// A conclusion holds the last results of a capture, one for each asker. They
// are alike in what became of it.
type conclusion []result

// conclusionOf returns the last results of a capture, as they are before it is delivered.
func (s *jobs) conclusionOf(j *job, askers []asker, outcome outcome) conclusion {
	state := stateDone
	if outcome.err != nil {
		state = stateFailed
	}
	results := make(conclusion, len(askers))
	for i, a := range askers {
		r := j.result(a, s.node, state)
		r.Stop, r.counts, r.losses, r.Ended = outcome.stop, &outcome.counts, &outcome.losses, stamp(outcome.ended)
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
func (c conclusion) add(text string) {
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
func (s *jobs) conclude(results conclusion, place receipt, err error) {
	state, level := results[0].State, logrus.InfoLevel
	if err != nil {
		state = stateFailed
		results.add(err.Error())
	}
	switch {
	case place.kept:
		if err != nil { // of the local file
			s.failed.Add(1)
		}
		state, level = stateKept, logrus.WarnLevel
	case state == stateFailed:
		level = logrus.ErrorLevel
		s.failed.Add(1)
	}
	for i, r := range results {
		r.State = state
		r.File, r.URL, r.Key, r.Name = place.file, place.url, place.key, place.name
		s.tell(r, levelOf(i, level), results.more())
	}
}

// more returns what one line of the log says for all of them.
func (c conclusion) more() logrus.Fields {
	if len(c) == 1 {
		return nil
	}
	return logrus.Fields{"askers": len(c)}
}

// encode returns the results as a note for the spool: who settles them may be another process.
func (c conclusion) encode() []byte {
	lines := make([]json.RawMessage, len(c))
	for i, r := range c {
		lines[i] = r.encode()
	}
	note, _ := json.Marshal(lines) // of JSON
	return note
}

// settle concludes a capture that had to wait in the spool.
func (s *jobs) settle(note []byte, place receipt, err error) {
	var lines []json.RawMessage
	var results conclusion
	if json.Unmarshal(note, &lines) == nil {
		for _, line := range lines {
			if r, err := decodeResult(line); err == nil {
				r.presence = nil
				results = append(results, r)
			}
		}
	}
	if len(results) == 0 {
		s.log.WithFields(logrus.Fields{"url": place.url, "file": place.file}).Error("nobody is known who asked for this")
		return
	}
	s.conclude(results, place, err)
}
