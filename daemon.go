package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"pcapdaemon/capfile"
	"pcapdaemon/descriptors"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/status"
	"pcapdaemon/store"
	"pcapdaemon/tap"
)

// statusPeriod is the time between two looks at how far recorders reach back.
const statusPeriod = 10 * time.Second

// A daemon serves requests: it judges them, and has its jobs make the captures.
type daemon struct {
	config    config
	inbox     matcher
	jobs      *jobs
	recorders *recorders
	compiler  *tap.Compiler
	metrics   *metrics
	log       *logrus.Logger
	health    *status.Health
	rollCalls chan struct{} // holds a token for each that waits
	written   func() int64  // bytes that have reached the disk
}

// newDaemon returns a daemon that tells its results to an outlet and looks after its health.
func newDaemon(c config, results outlet, health *status.Health, log *logrus.Logger) (*daemon, error) {
	compiler := tap.NewCompiler()
	compiler.Policy = c.filter
	recorders, err := newRecorders(c, compiler)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		config:    c,
		inbox:     matcher{node: c.node, implied: c.mode == requesting},
		recorders: recorders,
		compiler:  compiler,
		metrics:   newMetrics(version),
		health:    health,
		log:       log,
		rollCalls: make(chan struct{}, maxRollCalls),
	}
	d.jobs = newJobs(c, jobsOptions{prepare: system{compiler, recorders, c.limits}.prepare, results: results,
		metrics: d.metrics, log: log, changed: health.Notify})
	d.written = d.jobs.delivery.Written
	d.metrics.watch("pcapdaemon_captures_running", "Captures running now.",
		func() float64 { return float64(d.jobs.count()) })
	d.metrics.watch("pcapdaemon_memory_held_bytes", "Memory that captures hold, those being delivered included.",
		func() float64 { return float64(d.jobs.pool.Held()) })
	d.watchHealth()
	recorders.watch(d.metrics)
	d.watchDisks()
	return d, nil
}

// watchHealth lets metrics look at what the daemon needs.
func (d *daemon) watchHealth() {
	d.metrics.watch("pcapdaemon_subscribed", "1 while subscribed to the request channel, else 0.",
		oneIf(d.health.Subscribed))
	for name, good := range map[string]func() bool{"requests": d.health.Subscribed, "results": d.health.Publishing} {
		d.metrics.watchWith(prometheus.Labels{"connection": name}, "pcapdaemon_connected",
			"1 while a connection to Redis works, else 0.", oneIf(good))
	}
	d.metrics.watch("pcapdaemon_trouble", "1 while nothing can be captured on this host, else 0.",
		oneIf(func() bool { return d.health.Capture() != nil }))
}

