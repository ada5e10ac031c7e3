package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/status"
	"pcapdaemon/tap"
)

// recorders are the interfaces that are recorded all the time.
type recorders struct {
	names []string // in the order of -record
	named map[string]*tap.Recorder
}

// newRecorders takes the memory of all recorders. They record while run runs.
func newRecorders(c config, compiler *tap.Compiler) (*recorders, error) {
	s := &recorders{names: c.record.interfaces, named: map[string]*tap.Recorder{}}
	for _, name := range s.names {
		options := tap.Options{Interface: name, Snap: int(c.limits.snap), BufferSize: int(c.capacity.buffer)}
		r, err := tap.NewRecorder(options, c.record.size, compiler)
		if err != nil {
			return nil, err
		}
		s.named[name] = r
	}
	return s, nil
}

// run records until the context ends. It returns when each recorder has
// tried to open its interface, and a function that waits for their end.
func (s *recorders) run(ctx context.Context, log *logrus.Logger) (wait func()) {
	var running, opening sync.WaitGroup
	stored := s.resume(log)
	for _, name := range s.names {
		opening.Add(1)
		tried := sync.OnceFunc(opening.Done)
		running.Go(func() {
			defer tried()
			kept := stored[name]
			s.named[name].Run(ctx, func(err error) {
				if err != nil {
					log.WithField("interface", name).WithError(err).Error("not recorded")
				} else {
					log.WithField("interface", name).Info("recorded")
					kept = s.store(name, kept, log)
				}
				tried()
			})
		})
	}
	opening.Wait()
	return running.Wait
}

// resume lets recorders go on with what systemd has kept, and returns that by
// interface. What does not fit is forgotten.
func (s *recorders) resume(log *logrus.Logger) map[string]*os.File {
	resumed := map[string]*os.File{}
	stored := takeStored()
	for _, name := range s.names {
		files, ok := stored[storedName(name)]
		if !ok {
			continue
		}
		delete(stored, storedName(name))
		if err := s.named[name].Resume(files); err != nil {
			forgetDescriptors(storedName(name))
			log.WithField("interface", name).WithError(err).Warn("recording begins anew")
			continue
		}
		resumed[name] = s.named[name].Files()[0]
		log.WithField("interface", name).Info("recording resumed")
	}
	for name, files := range stored { // no longer in -record
		forgetDescriptors(name)
		closeAll(files)
	}
	return resumed
}

// store lets systemd keep what an interface's recorder records in, unless it
// has that, and returns it.
func (s *recorders) store(name string, kept *os.File, log *logrus.Logger) *os.File {
	files := s.named[name].Files()
	if len(files) == 0 || files[0] == kept {
		return kept
	}
	if err := storeDescriptors(storedName(name), files); err != nil {
		log.WithField("interface", name).WithError(err).Warn("recording ends with the daemon")
	}
	return files[0]
}

// find returns the recorder of an interface, or nil.
func (s *recorders) find(iface string) *tap.Recorder { return s.named[iface] }

// watch lets metrics look at the recorders.
func (s *recorders) watch(m *metrics) {
	for _, name := range s.names {
		r := s.named[name]
		m.countOf(name, "pcapdaemon_recorder_packets_total", "Packets that came on a recorded interface.",
			func() float64 { return float64(r.Status().Packets) })
		m.countOf(name, "pcapdaemon_recorder_dropped_total", "Packets of a recorded interface that the kernel dropped.",
			func() float64 { return float64(r.Status().Dropped) })
		m.watchOf(name, "pcapdaemon_recorder_bytes", "Bytes that a recorder holds.",
			func() float64 { return float64(r.Status().Bytes) })
		m.watchOf(name, "pcapdaemon_recorder_seconds", "Age of the oldest packet that a recorder holds.",
			func() float64 { return age(r.Status().Oldest).Seconds() })
		m.watchOf(name, "pcapdaemon_recorder_up", "1 while an interface is recorded, else 0.", oneIf(r.Up))
	}
}

// age returns how long ago a time was; zero was never.
func age(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t))
}

// status describes the recorders for people; it is empty if there are none.
func (s *recorders) status() string {
	var parts []string
	for _, name := range s.names {
		status := s.named[name].Status()
		switch {
		case status.Up:
			parts = append(parts, fmt.Sprintf("%s for %s", name, age(status.Whole).Round(time.Second)))
		case status.Link >= 0:
			parts = append(parts, fmt.Sprintf("%s until it vanished", name))
		default:
			parts = append(parts, fmt.Sprintf("%s not yet", name))
		}
	}
	if parts == nil {
		return ""
	}
	return "; recorded: " + strings.Join(parts, ", ")
}

// reach returns how many seconds the recorder of an interface reaches back, or nil if it has none.
func (s *recorders) reach(iface string) *float64 {
	r := s.named[iface]
	if r == nil {
		return nil
	}
	seconds := age(r.Status().Whole).Seconds()
	return &seconds
}

// overview describes the recorders for the page.
func (s *recorders) overview() []status.Recorded {
	var list []status.Recorded
	for _, name := range s.names {
		r := s.named[name].Status()
		list = append(list, status.Recorded{Name: name, Reach: age(r.Whole), Trouble: r.Err})
	}
	return list
}

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
}

// A preparer judges what can be judged before a slot is taken: whether the
// interface is there and the filter compiles. That may take seconds.
type preparer func(context.Context, wanted) (opener, error)

// An opener opens what has been prepared, for a capture that was asked for at a
// time and lasts for a timeout, and returns when the capture begins.
type opener func(asked time.Time, timeout time.Duration) (source, time.Time, error)

// A system prepares real sources: open interfaces, and readers of recorders.
type system struct {
	compiler  *tap.Compiler
	recorders *recorders
	limits    limits
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
		if _, missing := tap.Device(w.iface); missing != nil {
			err = fmt.Errorf("%w; %s", err, s.limits.choice())
		}
		return nil, err
	}
	options := tap.Options{Interface: w.iface, Filter: filter, Snap: w.snap, BufferSize: w.buffer, Nanos: w.nanos}
	return func(time.Time, time.Duration) (source, time.Time, error) {
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
	return func(asked time.Time, timeout time.Duration) (source, time.Time, error) {
		reader, err := recorder.Read(tap.ReaderOptions{Filter: filter, Snap: w.snap,
			From: asked.Add(-w.lookback), Past: true, Until: asked.Add(timeout), Nanos: w.nanos})
		return reader, asked, err
	}
}
