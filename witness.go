package main

import (
	"time"

	"github.com/sirupsen/logrus"
)

// A witness counts deliveries, and writes to the log what nothing else will say of them.
type witness struct {
	metrics *metrics
	log     *logrus.Logger
}

// delivered implements observer.
func (w witness) delivered(destination string, took time.Duration, err error) {
	w.metrics.delivery(destination, took, err)
}

// retried implements observer.
func (w witness) retried(r recording, err error, wait time.Duration) {
	fields := logrus.Fields{"request": r.id, "file": r.name, "wait": wait}
	w.log.WithFields(fields).WithError(err).Warn("upload will be tried again")
}

// removed implements observer.
func (w witness) removed(names []string, size int64) {
	w.metrics.removed.Add(float64(len(names)))
	if len(names) > 10 {
		w.log.WithFields(logrus.Fields{"captures": len(names), "bytes": size}).Info("old captures removed")
		return
	}
	for _, name := range names {
		w.log.WithField("file", name).Info("old capture removed")
	}
}

// troubled implements observer.
func (w witness) troubled(err error) { w.log.WithError(err).Error("trouble with files") }
