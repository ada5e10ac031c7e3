package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/sirupsen/logrus"
)

// lateDelivery is the time that the local copies of what could not be uploaded
// get after -draintimeout.
const lateDelivery = 5 * time.Second

// A daemon serves requests: it admits, captures, delivers and reports.
type daemon struct {
	config   config
	limits   limits
	inbox    addressee
	log      *logrus.Logger
	pool     *pool
	slots    chan struct{} // holds a token for each running capture
	delivery delivery
	metrics  *metrics
	report   func(result) // tells whoever asked

	working sync.WaitGroup // captures, deliveries, closing handles
	failed  atomic.Int64   // captures that ended as failed
	health  atomic.Value   // of string: why not subscribed; empty if subscribed
	changed chan struct{}  // holds a token when the status has changed
}

// newDaemon returns a daemon that reports to nobody yet.
func newDaemon(c config, log *logrus.Logger) *daemon {
	d := &daemon{
		config: c,
		limits: limits{packets: c.maxPackets, bytes: c.maxBytes, timeout: c.maxTimeout,
			defaultTimeout: c.defaultTimeout, interfaces: c.interfaces},
		inbox:   addressee{node: c.node, implied: c.request != ""},
		log:     log,
		pool:    newPool(c.maxMemory),
		slots:   make(chan struct{}, c.maxCaptures),
		report:  func(result) {},
		changed: make(chan struct{}, 1),
	}
	d.health.Store("not connected yet")
	d.metrics = newMetrics(version,
		func() float64 { return float64(len(d.slots)) },
		func() float64 { return float64(d.pool.held()) })
	d.delivery = delivery{always: c.writeLocal, observe: d.metrics.delivery}
	if c.destDir != "" {
		local := directory{c.destDir}
		d.delivery.local, d.delivery.unused = local, local.unused
	}
	if c.upload {
		d.delivery.upload = &cloudshark{scheme: c.csScheme, host: c.csHost, token: c.csToken,
			agent: "pcapdaemon/" + version, timeout: c.csTimeout,
			client: newUploadClient(c.csCAs, c.csInsecure),
			retry: func(r recording, err error, wait time.Duration) {
				log.WithFields(logrus.Fields{"request": r.id, "file": r.name, "wait": wait}).WithError(err).Warn("upload will be tried again")
			}}
	}
	return d
}

// runAlways serves what comes from Redis until the context ends, delivers
// what is captured by then, and returns the exit code.
func (d *daemon) runAlways(ctx context.Context) int {
	c := d.config
	var serving sync.WaitGroup
	defer serving.Wait()
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // longer than ctx by the drain
	defer end()
	if c.listen != "" {
		listener, err := net.Listen("tcp", c.listen)
		if err != nil {
			d.log.WithError(err).Error("endpoint not opened")
			return exitFailed
		}
		serving.Go(func() {
			if err := d.metrics.serve(life, listener, d.unhealthy); err != nil {
				d.log.WithError(err).Error("endpoint closed")
			}
		})
	}
	if c.resultChannel != "" {
		publisher := newPublisher(c.redis, c.resultChannel, d.log)
		defer publisher.close()
		d.report = func(r result) { publisher.publish(r.encode()) }
	}
	messages := make(chan []byte, 64)
	subscriber := subscriber{server: c.redis, channel: c.redisChannel, messages: messages, state: d.setHealth, log: d.log}
	serving.Go(func() { subscriber.run(ctx) })

	d.log.WithFields(logrus.Fields{"version": version, "node": c.node, "redis": c.redis.address, "channel": c.redisChannel}).Info("started")
	notify("READY=1")
	d.touch()
	d.receive(ctx, messages)
	failed := d.failed.Load()
	d.setHealth(errors.New("stopping"))
	notifyStopping(c.drainTimeout + lateDelivery + lastAttempt)
	d.log.WithField("captures", len(d.slots)).Info("stopping")
	if !d.drain() || d.failed.Load() > failed {
		return exitFailed
	}
	return exitOK
}

// receive is the main loop. Nothing in it waits for a capture, a filter or a network.
func (d *daemon) receive(ctx context.Context, messages <-chan []byte) {
	watchdog, stop := watchdogTicker()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case message := <-messages:
			_ = d.handle(ctx, message) // has been logged
		case <-watchdog:
			notify("WATCHDOG=1")
		case <-d.changed:
			notify("STATUS=" + d.status())
		}
	}
}

// drain waits until all captures are delivered; false means that their time was up.
func (d *daemon) drain() bool {
	done := make(chan struct{})
	go func() {
		d.working.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(d.config.drainTimeout + lateDelivery):
		d.log.Error("stopped with captures undelivered")
		return false
	}
}

// handle serves one message. It starts captures and does not wait for them.
func (d *daemon) handle(ctx context.Context, message []byte) error {
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
	var bounds bounds
	if err == nil {
		bounds, err = d.limits.bounds(request)
	}
	if err != nil {
		iface := ""
		if len(request.Interfaces) == 1 {
			iface = request.Interfaces[0]
		}
		d.refuse(request, iface, err)
		return nil
	}
	for _, iface := range request.Interfaces {
		if err := d.admit(ctx, job{request: request, iface: iface, bounds: bounds}); err != nil {
			d.refuse(request, iface, err)
		}
	}
	return nil
}

// A job is a capture to be made.
type job struct {
	request request
	iface   string
	bounds  bounds
	buffer  *buffer
}

