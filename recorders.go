package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

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
	for _, name := range s.names {
		opening.Add(1)
		tried := sync.OnceFunc(opening.Done)
		running.Go(func() {
			defer tried()
			s.named[name].Run(ctx, func(err error) {
				if err != nil {
					log.WithField("interface", name).WithError(err).Error("not recorded")
				} else {
					log.WithField("interface", name).Info("recorded")
				}
				tried()
			})
		})
	}
	opening.Wait()
	return running.Wait
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
		m.watchOf(name, "pcapdaemon_recorder_up", "1 while an interface is recorded, else 0.", func() float64 {
			if r.Up() {
				return 1
			}
			return 0
		})
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
func (s *recorders) overview() []recordedInterface {
	var list []recordedInterface
	for _, name := range s.names {
		r := s.named[name].Status()
		list = append(list, recordedInterface{Name: name, Reach: age(r.Whole), Trouble: r.Err})
	}
	return list
}
