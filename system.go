package main

import (
	"context"
	"errors"
	"time"

	"pcapdaemon/tap"
)

// A wanted source is what a request asks for.
type wanted struct {
	iface  string
	filter string // pcap-filter(7)
	snap   int    // bytes
	buffer int    // of the kernel, in bytes
	nanos  bool   // stamps in nanoseconds, not microseconds
	// lookback is how long before the request the capture begins; it needs a
	// recorded interface.
	lookback time.Duration
	timeout  time.Duration // from the request on
}

// A preparer judges what can be judged before a slot is taken: whether the
// interface is there and the filter compiles. That may take seconds.
type preparer func(context.Context, wanted) (opener, error)

// An opener opens what has been prepared, for a capture that was asked for at
// a time, and returns when the capture begins.
type opener func(asked time.Time) (source, time.Time, error)

// A system prepares real sources: open interfaces, and readers of recorders.
type system struct {
	compiler  *tap.Compiler
	recorders *recorders
}

// prepare implements preparer. What is recorded is read from there, if the
// interface is being recorded and the filter asks for nothing that is not.
func (s system) prepare(ctx context.Context, w wanted) (opener, error) {
	recorder := s.recorders.find(w.iface)
	if recorder != nil && (recorder.Up() || w.lookback > 0) {
		filter, err := s.compiler.CompileRecorded(ctx, recorder, w.filter)
		if err == nil {
			return w.fromRecorder(recorder, filter), nil
		}
		if w.lookback > 0 || errors.Is(err, tap.ErrGivenUp) { // once more would take as long
			return nil, err
		}
	}
	filter, err := s.compiler.Compile(ctx, w.iface, w.snap, w.filter)
	if err != nil {
		return nil, err
	}
	options := tap.Options{Interface: w.iface, Filter: filter, Snap: w.snap, BufferSize: w.buffer, Nanos: w.nanos}
	return func(time.Time) (source, time.Time, error) {
		live, err := tap.Open(options)
		if err != nil {
			return nil, time.Time{}, err
		}
		return live, live.Start(), nil
	}, nil
}

// fromRecorder returns an opener of what a recorder holds: there is nothing to
// wait for, so the capture begins with the request, however long its filter took.
func (w wanted) fromRecorder(recorder *tap.Recorder, filter *tap.Filter) opener {
	return func(asked time.Time) (source, time.Time, error) {
		reader, err := recorder.Read(tap.ReaderOptions{Filter: filter, Snap: w.snap,
			From: asked.Add(-w.lookback), Past: true, Until: asked.Add(w.timeout), Nanos: w.nanos})
		return reader, asked, err
	}
}