// admit starts a capture if there is room for it now: late, it would miss what it is for.
func (d *daemon) admit(ctx context.Context, j job) error {
	if err := d.limits.allow(j.iface); err != nil {
		return err
	}
	select {
	case d.slots <- struct{}{}:
	default:
		return fmt.Errorf("-maxcaptures %d are running already", d.config.maxCaptures)
	}
	if j.buffer = newBuffer(d.pool); j.buffer == nil {
		<-d.slots
		return fmt.Errorf("-maxmemory %s is in use already", formatSize(d.config.maxMemory))
	}
	d.touch()
	d.working.Go(func() { d.capture(ctx, j) })
	return nil
}

// capture makes an admitted capture, from opening the interface to the last result.
func (d *daemon) capture(ctx context.Context, j job) {
	defer j.buffer.free()
	tap := tap{iface: j.iface, filter: j.request.Filter, snap: int(cmp.Or(j.request.Snap, maxSnap)), bufferSize: int(d.config.bufferSize)}
	source, err := tap.open()
	if err != nil {
		d.release()
		d.refuse(j.request, j.iface, err)
		return
	}
	start := time.Now()
	d.metrics.requests.WithLabelValues(outcomeAccepted).Inc()
	r := newResult(j.request, d.config.node, j.iface, stateStarted)
	r.Started = stamp(start)
	d.tell(r)

	outcome := record(ctx, source, start, j.bounds, j.buffer)
	d.working.Go(source.Close) // takes tens of milliseconds
	d.release()
	d.metrics.capture(outcome.counts)

	r.State, r.Stop, r.counts, r.Ended = stateDone, outcome.stop, &outcome.counts, stamp(outcome.ended)
	err = outcome.err
	if outcome.Packets > 0 {
		var place receipt
		var lost error
		place, lost = d.deliver(ctx, j, r)
		r.File, r.URL = place.file, place.url
		err = errors.Join(err, lost)
	} else if isDown(j.iface) {
		r.Error = "the interface is down"
	}
	if err != nil {
		r.State, r.Error = stateFailed, strings.ReplaceAll(err.Error(), "\n", "; ")
		d.failed.Add(1)
	}
	d.tell(r)
}

// deliver brings a finished capture to its destinations. After a stop signal
// it has -draintimeout left.
func (d *daemon) deliver(ctx context.Context, j job, r result) (receipt, error) {
	delivering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(d.config.drainTimeout, cancel) })()
	return d.delivery.deliver(delivering, recording{
		id:      r.ID,
		name:    fileName(r.Node, r.Interface, time.Time(r.Started)),
		size:    r.Bytes,
		content: j.buffer.reader,
		tags:    uploadTags(j.request, r.Node, r.Interface),
		comments: fmt.Sprintf("filter: %s; stop: %s; packets: %d; dropped: %d; request: %s",
			cmp.Or(r.Filter, "none"), r.Stop, r.Packets, r.Dropped+r.IfDropped, r.ID),
	})
}

// release frees the slot of a capture.
func (d *daemon) release() {
	<-d.slots
	d.touch()
}

// refuse answers a request that is not served.
func (d *daemon) refuse(r request, iface string, err error) {
	d.metrics.requests.WithLabelValues(outcomeRefused).Inc()
	refusal := newResult(r, d.config.node, iface, stateRefused)
	refusal.Error = err.Error()
	d.tell(refusal)
}

// tell reports a result and writes it to the log.
func (d *daemon) tell(r result) {
	d.report(r)
	fields := logrus.Fields{"request": r.ID, "interface": r.Interface}
	if r.counts != nil {
		fields["stop"], fields["packets"], fields["bytes"], fields["dropped"] = r.Stop, r.Packets, r.Bytes, r.Dropped+r.IfDropped
		fields["took"] = time.Since(time.Time(r.Started)).Round(time.Millisecond)
	}
	for name, value := range map[string]string{"file": r.File, "url": r.URL, "error": r.Error} {
		if value != "" {
			fields[name] = value
		}
	}
	level := map[string]logrus.Level{stateFailed: logrus.ErrorLevel, stateRefused: logrus.WarnLevel}[r.State]
	d.log.WithFields(fields).Log(cmp.Or(level, logrus.InfoLevel), "capture "+r.State)
}

// setHealth notes whether requests can be received, and if not, why.
func (d *daemon) setHealth(err error) {
	reason, subscribed := "", 1.0
	if err != nil {
		reason, subscribed = err.Error(), 0
	}
	d.metrics.subscribed.Set(subscribed)
	if d.health.Swap(reason) != reason {
		d.touch()
	}
}

// unhealthy returns why requests cannot be received, or nil.
func (d *daemon) unhealthy() error {
	if reason := d.health.Load().(string); reason != "" {
		return errors.New("not subscribed: " + reason)
	}
	return nil
}

// touch makes the main loop tell systemd the status.
func (d *daemon) touch() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// status describes the daemon for people.
func (d *daemon) status() string {
	subscription := fmt.Sprintf("subscribed to %s at %s", d.config.redisChannel, d.config.redis.address)
	if err := d.unhealthy(); err != nil {
		subscription = fmt.Sprintf("%s at %s %v", d.config.redisChannel, d.config.redis.address, err)
	}
	return subscription + "; " + english.Plural(len(d.slots), "capture", "") + " running"
}
