package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
)

// A recording is a finished capture and what there is to say about it.
type recording struct {
	id       string // of the request
	name     string // of the file
	size     int64  // bytes
	content  func() io.Reader
	tags     []string
	comments string
	key      string // where it is returned to whoever asked; empty: it is not
	note     []byte // handed back when an upload has had to wait
}

// A receipt says where a recording is now.
type receipt struct {
	file string // absolute path
	url  string // for people
	key  string // in Redis
	name string // of the file that the key holds
	kept bool   // in the spool: the upload has to wait
}

// A destination keeps recordings.
type destination interface {
	name() string
	store(context.Context, recording) (receipt, error)
}

// A refusal is the answer of a destination that another try would not change.
type refusal struct{ Err error }

// Error implements error.
func (r refusal) Error() string { return r.Err.Error() }

// Unwrap returns the answer.
func (r refusal) Unwrap() error { return r.Err }

// isRefusal reports whether a destination has refused a recording for good.
func isRefusal(err error) bool { return errors.As(err, new(refusal)) }

// An archive is a destination that gives recordings names of their own.
type archive interface {
	destination
	// unused returns a name like the wanted one that nothing bears yet.
	unused(name string) string
}

// An observer is told how deliveries go; several may go on at one time.
type observer interface {
	// delivered tells how storing a recording at a destination ended.
	delivered(destination string, took time.Duration, err error)
	// retried tells of a try that failed and of the wait for the next one.
	retried(r recording, err error, wait time.Duration)
	// removed tells of old captures that have made room, and their bytes.
	removed(names []string, size int64)
	// troubled tells of what went wrong with the files of a destination,
	// beside the delivery of any recording.
	troubled(err error)
}

// A delivery brings recordings to their destinations.
type delivery struct {
	upload destination // nil: none
	local  archive     // nil: none
	// directory is local if that is one of the file system.
	directory *directory
	back      destination // for what is returned; nil: nothing is
	spool     *spool      // for what could not be uploaded yet; nil: none
	// always is set if every recording goes to the archive; otherwise it
	// keeps what could not be uploaded.
	always   bool
	disk     *disk
	observer observer
}

// destinationNames returns the names under which deliveries are counted, beside that of the upload.
func destinationNames() []string {
	return []string{(&directory{}).name(), mailbox{}.name(), (&spool{}).name()}
}

// DeliveryOptions say where captures go.
type DeliveryOptions struct {
	Node string // this host, as names of files begin with it
	// Dir is the absolute path of a directory; empty: none. Always is set if every
	// capture goes there; else those do that cannot be uploaded.
	Dir    string
	Always bool
	// Local stands in for the directory; nil: Dir says where it is.
	Local archive
	// DirSize and DirAge bound what lies there, in bytes and by age; 0: no bound.
	DirSize int64
	DirAge  time.Duration
	// Upload is a destination that tries again until it gives up; nil: none.
	Upload destination
	// Retry is the same destination, but tries only once: the spool has waits of its own.
	Retry destination
	// Spool is the absolute path of the directory for captures whose upload has to
	// wait, and SpoolSize its bound in bytes; empty: none, and so it is without Upload.
	Spool     string
	SpoolSize int64
	// Redis keeps what is returned to requesters; nil: nothing is.
	Redis keeper
	// Settled is called with what became of a capture that had to wait in the
	// spool, and the note that came with it. It may be called at any time.
	Settled  func(note []byte, place receipt, err error)
	Observer observer
}

// newDelivery returns a delivery to destinations.
func newDelivery(o DeliveryOptions) *delivery {
	disk := &disk{}
	to := &delivery{upload: o.Upload, local: o.Local, always: o.Always, disk: disk, observer: o.Observer}
	if o.Dir != "" && o.Local == nil {
		to.directory = &directory{path: o.Dir, disk: disk, node: o.Node,
			maxSize: o.DirSize, maxAge: o.DirAge, observer: o.Observer}
		to.local = to.directory
	}
	if o.Upload != nil && o.Spool != "" {
		to.spool = &spool{shelf: shelf{o.Spool, disk}, maxSize: o.SpoolSize, upload: o.Retry,
			local: to.local, settled: o.Settled, observer: o.Observer}
	}
	if o.Redis != nil {
		to.back = mailbox{o.Redis}
	}
	return to
}

// Run looks after the directory and the spool until their contexts end: it removes
// what a killed daemon has left, keeps the directory within its bounds, and
// uploads what had to wait. From the end of stop on, no further upload is begun;
// those under way go on until ctx ends. It returns when the spool is at rest: a
// directory that hangs holds up no end.
func (d *delivery) Run(ctx, stop context.Context) {
	if d.directory != nil {
		go d.directory.run(stop)
	}
	if d.spool != nil {
		d.spool.run(ctx, stop.Done())
	}
}

// Spools reports whether there is a spool.
func (d *delivery) Spools() bool { return d.spool != nil }

// SpoolStats returns how many captures wait in the spool, how many bytes they
// have, and since when the oldest one waits. It may be called at any time, if there is a spool.
func (d *delivery) SpoolStats() (captures int, size int64, oldest time.Time) { return d.spool.stats() }

// HasDirectory reports whether there is a local directory.
func (d *delivery) HasDirectory() bool { return d.directory != nil }

