package main

import (
	"bytes"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

const (
	// maxLines is how many lines of the log wait for whoever takes them.
	maxLines = 1000
	// lastLines is the time for the lines that wait at the end.
	lastLines = time.Second
)

// newLogger returns the log: no time stamps where the journal adds its own.
// Whoever logs never waits; the function waits for what is left, but not long.
func newLogger(c logConfig, to *os.File) (log *logrus.Logger, flush func()) {
	journaled, _ := journal.StderrIsJournalStream()
	var formatter logrus.Formatter = &logrus.TextFormatter{
		DisableTimestamp: journaled, FullTimestamp: true, TimestampFormat: time.RFC3339Nano}
	if c.format == "json" {
		formatter = &logrus.JSONFormatter{DisableTimestamp: journaled, TimestampFormat: time.RFC3339Nano}
	}
	level, _ := logrus.ParseLevel(c.level) // one of ours
	// What the queue itself has to say goes past the queue.
	direct := &logrus.Logger{Out: to, Formatter: formatter, Hooks: logrus.LevelHooks{}, Level: level}
	queue := newLogQueue(to, func(dropped int64) {
		direct.WithField("lines", dropped).Warn("log dropped")
	})
	return &logrus.Logger{Out: queue, Formatter: formatter, Hooks: logrus.LevelHooks{}, Level: level}, queue.flush
}

// warnings is a writer whose lines are warnings in the log.
type warnings struct{ log *logrus.Logger }

// Write implements io.Writer for one line.
func (w warnings) Write(line []byte) (int, error) {
	w.log.Warn(string(bytes.TrimSpace(line)))
	return len(line), nil
}

// A logQueue is a writer that never blocks: a full pipe or a journal that
// hangs must not hold up the receive loop. What finds no room is dropped.
type logQueue struct {
	lines   chan []byte
	dropped atomic.Int64
	said    func(dropped int64)
	done    chan struct{}
}

// newLogQueue returns a queue in front of a writer. It says how many lines
// were dropped when they flow again.
func newLogQueue(to io.Writer, said func(int64)) *logQueue {
	q := &logQueue{lines: make(chan []byte, maxLines), said: said, done: make(chan struct{})}
	go q.run(to)
	return q
}

// Write implements io.Writer for one line.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(line):
	default:
		q.dropped.Add(1)
	}
	return len(line), nil
}

// run writes the lines until flush.
func (q *logQueue) run(to io.Writer) {
	defer close(q.done)
	for line := range q.lines {
		if line == nil {
			return
		}
		_, _ = to.Write(line) // there is nobody to tell
		if dropped := q.dropped.Swap(0); dropped > 0 {
			q.said(dropped)
		}
	}
}

// flush waits until all lines are written, or nobody takes them in time. What
// is written after it may be lost.
func (q *logQueue) flush() {
	last := time.After(lastLines)
	select {
	case q.lines <- nil:
	case <-last:
		return
	}
	select {
	case <-q.done:
	case <-last:
	}
}
