// Package store brings capture files to where they stay: an upload, the local
// directory, the spool for uploads that have to wait, and Redis for what is
// returned to a requester. Each destination succeeds or fails by itself. The package
// knows no CloudShark, which is a Destination that it is given, and no requests.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"pcapdaemon/encrypt"
)

// LateDelivery is how long after -draintimeout local files may be on their way
// without any of their bytes reaching the disk.
const LateDelivery = 5 * time.Second

const (
	// slowDisk is what a disk writes of a capture file at least, in bytes per second.
	slowDisk = 16 << 20
	// returning is how long it may take until Redis takes something of a capture
	// that is returned, and slowRedis what it takes from then on, in bytes per second.
	returning = 10 * time.Second
	slowRedis = 4 << 20
)

// A File is a finished capture and what there is to say about it.
type File struct {
	ID       string // of the request
	Name     string // of the file
	Size     int64  // bytes
	Content  func() io.Reader
	Tags     []string
	Labels   []Label // of what the tags say, by name
	Comments string
	Key      string // where it is returned to whoever asked; empty: it is not
	Note     []byte // handed back when an upload has had to wait
}

// A Label is one thing that is said about a capture file.
type Label struct {
	Name  string `json:"name"` // letters
	Value string `json:"value"`
}

// A Place says where a capture file is now.
type Place struct {
	File string // absolute path
	// URL is its address at the first remote destination, and Stored that at another
	// one. Remote destinations give their address as URL.
	URL, Stored string
	Key         string // in Redis
	Name        string // of the file that the key holds
	Kept        bool   // in the spool: a remote destination does not have it yet
	Why         string // it does not: the errors of the newest tries
}

// add adds the address that a remote destination has given.
func (p *Place) add(address string, first bool) {
	if first && p.URL == "" {
		p.URL = address
		return
	}
	p.Stored = address
}

// A Destination keeps capture files. Several may be stored at one time.
type Destination interface {
	// Name is what deliveries are counted under.
	Name() string
	// Store keeps a file and returns where it is. It blocks until it has it, has
	// given up or the context has ended, and reads nothing of the file after that.
	// What another try would not change is a Refusal.
	Store(context.Context, File) (Place, error)
}

// A Refusal is the answer of a destination that another try would not change.
type Refusal struct{ Err error }

