package main

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/sirupsen/logrus"

	"pcapdaemon/object"
	"pcapdaemon/store"
	"pcapdaemon/tap"
)

// Outcomes of a request, as metrics name them. Requests for several
// interfaces count once for each.
const (
	outcomeAccepted  = "accepted"
	outcomeRefused   = "refused"
	outcomeShared    = "shared" // accepted, and answered by a capture that runs already
	outcomeOtherNode = "other_node"
	outcomeMalformed = "malformed"
)

// metrics counts what happens, for Prometheus.
type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec // by outcome
	packets    prometheus.Counter
	bytes      prometheus.Counter
	removed    prometheus.Counter
	drops      prometheus.Counter
	livePieces prometheus.Counter
	liveBytes  prometheus.Counter
	givenUp    prometheus.Counter
	deliveries *prometheus.CounterVec   // by destination and outcome
	seconds    *prometheus.HistogramVec // by destination
}

// newMetrics returns metrics in which every series exists from the start.
func newMetrics(version string) *metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f := promauto.With(r)
	m := &metrics{
		registry: r,
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "pcapdaemon_requests_total",
			Help: "Requests by what became of them, counted for each interface asked for."}, []string{"outcome"}),
		packets: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_captured_packets_total",
			Help: "Packets captured."}),
		bytes: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_captured_bytes_total",
			Help: "Bytes of capture files."}),
		removed: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_removed_captures_total",
			Help: "Captures that were removed from -destdir to keep it within its bounds."}),
		drops: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_dropped_packets_total",
			Help: "Packets that the kernel or an interface dropped during captures."}),
		livePieces: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_live_pieces_total",
			Help: "Pieces of captures that were sent to whoever asked, while they were made."}),
		liveBytes: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_live_bytes_total",
			Help: "Bytes of those pieces."}),
		givenUp: f.NewCounter(prometheus.CounterOpts{Name: "pcapdaemon_live_given_up_total",
			Help: "Live captures that were sent no further, because nobody read them."}),
		deliveries: f.NewCounterVec(prometheus.CounterOpts{Name: "pcapdaemon_deliveries_total",
			Help: "Deliveries of captures by destination and outcome."}, []string{"destination", "outcome"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "pcapdaemon_delivery_seconds",
			Help:    "Time that deliveries took, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}, []string{"destination"}), // 1 ms to 4 min
	}
	f.NewGauge(prometheus.GaugeOpts{Name: "pcapdaemon_build_info", Help: "1, labelled with what this program is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version(), "libpcap": tap.Version()}}).Set(1)

	for _, outcome := range []string{outcomeAccepted, outcomeShared, outcomeRefused, outcomeOtherNode, outcomeMalformed} {
		m.requests.WithLabelValues(outcome)
	}
	for _, name := range append(store.Names(), sharkName, object.DestinationName) {
		m.deliveries.WithLabelValues(name, "ok")
		m.deliveries.WithLabelValues(name, "error")
		m.seconds.WithLabelValues(name)
	}
	return m
}

// oneIf returns the value of a gauge that is 1 while something holds, else 0.
func oneIf(holds func() bool) func() float64 {
	return func() float64 {
		if holds() {
			return 1
		}
		return 0
	}
}

// watch adds a gauge whose value is asked for when somebody looks.
func (m *metrics) watch(name, help string, value func() float64) {
	promauto.With(m.registry).NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// count adds a counter whose value is asked for when somebody looks.
func (m *metrics) count(name, help string, value func() float64) {
	promauto.With(m.registry).NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
}

// watchMessages lets metrics look at what went wrong with messages: how many results were
// lost, and how many requests were too long.
func (m *metrics) watchMessages(lost, tooLong func() int64) {
	m.count("pcapdaemon_results_lost_total", "Results that were dropped, because Redis was away for too long.",
		func() float64 { return float64(lost()) })
	m.count("pcapdaemon_messages_too_long_total", "Messages of more than 64 KiB, of which the rest was not kept.",
		func() float64 { return float64(tooLong()) })
}

// watchOf is watch for one interface of several.
func (m *metrics) watchOf(iface, name, help string, value func() float64) {
	m.watchWith(prometheus.Labels{"interface": iface}, name, help, value)
}

// watchWith is watch for one of several series, with labels.
func (m *metrics) watchWith(labels prometheus.Labels, name, help string, value func() float64) {
	promauto.With(m.registry).NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
}

// countOf is count for one interface of several.
func (m *metrics) countOf(iface, name, help string, value func() float64) {
	labels := prometheus.Labels{"interface": iface}
	promauto.With(m.registry).NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, value)
}

// capture counts a finished capture.
func (m *metrics) capture(c outcome) {
	m.packets.Add(float64(c.Packets))
	m.bytes.Add(float64(c.Bytes))
	m.drops.Add(float64(c.Dropped + c.IfDropped))
}

// delivery counts and times a delivery.
func (m *metrics) delivery(destination string, took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.deliveries.WithLabelValues(destination, outcome).Inc()
	m.seconds.WithLabelValues(destination).Observe(took.Seconds())
}

// A deliveryObserver counts deliveries, and writes to the log what nothing else will say of them.
type deliveryObserver struct {
	metrics *metrics
	log     *logrus.Logger
}

// Delivered implements store.Observer.
func (w deliveryObserver) Delivered(destination string, took time.Duration, err error) {
	w.metrics.delivery(destination, took, err)
}

// Retried implements store.Observer.
func (w deliveryObserver) Retried(destination string, r store.File, err error, wait time.Duration) {
	fields := logrus.Fields{"request": r.ID, "file": r.Name, "destination": destination, "wait": wait}
	w.log.WithFields(fields).WithError(err).Warn("upload will be tried again")
}

// Sent implements store.LiveObserver.
func (w deliveryObserver) Sent(bytes int) {
	w.metrics.livePieces.Inc()
	w.metrics.liveBytes.Add(float64(bytes))
}

// GivenUp implements store.LiveObserver.
func (w deliveryObserver) GivenUp() { w.metrics.givenUp.Inc() }

// Removed implements store.Observer.
func (w deliveryObserver) Removed(names []string, size int64) {
	w.metrics.removed.Add(float64(len(names)))
	if len(names) > 10 {
		w.log.WithFields(logrus.Fields{"captures": len(names), "bytes": size}).Info("old captures removed")
		return
	}
	for _, name := range names {
		w.log.WithField("file", name).Info("old capture removed")
	}
}

// Troubled implements store.Observer.
func (w deliveryObserver) Troubled(err error) { w.log.WithError(err).Error("trouble with files") }
