package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dustin/go-humanize/english"
	"github.com/sirupsen/logrus"

	"pcapdaemon/capfile"
	"pcapdaemon/descriptors"
	"pcapdaemon/object"
	"pcapdaemon/result"
	"pcapdaemon/status"
	"pcapdaemon/store"
	"pcapdaemon/tap"
	"pcapdaemon/text"
)

// maxRequesters is how many requests share one capture at most.
const maxRequesters = 20_000

// errStopRequested ends a capture that somebody has asked to stop.
var errStopRequested = errors.New("asked to stop")

// jobs are the captures that run now, and what all of them have in common.
type jobs struct {
	node     string
	channel  string // of the results; what is returned has keys that begin with it
	format   capfile.Format
	capacity capacity
	pool     *capfile.Pool
	prepare  preparer // a test stands in for the system here
	delivery *store.Delivery
	// most is how many captures may be open, those being delivered included: as many as
	// surely find the descriptors that they need.
	most int64
	// onlyReturns is set if captures that are not for their requester would go nowhere.
	onlyReturns bool
	results     outlet
	metrics     *metrics
	log         *logrus.Logger
	changed     func() // called when a capture starts or ends; never blocks

	mu      sync.Mutex
	slots   int               // taken
	held    int64             // captures that run or are being delivered
	running map[*job]struct{} // those being opened included, those being delivered not
	newest  map[shareKey]*job // of those that run; later ones with the same key may share it
	failed  atomic.Int64      // captures that ended as failed
	refused atomic.Int64      // requests
	working sync.WaitGroup    // captures, deliveries, closing handles
}

// jobsOptions are what jobs need of the daemon.
type jobsOptions struct {
	prepare preparer
	results outlet
	metrics *metrics
	log     *logrus.Logger
	changed func()
}

// newJobs returns the jobs of a host where none runs yet.
func newJobs(c config, o jobsOptions) *jobs {
	s := &jobs{node: c.node, channel: c.redis.results, format: capfile.NewFormat(c.format, "pcapdaemon "+version),
		capacity: c.capacity, pool: capfile.NewPool(c.capacity.memory), prepare: o.prepare, results: o.results,
		metrics: o.metrics, log: o.log, changed: o.changed, running: map[*job]struct{}{}, newest: map[shareKey]*job{}}
	s.delivery, s.onlyReturns = store.New(s.deliveryOptions(c)), c.limits.onlyReturns
	s.most = s.budget(c).Captures(descriptors.Limit())
	return s
}

// Descriptors that are needed beside those of captures, at most.
const (
	// alwaysOpen are standard streams, Go's poller, two connections to Redis and a third one to a
	// sentinel, two dials, the endpoint's listener, the lock of the spool and two files of it, systemd's
	// socket, and a look-up of an interface.
	alwaysOpen = 16
	// perRecorder are its socket, its memory, and two while it is opened.
	perRecorder = 4
	// perFilter are a look-up, and a handle or the connections of a resolver.
	perFilter = 3
	// perVisitor are a connection to the endpoint, and a file that its answer is read from.
	perVisitor = 2
)

// budget says which descriptors are needed.
func (s *jobs) budget(c config) descriptors.Budget {
	b := descriptors.Budget{Always: alwaysOpen + perRecorder*int64(len(c.record.interfaces)),
		Passing: perFilter * tap.MostCompiled, Capture: tap.LiveDescriptors + s.delivery.Descriptors()}
	if c.listen != "" {
		b.Passing += perVisitor * status.MaxConnections
	}
	return b
}

// deliveryOptions returns where captures go.
func (s *jobs) deliveryOptions(c config) store.Options {
	d := c.delivery
	observer := deliveryObserver{s.metrics, s.log}
	o := store.Options{Node: c.node, Dir: d.dir, Always: d.writeLocal, DirSize: d.dirSize, DirAge: d.dirAge,
		Spool: d.spool, Encrypt: d.encrypt, SpoolSize: d.spoolSize, Timeout: d.shark.timeout, Redis: c.redis.server,
		Settled: s.settle, Observer: observer, Live: observer}
	if server := c.redis.server; server != nil {
		o.List = func(ctx context.Context, key string, first []byte) (store.List, error) {
			return server.OpenList(ctx, key, first)
		}
	}
	if d.upload {
		shark := newCloudshark(d.shark, observer)
		o.Remotes = append(o.Remotes, store.Remote{Destination: shark, Once: shark.once()})
	}
	if d.store.given {
		objects := object.New(d.store.address, object.Options{CAs: d.store.cas, Token: d.store.token, Keys: d.store.keys,
			Agent: "pcapdaemon/" + version, Timeout: d.shark.timeout, Observer: observer})
		o.Remotes = append(o.Remotes, store.Remote{Destination: objects, Once: objects.Once()})
	}
	return o
}

