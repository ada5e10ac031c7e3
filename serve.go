package main

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/pubsub"
)

// serve serves what comes from Redis until the context ends, delivers what is
// captured by then, and returns the exit code.
func serve(ctx context.Context, c config, log *logrus.Logger) int {
	var serving sync.WaitGroup
	defer serving.Wait()
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	defer end()
	health := newHealth()
	messages := make(chan pubsub.Message, 64)
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
			to := endpoint{registry: d.metrics.registry, health: health.trouble, remarks: d.remarks,
				page: newPage(d.overview(past))}
			if err := to.serve(open, listener); err != nil {
				log.WithError(err).Error("endpoint closed")
			}
		})
	}
	serving.Go(d.recorders.run(life.delivering, log))
	if dir := d.jobs.delivery.directory; dir != nil {
		go dir.run(ctx) // a disk that hangs holds up no end
	}
	if spool := d.jobs.delivery.spool; spool != nil {
		d.jobs.working.Go(func() { spool.run(life.delivering, life.stopping) })
	}
	serving.Go(func() { d.checkPolicy(ctx) })
	serving.Go(func() { subscriber.Run(ctx) })

	log.WithFields(logrus.Fields{"version": version, "node": c.node, "redis": c.redis.server.String(),
		"channel": c.redis.requests}).Info("started")
	notify("READY=1")
	health.changed.ring()
	d.receive(life, messages)
	return d.stop(life)
}

// A lifetime says how long captures may go on: they record until the first
// context ends, and are delivered until the second one does.
type lifetime struct {
	recording, delivering context.Context
	stopping              <-chan struct{} // closed when the daemon is to stop
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
