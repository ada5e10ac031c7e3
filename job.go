package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/store"
	"pcapdaemon/tap"
	"pcapdaemon/text"
)

// A job is one capture, from opening the interface to the last result of all
// who asked for it.
type job struct {
	want    wanted
	bounds  bounds
	heading capfile.Header          // of the file
	longest time.Duration           // that its delivery may take
	name    string                  // of the file
	born    time.Time               // when the first request came
	stop    context.CancelCauseFunc // ends the capture
	buffer  *capfile.Buffer

	// What follows is under the lock of the jobs until the capture has ended.
	requesters []requester
	ids        map[string]bool // of the requesters
	started    time.Time       // zero until the source is open
	announced  bool            // all who had asked by then know that it has started
	capture    *capture        // nil until then
	live       *store.Live     // what is sent to the requester meanwhile; nil: nothing is
	since      time.Time       // from when on a capture with a past is whole
	gap        error           // when the interface was not there in that past
	stopped    bool            // somebody has asked to stop it
	stoppedBy  string          // that one, if known
}

// A requester is one of those who asked for a capture.
type requester struct {
	request request
	iface   string // the name that was asked for
}

// A shareKey holds all that makes two captures differ.
type shareKey struct {
	want   wanted
	bounds bounds
}

// newJob returns a capture that one request has asked for, and whose file has a heading.
func newJob(a requester, want wanted, b bounds, h capfile.Header) *job {
	j := &job{want: want, bounds: b, heading: h, born: time.Now(), ids: map[string]bool{}}
	j.add(a)
	return j
}

// alone reports whether no other request may share the capture.
func (j *job) alone() bool { return j.requesters[0].request.isForRequester() }

// key returns what this capture and an equal one have in common.
func (j *job) key() shareKey { return shareKey{j.want, j.bounds} }

// add takes one more requester.
func (j *job) add(a requester) {
	a.request.Interfaces, a.request.raw = nil, nil // 20,000 of them are to be small
	j.requesters = append(j.requesters, a)
	j.ids[a.request.ID] = true
}

// takes reports whether another request may share this capture, which may be nil.
func (j *job) takes(other *job, within time.Duration) bool {
	return j != nil && other.born.Sub(j.born) < within && len(j.requesters) < maxRequesters && !j.over()
}

// over reports whether the end of a capture has come, though packets from before
// it may still be on their way.
func (j *job) over() bool {
	return j.stopped || j.capture != nil && j.capture.deadline.excludes(time.Now())
}

// result returns the result of one of the requesters, in a state.
func (j *job) result(a requester, node, state string) result.Result {
	r := a.request.result(node, a.iface, state)
	r.Started, r.Since = result.Stamp(j.started), result.Stamp(j.since)
	if a.iface != j.want.iface {
		r.Device = j.want.iface
	}
	if first := j.requesters[0].request.ID; first != a.request.ID {
		r.Shared = first
	}
	if state == result.Started {
		r.Limits = j.bounds.granted()
		r.Limits.Delivery = int64(math.Ceil(j.longest.Seconds()))
		if j.live != nil {
			r.Key, r.Name, r.Error = j.sentTo()
		}
	}
	return r
}

// sentTo returns the key of a capture that is being sent and the name of its file, or why
// there is none. It does not wait: the capture is announced when the key is known.
func (j *job) sentTo() (key, name, problem string) {
	key, err := j.live.Key()
	if err != nil {
		return "", "", err.Error()
	}
	return key, j.name, ""
}

// run makes a capture, from judging the filter to the last results. It records
// until its own context ends. A stop that comes earlier finds nothing to record:
// it is no reason to refuse.
func (s *jobs) run(life lifetime, recording context.Context, j *job) {
	source, start, err := s.open(life, j)
	if err != nil {
		for i, a := range s.end(j) {
			s.refuse(a, err, levelOf(i, logrus.WarnLevel))
		}
		return
	}
	var closing sync.WaitGroup
	defer s.giveBack()
	defer closing.Wait()
	defer j.buffer.Free()
	s.begin(j, source, start)
	s.sendLive(life, j)
	var announcing sync.WaitGroup
	if j.live == nil {
		s.announce(j)
	} else { // packets do not wait for the key
		announcing.Go(func() {
			<-j.live.Opened()
			s.announce(j)
		})
	}
	outcome := s.capture(recording, j)
	announcing.Wait()
	closing.Go(source.Close) // takes tens of milliseconds
	requesters := s.end(j)
	s.release()
	s.metrics.capture(outcome)
	s.finish(life, j, requesters, outcome)
}

// open admits a capture, opens its source and returns when the capture begins.
func (s *jobs) open(life lifetime, j *job) (source, time.Time, error) {
	open, err := s.prepare(life.capturing, j.want)
	if err != nil {
		return nil, time.Time{}, err
	}
	if err := s.admit(j); err != nil {
		return nil, time.Time{}, err
	}
	source, start, err := open(j.born, j.bounds.timeout)
	if err != nil {
		j.buffer.Free()
		s.release()
		s.giveBack()
	}
	return source, start, err
}

// begin makes the capture of a source that is open.
func (s *jobs) begin(j *job, source source, start time.Time) {
	s.metrics.requests.WithLabelValues(outcomeAccepted).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics.requests.WithLabelValues(outcomeShared).Add(float64(len(j.requesters) - 1))
	j.started = start
	if past, ok := source.(pastSource); ok && j.want.lookback > 0 {
		j.since, j.gap = past.Since(), past.Gap()
	}
	j.name = store.FileName(s.node, j.want.iface, start, s.format.Extension())
	j.heading.Snap, j.heading.LinkType = source.SnapLen(), source.LinkType()
	unit := time.Microsecond
	if j.want.nanos {
		unit = time.Nanosecond
	}
	plain := j.bounds
	plain.bytes = s.delivery.Fit(plain.bytes)
	j.capture = newCapture(source, j.started, plan{plain, s.format.Layout(j.heading), unit}, j.buffer)
}