// Free returns the bytes that are free on the directory's file system, or 0 if
// that is not known. It may be called at any time, if there is a directory.
func (d *delivery) Free() uint64 {
	s, _ := d.directory.space()
	return s.free
}

// NearlyFull returns in words that the directory's file system has little space
// left, or nil. It may be called at any time.
func (d *delivery) NearlyFull() error {
	if d.directory == nil {
		return nil
	}
	return d.directory.nearlyFull()
}

// Written returns how many bytes have reached the disk so far.
func (d *delivery) Written() int64 { return d.disk.written.Load() }

// deliver stores a recording at all destinations at once; none waits for
// another one or suffers from its failure. The receipt holds what succeeded.
// What cannot be uploaded in time goes to the spool, else to the archive; what
// CloudShark refuses for good goes to the archive.
//
// A context that ends stops what goes over the network only: a file is always
// finished. From stop on, the daemon is about to end: what is still being
// uploaded is written at once, and a local file stays even if the upload then
// succeeds after all.
func (d *delivery) deliver(ctx context.Context, stop <-chan struct{}, r recording) (receipt, error) {
	if d.local != nil {
		r.name = d.local.unused(r.name) // all of them bear the same name
	}
	var back receipt
	var failed error
	var returning sync.WaitGroup
	if r.key != "" {
		returning.Go(func() { back, failed = storeAt(ctx, d.back, r, d.observer) })
	}
	place, err := d.keep(ctx, stop, r)
	returning.Wait()
	place.key, place.name = back.key, back.name
	return place, errors.Join(err, failed)
}

// keep stores a recording where it stays.
func (d *delivery) keep(ctx context.Context, stop <-chan struct{}, r recording) (receipt, error) {
	switch {
	case d.upload == nil && !d.always:
		return receipt{}, nil
	case d.upload == nil:
		return storeAt(ctx, d.local, r, d.observer)
	}
	c := &copies{delivery: d, recording: r}
	ended := make(chan error, 1) // holds what became of the upload
	var copying sync.WaitGroup
	copying.Go(func() { c.make(stop, ended) })
	uploaded, err := storeAt(ctx, d.upload, r, d.observer)
	ended <- err
	copying.Wait()
	if err == nil {
		return c.uploaded(uploaded)
	}
	return c.failed(err)
}

// storeAt stores a recording at one destination, counted and timed.
func storeAt(ctx context.Context, to destination, r recording, o observer) (receipt, error) {
	began := time.Now()
	place, err := to.store(ctx, r)
	o.delivered(to.name(), time.Since(began), err)
	return place, err
}

// copies are what there is of a recording beside its upload.
type copies struct {
	*delivery
	recording recording
	place     receipt // of the file
	fileErr   error
	parcel    *parcel // in the spool; nil: none
	spoolErr  error
}

// make makes the copies that are wanted in any case, and those that are needed
// because of a stop or of what became of the upload.
func (c *copies) make(stop <-chan struct{}, ended <-chan error) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		if c.always {
			c.write()
		}
	}()
	defer func() { <-written }()
	var err error
	select {
	case err = <-ended:
	default:
		select {
		case err = <-ended:
		case <-stop:
			err = errors.New("stopped")
		}
	}
	if err == nil {
		return
	}
	if c.spool != nil && !isRefusal(err) {
		c.keep(written)
	}
	if c.parcel == nil && c.local != nil && !c.always {
		c.write()
	}
}

// keep puts the recording into the spool, with what has become of its file. A
// directory that hangs keeps nothing out of another one.
func (c *copies) keep(written <-chan struct{}) {
	var place receipt
	var problem error
	select {
	case <-written:
		place, problem = c.place, c.fileErr
	case <-time.After(lateDelivery):
	}
	began := time.Now()
	c.parcel, c.spoolErr = c.spool.keep(c.recording, place, problem)
	c.observer.delivered(c.spool.name(), time.Since(began), c.spoolErr)
}

// write writes the file, however long it takes.
func (c *copies) write() {
	c.place, c.fileErr = storeAt(context.Background(), c.local, c.recording, c.observer)
}

// uploaded returns where a recording is that was uploaded.
func (c *copies) uploaded(place receipt) (receipt, error) {
	if c.parcel != nil {
		c.spool.drop(c.parcel)
	}
	place.file = c.place.file
	if !c.always {
		return place, nil // nobody asked for the file
	}
	return place, c.fileErr
}

// failed returns where a recording is that was not uploaded.
func (c *copies) failed(err error) (receipt, error) {
	switch {
	case c.parcel == nil:
		return c.place, errors.Join(err, c.spoolErr, c.fileErr)
	case isRefusal(err): // after it was kept because of a stop
		return c.spool.refuse(c.parcel, c.recording, err)
	}
	c.observer.retried(c.recording, err, c.spool.release(c.parcel, err))
	return receipt{file: c.place.file, kept: true}, c.fileErr
}

// fileTime is the start of a capture as its file's name tells it.
const fileTime = "20060102T150405.000000000Z"

// fileName returns the name of a capture's file: node, interface and time of
// the start.
func fileName(node, iface string, start time.Time, extension string) string {
	return plain(node + "-" + iface + "-" + start.UTC().Format(fileTime) + extension)
}

// plain returns a text without characters that mean something to a shell or a file system.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '_'
	}, text)
}
