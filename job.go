package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"pcapdaemon/tap"

	"github.com/sirupsen/logrus"
)

// A job is one capture, from opening the interface to its last result.
type job struct {
	request request
	iface   string
	bounds  bounds
	buffer  *buffer
}

// An outlet takes results to whoever asked. Publish never blocks.
type outlet interface{ Publish(message []byte) }

// silence is the outlet where nobody wants results.
type silence struct{}

// Publish implements outlet.
func (silence) Publish([]byte) {}

// run makes a capture, from judging the filter to the last result.
func (s *jobs) run(life lifetime, j *job) {
	source, err := s.open(life, j)
	if err != nil {
		s.refuse(j.request, j.iface, err)
		return
	}
	defer j.buffer.free()
	start := time.Now()
	s.metrics.requests.WithLabelValues(outcomeAccepted).Inc()
	r := newResult(j.request, s.node, j.iface, stateStarted)
	r.Started = stamp(start)
	s.tell(r, j.asked())

	outcome := newCapture(source, start, j.bounds, j.buffer).record(life.recording)
	s.working.Go(source.Close) // takes tens of milliseconds
	s.release()
	s.metrics.capture(outcome.counts)
	s.tell(s.finish(life, j, r, outcome), nil)
}

// open admits a capture and opens its source.
func (s *jobs) open(life lifetime, j *job) (source, error) {
	open, err := s.prepare(life.recording, wanted{iface: j.iface, filter: j.request.Filter,
		snap: int(cmp.Or(j.request.Snap, maxSnap)), buffer: int(s.capacity.buffer)})
	if err != nil {
		return nil, err
	}
	if err := s.admit(j); err != nil {
		return nil, err
	}
	source, err := open()
	if err != nil {
		j.buffer.free()
		s.release()
	}
	return source, err
}

// asked returns everything that was asked for, for those who want to know later who captured what.
func (j *job) asked() logrus.Fields {
	fields := logrus.Fields{"bpf": j.request.Filter, "packets": j.bounds.packets, "bytes": j.bounds.bytes,
		"timeout": formatDuration(j.bounds.timeout), "snap": cmp.Or(j.request.Snap, maxSnap)}
	for name, value := range map[string]string{"tags": j.request.Tags, "customer": j.request.Customer, "by": j.request.By} {
		if value != "" {
			fields[name] = value
		}
	}
	if j.request.AlertID != nil {
		fields["alertid"] = *j.request.AlertID
	}
	return fields
}

// finish delivers what was captured and returns the last result.
func (s *jobs) finish(life lifetime, j *job, r result, outcome outcome) result {
	r.State, r.Stop, r.counts, r.Ended = stateDone, outcome.stop, &outcome.counts, stamp(outcome.ended)
	r.Error = outcome.note
	err := outcome.err
	if outcome.Packets > 0 {
		place, lost := s.delivery.deliver(life.delivering, life.stopping, s.recording(j, r))
		r.File, r.URL = place.file, place.url
		err = errors.Join(err, lost)
	} else if tap.IsDown(j.iface) {
		r.Error = "the interface is down"
	}
	if err != nil {
		r.State, r.Error = stateFailed, strings.ReplaceAll(err.Error(), "\n", "; ")
		s.failed.Add(1)
	}
	return r
}

// recording describes a finished capture to its destinations.
func (s *jobs) recording(j *job, r result) recording {
	return recording{
		id:      r.ID,
		name:    fileName(r.Node, r.Interface, time.Time(r.Started)),
		size:    r.Bytes,
		content: j.buffer.reader,
		tags:    uploadTags(j.request, r.Node, r.Interface),
		comments: fmt.Sprintf("filter: %s; stop: %s; packets: %d; dropped: %d; request: %s",
			cmp.Or(r.Filter, "none"), r.Stop, r.Packets, r.Dropped+r.IfDropped, r.ID),
	}
}

// refuse answers a request that is not served.
func (s *jobs) refuse(r request, iface string, err error) {
	s.refused.Add(1)
	s.metrics.requests.WithLabelValues(outcomeRefused).Inc()
	refusal := newResult(r, s.node, iface, stateRefused)
	refusal.Error = err.Error()
	s.tell(refusal, nil)
}

// tell reports a result and writes it to the log, with more fields if there are any.
func (s *jobs) tell(r result, more logrus.Fields) {
	s.results.Publish(r.encode())
	fields := logrus.Fields{"request": r.ID, "interface": r.Interface}
	maps.Copy(fields, more)
	if r.counts != nil {
		fields["stop"], fields["packets"], fields["bytes"] = r.Stop, r.Packets, r.Bytes
		fields["dropped"] = r.Dropped + r.IfDropped
		fields["took"] = time.Since(time.Time(r.Started)).Round(time.Millisecond)
	}
	for name, value := range map[string]string{"file": r.File, "url": r.URL, "error": r.Error} {
		if value != "" {
			fields[name] = value
		}
	}
	level := map[string]logrus.Level{stateFailed: logrus.ErrorLevel, stateRefused: logrus.WarnLevel}[r.State]
	s.log.WithFields(fields).Log(cmp.Or(level, logrus.InfoLevel), "capture "+r.State)
}