// watchCapture looks now and then whether anything can be captured, and says
// when that changes.
func (d *daemon) watchCapture(ctx context.Context) {
	again := time.NewTicker(statusPeriod)
	defer again.Stop()
	said := map[string]bool{} // interfaces, once each
	refused := func(iface string, err error) {
		if !said[iface] {
			said[iface] = true
			d.log.WithField("interface", iface).WithError(err).Error("nothing can be captured")
		}
	}
	for {
		err := d.checkCapture(ctx, refused)
		switch before := d.health.Capture(); {
		case ctx.Err() != nil:
			return
		case err != nil && (before == nil || before.Error() != err.Error()):
			d.log.WithError(err).Warn("nothing can be captured")
		case err == nil && before != nil:
			d.log.Info("captures are possible again")
		}
		d.health.SetCapture(err)
		if err == nil { // an interface that vanishes later is no error
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// checkCapture returns why nothing can be captured, or nil: the right to, an
// interface, and a policy that compiles for one. Each interface for which it does
// not compile is refused: nothing is captured there.
func (d *daemon) checkCapture(ctx context.Context, refused func(iface string, err error)) error {
	if err := tap.CheckCapability(); err != nil {
		return err
	}
	if d.jobs.most < 1 {
		return fmt.Errorf("the limit of open files, %d, is too low: raise LimitNOFILE= or ulimit -n", descriptors.Limit())
	}
	interfaces := d.config.limits.capturable()
	if len(interfaces) == 0 {
		return errors.New("no interface of -interfaces is there")
	}
	if d.config.filter == "" {
		return nil
	}
	var first error
	good := 0
	for _, i := range interfaces {
		_, err := d.compiler.Compile(ctx, i.Name, int(d.config.limits.snap), "")
		switch {
		case err == nil:
			good++
			continue
		case ctx.Err() != nil:
			return err
		}
		refused(i.Name, err)
		first = cmp.Or(first, fmt.Errorf("%s: %w", i.Name, err))
	}
	if good > 0 {
		return nil
	}
	return first
}

// watchDisks lets metrics look at the spool and at the directory of captures.
func (d *daemon) watchDisks() {
	delivery := d.jobs.delivery
	if delivery.Spools() {
		d.metrics.watch("pcapdaemon_spool_captures", "Captures whose upload has to wait.",
			func() float64 { captures, _, _ := delivery.SpoolStats(); return float64(captures) })
		d.metrics.watch("pcapdaemon_spool_bytes", "Bytes of the captures whose upload has to wait.",
			func() float64 { _, bytes, _ := delivery.SpoolStats(); return float64(bytes) })
		d.metrics.watch("pcapdaemon_spool_oldest_seconds", "Age of the oldest capture whose upload has to wait.",
			func() float64 { _, _, oldest := delivery.SpoolStats(); return age(oldest).Seconds() })
	}
	if delivery.HasDirectory() {
		d.metrics.watch("pcapdaemon_destdir_free_bytes", "Bytes that are free on the file system of -destdir.",
			func() float64 { return float64(delivery.Free()) })
	}
}

// receive is the main loop. Nothing in it waits for a capture, a filter or a network.
func (d *daemon) receive(life lifetime, messages <-chan pubsub.Message) {
	watchdog, stop := watchdogTicker()
	defer stop()
	status := time.NewTicker(statusPeriod) // what is recorded reaches further back by the second
	defer status.Stop()
	for {
		select {
		case <-life.capturing.Done():
			return
		case message := <-messages:
			_ = d.handle(life, message) // has been logged
		case <-watchdog:
			notify("WATCHDOG=1")
		case <-d.health.Changed:
			notify("STATUS=" + d.status())
		case <-status.C:
			if len(d.recorders.names) > 0 {
				notify("STATUS=" + d.status())
			}
		}
	}
}

// stop waits until what was captured is delivered, and returns the exit code.
func (d *daemon) stop(life lifetime) int {
	failed := d.jobs.failed.Load()
	d.health.SetRequests(errors.New("stopping"))
	notifyStopping(d.config.delivery.drainTimeout + store.LateDelivery + pubsub.LastAttempt)
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
// that it no longer does.
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
	for written := int64(-1); written != d.written(); {
		written = d.written()
		extendStop(2*store.LateDelivery + pubsub.LastAttempt)
		select {
		case <-done:
			return true
		case <-time.After(store.LateDelivery):
		}
	}
	return false
}

// handle serves one message. It starts captures and does not wait for them.
func (d *daemon) handle(life lifetime, message pubsub.Message) error {
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
		d.jobs.refuse(requester{request, iface}, err, logrus.WarnLevel)
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
		return d.answerRollCall(life.capturing, r)
	}
	if d.config.mode == requesting {
		switch {
		case r.Return:
			return errors.New("return: -request prints where captures are, and returns none")
		case r.Live:
			return errors.New("live: -request prints where captures are, and sends none")
		}
	}
	bounds, err := d.config.limits.bounds(r)
	if err != nil {
		return err
	}
	for _, iface := range r.Interfaces {
		requester := requester{request: r, iface: iface}
		j, err := d.order(requester, bounds)
		if err != nil {
			d.jobs.refuse(requester, err, logrus.WarnLevel)
			continue
		}
		d.jobs.start(life, j)
	}
	return nil
}

// order returns the capture that one asks for on one interface.
func (d *daemon) order(a requester, b bounds) (*job, error) {
	r, l := a.request, d.config.limits
	device, err := l.device(a.iface)
	if err == nil && r.Lookback > 0 {
		err = l.checkRecorded(a.iface, device)
	}
	if err != nil {
		return nil, err
	}
	h := d.heading(r, device)
	layout := d.jobs.format.Layout(h)
	if b.bytes < layout.Fixed {
		return nil, fmt.Errorf("bytes: %d is less than the %d of a file without packets", b.bytes, layout.Fixed)
	}
	want := wanted{iface: device, filter: r.Filter, snap: int(cmp.Or(r.Snap, l.snap)),
		buffer: int(d.config.capacity.buffer), nanos: d.jobs.format.Nanoseconds(),
		lookback: time.Duration(r.Lookback) * time.Second}
	return newJob(a, want, b, h), nil
}

// heading returns what the file of a capture says of its origin.
func (d *daemon) heading(r request, device string) capfile.Header {
	h := capfile.Header{Node: d.config.node, Interface: device, Filter: d.compiler.Expression(r.Filter)}
	if d.jobs.format.Nanoseconds() { // a pcap file has no room for it
		h.Comment = capfile.Comment(d.config.node, r.ID, r.raw)
	}
	return h
}

// status describes the daemon for people.
func (d *daemon) status() string {
	subscription := fmt.Sprintf("subscribed to %s at %s", d.config.redis.requests, d.config.redis.server)
	if err := d.health.Trouble(); err != nil {
		subscription = fmt.Sprintf("%s at %s %v", d.config.redis.requests, d.config.redis.server, err)
	}
	return subscription + "; " + english.Plural(d.jobs.count(), "capture", "") + " running" + d.recorders.status()
}

// overview returns a function that tells what the page shows.
func (d *daemon) overview(past *status.History) func() status.State {
	return func() status.State {
		state := status.State{Node: d.config.node, Version: version, Trouble: d.health.Trouble(),
			Channel: d.config.redis.requests, Server: d.config.redis.server.String(),
			Remark: d.jobs.delivery.Remark(), Recorded: d.recorders.overview(), Running: d.jobs.overview(), Recent: past.Recent()}
		if d.jobs.delivery.HasDirectory() {
			state.Directory = &status.Directory{Free: d.jobs.delivery.Free()}
		}
		if d.jobs.delivery.Spools() {
			captures, size, oldest := d.jobs.delivery.SpoolStats()
			state.Spool = &status.Spool{Captures: captures, Bytes: size, Oldest: oldest}
		}
		return state
	}
}

const (
	// rollCallSpread is the time over which the answers of many hosts are spread:
	// thousands in one instant would hurt the server and whoever asks.
	rollCallSpread = 500 * time.Millisecond
	// maxRollCalls is how many roll calls wait for their answers.
	maxRollCalls = 64
)

// answerRollCall says after a little while that this host is there.
func (d *daemon) answerRollCall(ctx context.Context, r request) error {
	select {
	case d.rollCalls <- struct{}{}:
	default:
		return fmt.Errorf("rollcall: %d are waiting for their answers already", maxRollCalls)
	}
	d.jobs.working.Go(func() {
		defer func() { <-d.rollCalls }()
		select {
		case <-time.After(rand.N(rollCallSpread)):
			d.jobs.results.Publish(d.present(r))
		case <-ctx.Done():
		}
	})
	return nil
}

// present describes this host.
func (d *daemon) present(r request) result.Result {
	l, c := d.config.limits, d.config.capacity
	answer := r.result(d.config.node, "", result.Present)
	answer.Limits = &result.Limits{Packets: l.packets, Bytes: l.bytes, Timeout: l.timeout.Seconds(),
		Snap: l.snap, Captures: c.captures, Return: &l.returned}
	answer.Presence = &result.Presence{Version: version, Format: d.config.format,
		Running: d.jobs.count(), Interfaces: []result.Interface{}}
	if err := d.health.Capture(); err != nil {
		answer.Trouble = err.Error()
	}
	for _, i := range l.capturable() {
		answer.Interfaces = append(answer.Interfaces, result.Interface{Name: i.Name, Alias: l.alias(i.Name),
			Up: i.Flags&net.FlagUp != 0, Recorded: d.recorders.reach(i.Name)})
	}
	return answer
}
