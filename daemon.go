package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"pcapdaemon/pubsub"
	"pcapdaemon/tap"

	"github.com/dustin/go-humanize/english"
	"github.com/sirupsen/logrus"
)

// lateDelivery is how long after -draintimeout local files may be on their way
// without any of their bytes reaching the disk.
const lateDelivery = 5 * time.Second

// A daemon serves requests: it judges them, and has its jobs make the captures.
type daemon struct {
	config    config
	inbox     addressee
	jobs      *jobs
	disk      *disk
	recorders *recorders
	metrics   *metrics
	log       *logrus.Logger
	health    *health
	rollCalls chan struct{} // holds a token for each that waits
}

// newDaemon returns a daemon that tells its results to an outlet and looks after its health.
func newDaemon(c config, results outlet, health *health, log *logrus.Logger) (*daemon, error) {
	recorders, err := newRecorders(c.record, c.capacity.buffer)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		config:    c,
		inbox:     addressee{node: c.node, implied: c.mode == requesting},
		disk:      &disk{},
		recorders: recorders,
		metrics:   newMetrics(version),
		health:    health,
		log:       log,
		rollCalls: make(chan struct{}, maxRollCalls),
	}
	d.jobs = newJobs(c)
	d.jobs.prepare = system{tap.NewCompiler(), recorders}.prepare
	d.jobs.delivery = newDelivery(c.delivery, d.disk, witness{d.metrics, log})
	d.jobs.delivery.back = mailbox{c.redis.server}
	d.jobs.results, d.jobs.metrics, d.jobs.log, d.jobs.changed = results, d.metrics, log, health.changed
	d.metrics.watch("pcapdaemon_captures_running", "Captures running now.",
		func() float64 { return float64(d.jobs.count()) })
	d.metrics.watch("pcapdaemon_memory_held_bytes", "Memory that captures hold, those being delivered included.",
		func() float64 { return float64(d.jobs.pool.held()) })
	d.metrics.watch("pcapdaemon_subscribed", "1 while subscribed to the request channel, else 0.", func() float64 {
		if health.subscribed() {
			return 1
		}
		return 0
	})
	recorders.watch(d.metrics)
	return d, nil
}

// A system prepares sources of the real system.
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
		if w.lookback > 0 {
			return nil, err
		}
	}
	filter, err := s.compiler.Compile(ctx, w.iface, w.snap, w.filter)
	if err != nil {
		return nil, err
	}
	options := tap.Options{Interface: w.iface, Filter: filter, Snap: w.snap, BufferSize: w.buffer}
	return func(time.Time) (source, time.Time, error) {
		live, err := tap.Open(options)
		return live, time.Now(), err
	}, nil
}

// fromRecorder returns an opener of what a recorder holds: there is nothing to
// wait for, so the capture begins with the request.
func (w wanted) fromRecorder(recorder *tap.Recorder, filter *tap.Filter) opener {
	return func(asked time.Time) (source, time.Time, error) {
		reader, err := recorder.Read(tap.ReaderOptions{Filter: filter, Snap: w.snap,
			From: asked.Add(-w.lookback), Past: w.lookback > 0})
		return reader, asked, err
	}
}

// newDelivery returns the destinations that are configured.
func newDelivery(c deliveryConfig, disk *disk, observer observer) *delivery {
	to := &delivery{always: c.writeLocal, observer: observer}
	if c.dir != "" {
		to.local = &directory{path: c.dir, disk: disk, observer: observer}
	}
	if c.upload {
		to.upload = &cloudshark{scheme: c.shark.scheme, host: c.shark.host, token: c.shark.token,
			agent: "pcapdaemon/" + version, timeout: c.shark.timeout,
			client: newUploadClient(c.shark.cas, c.shark.insecure, newEndurance(c.shark.timeout)), observer: observer}
	}
	return to
}

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

// serve serves what comes from Redis until the context ends, delivers what is
// captured by then, and returns the exit code.
func serve(ctx context.Context, c config, log *logrus.Logger) int {
	var serving sync.WaitGroup
	defer serving.Wait()
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	defer end()
	health := newHealth(newBell())
	messages := make(chan []byte, 64)
	subscriber := pubsub.Subscriber{Server: c.redis.server, Channel: c.redis.requests,
		Messages: messages, State: health.setRequests, Log: log}
	var results outlet = silence{}
	lost := func() int64 { return 0 }
	if c.redis.results != "" {
		publisher := pubsub.NewPublisher(c.redis.server, c.redis.results, health.setResults, log)
		defer publisher.Close()
		subscriber.Before = publisher.Await // so that no capture holds the publisher's AUTH
		results, lost = publisher, publisher.Lost
	}
	past := newHistory(results)
	if c.listen != "" {
		results = past
	}
	d, err := newDaemon(c, results, health, log)
	if err != nil {
		log.WithError(err).Error("not started")
		return exitFailed
	}
	d.metrics.count("pcapdaemon_results_lost_total", "Results that were dropped, because Redis was away for too long.",
		func() float64 { return float64(lost()) })
	open, shut := context.WithCancel(context.Background())
	defer shut()
	if c.listen != "" {
		listener, err := net.Listen("tcp", c.listen)
		if err != nil {
			log.WithError(err).Error("endpoint not opened")
			return exitFailed
		}
		serving.Go(func() {
			to := endpoint{registry: d.metrics.registry, health: health.trouble, page: newPage(d.overview(past))}
			if err := to.serve(open, listener); err != nil {
				log.WithError(err).Error("endpoint closed")
			}
		})
	}
	serving.Go(d.recorders.run(life.delivering, log))
	serving.Go(func() { subscriber.Run(ctx) })

	log.WithFields(logrus.Fields{"version": version, "node": c.node, "redis": c.redis.server.String(),
		"channel": c.redis.requests}).Info("started")
	notify("READY=1")
	health.changed.ring()
	d.receive(life, messages)
	return d.stop(life)
}