// deliverWaiting begins to look after the directory and the spool, until captures end. The uploads
// from the spool that are under way then are waited for like any other delivery.
func (s *jobs) deliverWaiting(life lifetime) {
	s.working.Go(func() { s.delivery.Run(life.delivering, life.capturing) })
}

// start begins a capture, or lets its requester share one that runs and would be
// the same. It does not wait for either.
func (s *jobs) start(life lifetime, j *job) {
	j.longest = s.delivery.Longest(j.bounds.bytes, j.requesters[0].request.Return)
	if j.requesters[0].request.Live {
		j.longest = max(j.longest, store.LongestLive(j.bounds.bytes))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.newest[j.key()]; !j.alone() && first.takes(j, s.capacity.share) {
		s.join(first, j.requesters[0])
		return
	}
	recording, stop := context.WithCancelCause(life.capturing)
	j.stop = stop
	s.running[j] = struct{}{}
	if !j.alone() {
		s.newest[j.key()] = j
	}
	s.working.Go(func() {
		defer stop(nil)
		s.run(life, recording, j)
	})
}

// join adds a requester to a capture that runs. The caller holds the lock.
func (s *jobs) join(first *job, a requester) {
	a.request.Filter = first.want.filter // the same text once
	first.add(a)
	if !first.started.IsZero() {
		s.metrics.requests.WithLabelValues(outcomeShared).Inc()
	}
	if first.announced {
		s.tell(first.result(a, s.node, result.Started), logrus.DebugLevel, nil)
	}
}

// admit takes a slot and the first memory for a capture, if there is room for
// it now: late, it would miss what it is for.
func (s *jobs) admit(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onlyReturns && !j.alone() { // what else is wrong has been said before
		return errNoReturn
	}
	if int64(s.slots) == s.capacity.captures {
		return fmt.Errorf("-maxcaptures %d are running already", s.capacity.captures)
	}
	if s.held >= s.most {
		return fmt.Errorf("the limit of open files, %d, allows %s at one time, those being delivered included: "+
			"raise LimitNOFILE= or ulimit -n", descriptors.Limit(), english.Plural(int(s.most), "capture", ""))
	}
	if j.buffer = capfile.NewBuffer(s.pool); j.buffer == nil {
		return fmt.Errorf("-maxmemory %s is in use already", text.FormatSize(s.capacity.memory))
	}
	s.slots++
	s.held++
	s.changed()
	return nil
}

// release frees the slot of a capture.
func (s *jobs) release() {
	s.mu.Lock()
	s.slots--
	s.mu.Unlock()
	s.changed()
}

// giveBack gives back the descriptors of a capture that is delivered, or was never open.
func (s *jobs) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
}

// end closes a capture for further requesters and for stops, and returns its requesters.
func (s *jobs) end(j *job) []requester {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, j)
	if s.newest[j.key()] == j {
		delete(s.newest, j.key())
	}
	return j.requesters
}

// stop ends the captures that a request asked for, and reports whether there were any.
func (s *jobs) stop(id, by string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for j := range s.running {
		if !j.ids[id] {
			continue
		}
		found = true
		if !j.stopped {
			j.stopped, j.stoppedBy = true, by
			j.stop(errStopRequested)
		}
	}
	return found
}

// count returns how many captures run.
func (s *jobs) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots
}

// overview describes the captures that run for the page, the oldest first.
func (s *jobs) overview() []status.RunningCapture {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := slices.SortedFunc(maps.Keys(s.running), func(a, b *job) int { return a.born.Compare(b.born) })
	list := make([]status.RunningCapture, len(oldest))
	for i, j := range oldest {
		r := j.result(j.requesters[0], s.node, result.Running)
		r.Limits, r.Counts = j.bounds.granted(), &result.Counts{}
		if j.capture != nil {
			r.Counts = j.capture.sofar()
		}
		list[i].Result = r
		for _, a := range j.requesters[1:] {
			list[i].Shared.Add(a.request.ID)
		}
	}
	return list
}