// Error implements error.
func (r Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the answer.
func (r Refusal) Unwrap() error { return r.Err }

// IsRefusal reports whether a destination has refused a capture file for good.
func IsRefusal(err error) bool { return errors.As(err, new(Refusal)) }

// An Archive is a destination that gives capture files names of their own.
type Archive interface {
	Destination
	// Unused returns a name like the wanted one that nothing bears yet.
	Unused(name string) string
}

// An Observer takes note of how deliveries go. Its methods may be called from any goroutine.
type Observer interface {
	// Delivered is called when storing a capture file at a destination has ended; nil: it is there.
	Delivered(destination string, took time.Duration, err error)
	// Retried is called when a try to store a file at a destination has failed, with the wait
	// for the next one.
	Retried(destination string, r File, err error, wait time.Duration)
	// Removed is called when old captures have made room, with their size in bytes.
	Removed(names []string, size int64)
	// Troubled is called for what went wrong with the files of a destination, aside from
	// the delivery of any capture file.
	Troubled(err error)
}

// A Remote is a destination over the network.
type Remote struct {
	Destination             // tries again until it gives up
	Once        Destination // is the same one, but tries once: the spool has waits of its own
}

// A Delivery brings capture files to their destinations.
type Delivery struct {
	remotes []Remote // to which captures are uploaded
	// timeout is how long all of them together may take.
	timeout time.Duration
	local   Archive     // nil: none
	back    Destination // for what is returned; nil: nothing is
	// list makes a list for what is sent while it is captured.
	list  OpenList
	live  LiveObserver
	spool *spool // for what could not be uploaded yet; nil: none
	// always is set if every capture file goes to the archive; otherwise it
	// keeps what could not be uploaded.
	always   bool
	encrypt  *encrypt.Recipients // nil: captures are stored as they are
	disk     *disk
	observer Observer
}

// Names returns the names under which deliveries are counted, beside those of remote destinations.
func Names() []string {
	return []string{(&Directory{}).Name(), redisStore{}.Name(), liveName, (&spool{}).name()}
}

// Options say where captures go.
type Options struct {
	Node string // this host, as names of files begin with it
	// Dir is the absolute path of a directory; empty: none. Always is set if every
	// capture goes there; else those do that cannot be uploaded.
	Dir    string
	Always bool
	// Local stands in for the directory; nil: Dir says where it is.
	Local Archive
	// DirSize and DirAge bound what lies there, in bytes and by age; 0: no bound.
	DirSize int64
	DirAge  time.Duration
	// Remotes are the destinations over the network, each with a name of its own.
	Remotes []Remote
	// Timeout is how long they may take, all at once; they see to it themselves.
	Timeout time.Duration
	// Spool is the absolute path of the directory for captures whose upload has to
	// wait, and SpoolSize its bound in bytes; empty: none. Without Remotes nothing is put there,
	// and what is there already is left.
	Spool     string
	SpoolSize int64
	// Redis keeps what is returned to requesters; nil: nothing is.
	Redis Keeper
	// Encrypt are those who can open what leaves the memory; nil: anybody can.
	Encrypt *encrypt.Recipients
	// List makes lists for what is sent to requesters while it is captured; nil: nothing is.
	List OpenList
	Live LiveObserver
	// Settled is called with what became of a capture that had to wait in the
	// spool, and the note that came with it. It may be called at any time.
	Settled  func(note []byte, place Place, err error)
	Observer Observer
}

// New returns a delivery to destinations.
func New(o Options) *Delivery {
	disk := &disk{}
	to := &Delivery{remotes: o.Remotes, timeout: o.Timeout, local: o.Local, always: o.Always, encrypt: o.Encrypt,
		list: o.List, live: o.Live, disk: disk, observer: o.Observer}
	if o.Dir != "" && o.Local == nil {
		to.local = &Directory{path: o.Dir, disk: disk, node: o.Node,
			maxSize: o.DirSize, maxAge: o.DirAge, observer: o.Observer}
	}
	if o.Spool != "" {
		to.spool = newSpool(spoolDirectory{o.Spool, disk}, o.Remotes)
		to.spool.maxSize, to.spool.local = o.SpoolSize, to.local
		to.spool.settled, to.spool.observer = o.Settled, o.Observer
	}
	if o.Redis != nil {
		to.back = redisStore{o.Redis}
	}
	return to
}

// Run looks after the directory and the spool until their contexts end: it removes
// what a killed daemon has left, keeps the directory within its bounds, and
// uploads what had to wait. From the end of stop on, no further upload is begun;
// those under way go on until ctx ends. It returns when the spool is at rest: a
// directory that hangs holds up no end.
func (d *Delivery) Run(ctx, stop context.Context) {
	if dir := d.directory(); dir != nil {
		go dir.run(stop)
	}
	if d.spool != nil {
		d.spool.run(ctx, stop.Done())
	}
}

// Spools reports whether captures may have to wait in a spool.
func (d *Delivery) Spools() bool { return d.spool != nil && len(d.remotes) > 0 }

// SpoolStats returns how many captures wait in the spool, how many bytes they
// have, and since when the oldest one waits. It may be called at any time, if there is a spool.
func (d *Delivery) SpoolStats() (captures int, size int64, oldest time.Time) { return d.spool.stats() }

// HasDirectory reports whether there is a local directory.
func (d *Delivery) HasDirectory() bool { return d.directory() != nil }

// directory returns the local directory, or nil if there is none.
func (d *Delivery) directory() *Directory {
	dir, _ := d.local.(*Directory)
	return dir
}

// Free returns the bytes that are free on the directory's file system, or 0 if
// that is not known. It may be called at any time, if there is a directory.
func (d *Delivery) Free() uint64 {
	s, _ := d.directory().space()
	return s.free
}

// Remark returns what an operator should look after, or nil: a directory whose file system has
// little space left, and captures in the spool that nobody takes any more. It may be called at any time.
func (d *Delivery) Remark() error {
	var full, stranded error
	if dir := d.directory(); dir != nil {
		full = dir.nearlyFull()
	}
	if d.spool != nil {
		stranded = d.spool.remark()
	}
	if full != nil && stranded != nil {
		return fmt.Errorf("%w; %w", full, stranded)
	}
	return cmp.Or(full, stranded)
}

// Written returns how many bytes have reached the disk so far.
func (d *Delivery) Written() int64 { return d.disk.written.Load() }

// Deliver stores a capture file at all destinations at once; none waits for
// another one or suffers from its failure. The place holds what succeeded.
// What a remote destination does not have in time goes to the spool, where it
// waits for that one alone, else to the archive; what one refuses for good goes to
// the archive.
//
// A context that ends stops what goes over the network only: a file is always
// finished. From stop on, the daemon is about to end: what is still being
// uploaded is written at once, and a local file stays even if the upload then
// succeeds after all.
func (d *Delivery) Deliver(ctx context.Context, stop <-chan struct{}, r File) (Place, error) {
	if d.encrypt != nil {
		sealed, err := d.encrypt.NewFile()
		if err != nil {
			return Place{}, err
		}
		plain, size := r.Content, r.Size
		r.Content = func() io.Reader { return sealed.Reader(plain(), size) }
		r.Name, r.Size = r.Name+encrypt.Extension, d.encrypt.Size(size)
	}
	if d.local != nil {
		r.Name = d.local.Unused(r.Name) // all of them bear the same name
	}
	var back Place
	var failed error
	var returning sync.WaitGroup
	if r.Key != "" {
		returning.Go(func() { back, failed = storeAt(ctx, d.back, r, d.observer) })
	}
	place, err := (&copies{Delivery: d, file: r}).deliver(ctx, stop)
	returning.Wait()
	place.Key, place.Name = back.Key, back.Name
	return place, errors.Join(err, failed)
}

// Size returns how long a capture file of so many bytes is where it is stored.
func (d *Delivery) Size(captured int64) int64 { return d.encrypt.Size(captured) }

// Fit returns how long a capture may be whose file is to have at most so many bytes;
// less than 0 if there is none.
func (d *Delivery) Fit(size int64) int64 { return d.encrypt.Fit(size) }

// Longest returns how long Deliver may take for a file of so many bytes, as far as
// can be known before: what waits for a disk or for Redis goes on as long as
// anything moves, and is only expected not to be slower than this.
func (d *Delivery) Longest(size int64, returned bool) time.Duration {
	longest := LateDelivery + over(size, slowDisk) // of its own, or of what could not be uploaded
	if len(d.remotes) > 0 {
		longest += d.timeout
	}
	if returned {
		longest = max(longest, returning+over(size, slowRedis))
	}
	return longest
}

// Descriptors returns how many descriptors Deliver, and Send, may need for one file at one time.
func (d *Delivery) Descriptors() int64 {
	const directory, remote, spooled, redis = 2, 2, 3, 2 // a file and its directory; a connection and another that is tried
	needed := int64(remote * len(d.remotes))
	if d.local != nil {
		needed += directory
	}
	if d.spool != nil {
		needed += spooled
	}
	if d.back != nil {
		needed += redis
	}
	return needed
}

// over returns the time that so many bytes take, of which so many pass each second.
func over(size, perSecond int64) time.Duration {
	return time.Duration(float64(size) / float64(perSecond) * float64(time.Second))
}

// storeAt stores a capture file at one destination, counted and timed.
func storeAt(ctx context.Context, to Destination, r File, o Observer) (Place, error) {
	began := time.Now()
	place, err := to.Store(ctx, r)
	o.Delivered(to.Name(), time.Since(began), err)
	return place, err
}
