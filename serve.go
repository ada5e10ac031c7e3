package main

import (
	"context"
	"fmt"
	stdlog "log"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"pcapdaemon/descriptors"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/status"
)

// serve serves what comes from Redis until the context ends, delivers what is
// captured by then, and returns the exit code.
func serve(ctx context.Context, c config, log *logrus.Logger) int {
	var serving sync.WaitGroup
	defer serving.Wait()
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	defer end()
	health := status.NewHealth()
	messages := make(chan pubsub.Message, 64)
	var tooLong atomic.Int64
	subscriber := pubsub.Subscriber{Server: c.redis.server, Channel: c.redis.requests, Messages: messages,
		State: health.SetRequests, TooLong: func() { tooLong.Add(1) }, Log: log}
	var results outlet = discard{}
	lost := func() int64 { return 0 }
	if c.redis.results != "" {
		publisher := pubsub.NewPublisher(c.redis.server, c.redis.results, health.SetResults, log)
		defer publisher.Close()
		subscriber.Before = publisher.Await // so that no capture holds the publisher's AUTH
		results, lost = published{publisher}, publisher.Lost
	}
	past := &status.History{}
	if c.listen != "" {
		results = remembered{results, past}
	}
	d, err := newDaemon(c, results, health, log)
	if err != nil {
		log.WithError(err).Error("not started")
		return exitFailed
	}
	d.metrics.watchMessages(lost, tooLong.Load)
	open, shut := context.WithCancel(context.Background())
	defer shut()
	if c.listen != "" {
		listener, err := net.Listen("tcp", c.listen)
		if err != nil {
			log.WithError(err).Error("endpoint not opened")
			return exitFailed
		}
		serving.Go(func() {
			to := status.Endpoint{Registry: d.metrics.registry, Health: health.Trouble, Remarks: d.jobs.delivery.Remark,
				Page: status.NewPage(d.overview(past)), Hosts: c.hosts(),
				Connections: int(max(1, descriptors.Limit()/visitors)), Log: stdlog.New(warnings{log}, "", 0)}
			if err := to.Serve(open, listener); err != nil {
				log.WithError(err).Error("endpoint closed")
			}
		})
	}
	serving.Go(d.recorders.run(life.delivering, log))
	d.jobs.deliverWaiting(life)
	serving.Go(func() { d.watchCapture(ctx) })
	serving.Go(func() { subscriber.Run(ctx) })

	log.WithFields(logrus.Fields{"version": version, "node": c.node, "redis": c.redis.server.String(),
		"channel": c.redis.requests}).Info("started")
	if most := d.jobs.most; most < c.capacity.captures {
		log.WithFields(logrus.Fields{"limit": descriptors.Limit(), "captures": most, "maxcaptures": c.capacity.captures}).
			Warn("limit of open files is too low for -maxcaptures")
	}
	notify("READY=1")
	health.Notify()
	d.receive(life, messages)
	return d.stop(life)
}

// visitors is the part of the descriptors that connections to the endpoint may have.
const visitors = 16

// published is the outlet that publishes results for whoever listens.
type published struct{ to *pubsub.Publisher }

// Publish implements outlet.
func (p published) Publish(r result.Result) { p.to.Publish(r.Encode()) }

// remembered is an outlet whose results are remembered, for people, and handed on.
type remembered struct {
	outlet
	past *status.History
}

// Publish implements outlet.
func (r remembered) Publish(said result.Result) {
	r.past.Add(said)
	r.outlet.Publish(said)
}

// A lifetime says how long captures may go on: they record until the first
// context ends, and are delivered until the second one does.
type lifetime struct {
	capturing, delivering context.Context
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
	return lifetime{capturing: ctx, delivering: delivering}, cancel
}

// notify tells systemd something about this service, in the words of
// sd_notify(3). Without systemd it does nothing.
func notify(state string) { _, _ = systemd.SdNotify(false, state) }

// watchdogTicker returns a channel that says when the watchdog wants to hear
// from us: twice as often as systemd asks for, never if it does not.
func watchdogTicker() (<-chan time.Time, func()) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(interval / 2)
	return ticker.C, ticker.Stop
}

// notifyStopping announces a stop that may take a while.
func notifyStopping(atMost time.Duration) {
	const state = "STOPPING=1\nSTATUS=stopping, delivering what has been captured\nEXTEND_TIMEOUT_USEC=%d"
	notify(fmt.Sprintf(state, atMost.Microseconds()))
}

// extendStop asks for more time to stop.
func extendStop(atMost time.Duration) {
	notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", atMost.Microseconds()))
}

// storedPrefix begins the names under which systemd keeps descriptors for us.
const storedPrefix = "ring-"

// storedName returns the name for the descriptors of a recorded interface:
// systemd takes printable ASCII without a colon.
func storedName(iface string) string { return storedPrefix + url.QueryEscape(iface) }

// takeStored returns what systemd has kept for us (FileDescriptorStoreMax=), by
// name. It may be called once.
func takeStored() map[string][]*os.File {
	stored := activation.FilesWithNames()
	for name, files := range stored {
		if !strings.HasPrefix(name, storedPrefix) {
			closeAll(files)
			delete(stored, name)
		}
	}
	return stored
}

// storeDescriptors hands descriptors to systemd, which keeps them over a restart
// and a crash, instead of those that it has under that name. FDPOLL=0: an
// interface that goes down is an error of its socket, and no reason to close it.
func storeDescriptors(name string, files []*os.File) error {
	forgetDescriptors(name)
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("store descriptors: %w", err)
	}
	defer unix.Close(socket)
	var descriptors []int
	for _, f := range files {
		descriptors = append(descriptors, int(f.Fd()))
	}
	state := "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name
	to := &unix.SockaddrUnix{Name: address}
	if err := unix.Sendmsg(socket, []byte(state), unix.UnixRights(descriptors...), to, 0); err != nil {
		return fmt.Errorf("store descriptors: %w", err)
	}
	return nil
}

// forgetDescriptors lets systemd close what it keeps under a name.
func forgetDescriptors(name string) { notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// closeAll closes files.
func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