// sendLive begins to send a capture to its requester, if that was asked for.
func (s *jobs) sendLive(life lifetime, j *job) {
	r := j.requesters[0].request
	if !r.Live {
		return
	}
	from := capfile.Follow(s.format, j.heading, j.buffer, &j.capture.quota.Copied)
	live := s.delivery.Send(life.delivering, s.returnKey(j, r.ID), j.bounds.bytes, from)
	s.mu.Lock()
	defer s.mu.Unlock()
	j.live = live
}

// returnKey returns the key under which a capture goes to its requester.
func (s *jobs) returnKey(j *job, id string) string {
	return strings.Join([]string{s.channel, id, s.node, j.want.iface}, ":")
}

// announce tells all who have asked so far that their capture has started. Whoever
// comes later gets that from join. As many as share a capture take long to encode,
// so that is not done under the lock, which the receive loop takes too.
func (s *jobs) announce(j *job) {
	for told := 0; ; {
		s.mu.Lock()
		if told == len(j.requesters) {
			j.announced = true
			s.mu.Unlock()
			return
		}
		asked, results := j.asked(), make([]result.Result, 0, len(j.requesters)-told)
		for _, a := range j.requesters[told:] {
			results = append(results, j.result(a, s.node, result.Started))
		}
		s.mu.Unlock()
		for _, r := range results {
			s.tell(r, levelOf(told, logrus.InfoLevel), asked)
			told++
		}
	}
}

// asked returns everything that was asked for, for those who want to know later who captured what.
func (j *job) asked() logrus.Fields {
	first := j.requesters[0].request
	fields := logrus.Fields{"bpf": first.Filter, "packets": j.bounds.packets, "bytes": j.bounds.bytes,
		"timeout": text.FormatDuration(j.bounds.timeout), "snap": j.want.snap}
	if j.want.lookback > 0 {
		fields["lookback"] = text.FormatDuration(j.want.lookback)
	}
	for name, value := range map[string]string{"tags": first.Tags, "customer": first.Customer, "by": first.By} {
		if value != "" {
			fields[name] = value
		}
	}
	if first.AlertID != nil {
		fields["alertid"] = *first.AlertID
	}
	return fields
}

// finish delivers what was captured and tells all who asked.
func (s *jobs) finish(life lifetime, j *job, requesters []requester, outcome outcome) {
	results := s.finalResultsOf(j, requesters, outcome)
	var place store.Place
	var err, unsent error
	if j.live != nil {
		j.live.End(results.statistics())
	}
	if outcome.Packets > 0 {
		place, err = s.delivery.Deliver(life.delivering, life.capturing.Done(), s.file(j, requesters, results))
	} else if tap.IsDown(j.want.iface) {
		results.add("the interface is down")
	}
	if j.live != nil {
		unsent = j.live.Wait()
	}
	s.conclude(results, place, errors.Join(err, unsent))
}

// statistics returns what the file says at its end.
func (c finalResults) statistics() capfile.Statistics {
	r := c[0]
	return capfile.Statistics{Started: time.Time(r.Started), Ended: time.Time(r.Ended), Packets: r.Packets,
		Stats: tap.Stats{Received: r.Received, Dropped: r.Dropped, IfDropped: r.IfDropped}}
}

// file describes a finished capture to its destinations.
func (s *jobs) file(j *job, requesters []requester, results finalResults) store.File {
	r := results[0]
	comments := fmt.Sprintf("filter: %s; stop: %s; packets: %d; dropped: %d; request: %s",
		cmp.Or(r.Filter, "none"), r.Stop, r.Packets, r.Dropped+r.IfDropped, r.ID)
	if n := len(requesters); n > 1 {
		comments += fmt.Sprintf("; asked for %d times", n)
	}
	key := ""
	if requesters[0].request.Return {
		key = s.returnKey(j, r.ID)
	}
	var note []byte
	if s.delivery.Spools() {
		note = results.encode()
	}
	return store.File{
		Note:     note,
		Key:      key,
		ID:       r.ID,
		Name:     j.name,
		Size:     j.capture.sofar().Bytes,
		Content:  s.format.Content(j.heading, results.statistics(), j.buffer.Pieces()),
		Tags:     uploadTags(requesters, r.Node, j.want.iface),
		Labels:   labels(requesters[0].request, r.Node, j.want.iface),
		Comments: comments,
	}
}

// capture makes the capture, and tells those who want to know how far it is meanwhile.
func (s *jobs) capture(ctx context.Context, j *job) outcome {
	done := make(chan struct{})
	var telling sync.WaitGroup
	defer telling.Wait() // nothing comes after the last result
	defer close(done)
	telling.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for second := int64(1); ; second++ {
			select {
			case <-ticker.C:
				s.tellProgress(j, second)
			case <-done:
				return
			}
		}
	})
	return j.capture.run(ctx)
}

// tellProgress tells the requesters who want to know it in this second how far a capture is.
func (s *jobs) tellProgress(j *job, second int64) {
	var results []result.Result
	s.mu.Lock()
	for _, a := range j.requesters {
		if !j.announced {
			break
		}
		if every := a.request.Progress; every > 0 && second%every == 0 {
			r := j.result(a, s.node, result.Running)
			r.Counts = j.capture.sofar()
			results = append(results, r)
		}
	}
	s.mu.Unlock()
	for _, r := range results {
		s.tell(r, logrus.DebugLevel, nil)
	}
}