// newLifetime returns the lifetime of captures that record until ctx ends and
// are delivered for a drain longer.
func newLifetime(ctx context.Context, drain time.Duration) (lifetime, context.CancelFunc) {
	delivering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(drain):
			cancel()
		case <-delivering.Done():
		}
	})
	return lifetime{recording: ctx, delivering: delivering, stopping: ctx.Done()}, cancel
}

// receive is the main loop. Nothing in it waits for a capture, a filter or a network.
func (d *daemon) receive(life lifetime, messages <-chan []byte) {
	watchdog, stop := watchdogTicker()
	defer stop()
	for {
		select {
		case <-life.recording.Done():
			return
		case message := <-messages:
			_ = d.handle(life, message) // has been logged
		case <-watchdog:
			notify("WATCHDOG=1")
		case <-d.health.changed:
			notify("STATUS=" + d.status())
		}
	}
}

// stop waits until what was captured is delivered, and returns the exit code.
func (d *daemon) stop(life lifetime) int {
	failed := d.jobs.failed.Load()
	d.health.setRequests(errors.New("stopping"))
	notifyStopping(d.config.delivery.drainTimeout + lateDelivery + pubsub.LastAttempt)
	d.log.WithField("captures", d.jobs.count()).Info("stopping")
	if !d.drain(life) {
		d.log.Error("stopped with captures undelivered")
		return exitFailed
	}
	if d.jobs.failed.Load() > failed {
		return exitFailed
	}
	return exitOK
}

// drain waits until all captures are delivered. Uploads end at a deadline of
// their own; a slow disk may take as long as it makes progress. False means
// that it does not any more.
func (d *daemon) drain(life lifetime) bool {
	done := make(chan struct{})
	go func() {
		d.jobs.working.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-life.delivering.Done():
	}
	for written := int64(-1); written != d.disk.written.Load(); {
		written = d.disk.written.Load()
		extendStop(2*lateDelivery + pubsub.LastAttempt)
		select {
		case <-done:
			return true
		case <-time.After(lateDelivery):
		}
	}
	return false
}

// handle serves one message. It starts captures and does not wait for them.
func (d *daemon) handle(life lifetime, message []byte) error {
	request, err := d.inbox.decode(message)
	switch {
	case errors.Is(err, errOtherNode):
		d.metrics.requests.WithLabelValues(outcomeOtherNode).Inc()
		d.log.Debug(err)
		return err
	case errors.Is(err, errMalformed):
		d.metrics.requests.WithLabelValues(outcomeMalformed).Inc()
		d.log.WithError(err).Warn("message ignored")
		return err
	}
	if err == nil {
		err = d.obey(life, request)
	}
	if err != nil {
		iface := ""
		if len(request.Interfaces) == 1 {
			iface = request.Interfaces[0]
		}
		d.jobs.refuse(asker{request, iface}, err, logrus.WarnLevel)
	}
	return nil
}

// obey does what a request asks for. The error says why nothing of it can be done.
func (d *daemon) obey(life lifetime, r request) error {
	switch {
	case d.config.mode == requesting && (r.Stop != "" || r.RollCall):
		return errors.New("stop and rollcall are for hosts that listen: give the request to -publish")
	case r.Stop != "":
		if d.jobs.stop(r.Stop, r.By) {
			d.log.WithFields(logrus.Fields{"request": r.Stop, "by": r.By}).Info("capture asked to stop")
		}
		return nil
	case r.RollCall:
		return d.answerRollCall(life.recording, r)
	}
	if r.Return && d.config.mode == requesting {
		return errors.New("return: -request prints where captures are, and returns none")
	}
	bounds, err := d.config.limits.bounds(r)
	if err != nil {
		return err
	}
	for _, iface := range r.Interfaces {
		asker := asker{request: r, iface: iface}
		err := d.config.limits.allow(iface)
		if err == nil && r.Lookback > 0 {
			err = d.config.limits.remembers(iface)
		}
		if err != nil {
			d.jobs.refuse(asker, err, logrus.WarnLevel)
			continue
		}
		want := wanted{iface: iface, filter: r.Filter, snap: int(cmp.Or(r.Snap, maxSnap)),
			buffer: int(d.config.capacity.buffer), lookback: time.Duration(r.Lookback) * time.Second}
		d.jobs.start(life, newJob(asker, want, bounds))
	}
	return nil
}

// status describes the daemon for people.
func (d *daemon) status() string {
	subscription := fmt.Sprintf("subscribed to %s at %s", d.config.redis.requests, d.config.redis.server)
	if err := d.health.trouble(); err != nil {
		subscription = fmt.Sprintf("%s at %s %v", d.config.redis.requests, d.config.redis.server, err)
	}
	return subscription + "; " + english.Plural(d.jobs.count(), "capture", "") + " running" + d.recorders.status()
}

// overview returns a function that tells what the page shows.
func (d *daemon) overview(past *history) func() pageState {
	return func() pageState {
		return pageState{Node: d.config.node, Version: version, Trouble: d.health.trouble(), Recent: past.recent()}
	}
}
