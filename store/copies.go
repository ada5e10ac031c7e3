package store

import (
	"context"
	"errors"
	"time"
)

// copies are what there is of a capture file: at remote destinations, in the
// archive, and in the spool.
type copies struct {
	*Delivery
	file    File
	answers []answer      // of the remote destinations that have ended
	written chan struct{} // closed when the archive has ended; nil: it does not get the file
	place   Place         // in the archive
	problem error         // of the archive
	entry   *entry        // in the spool; nil: none
	noted   bool          // in the entry, what has become of the file in the archive
	full    error         // why the spool has not taken it
}

// An answer is how storing a capture file at a remote destination ended.
type answer struct {
	name  string // of the destination
	first bool   // of all destinations
	place Place
	err   error
}

// deliver brings the capture file to all remote destinations, and to the archive if
// that gets every one. It takes care of what is not uploaded when a stop comes, or
// when all uploads have ended.
func (c *copies) deliver(ctx context.Context, stop <-chan struct{}) (Place, error) {
	if c.always {
		c.write()
	}
	ended := c.upload(ctx)
	c.await(ended, stop)
	c.rescue()
	for len(c.answers) < len(c.remotes) {
		c.answers = append(c.answers, <-ended)
	}
	if c.written != nil {
		<-c.written
	}
	if c.entry != nil {
		return c.spool.conclude(c)
	}
	return c.result()
}

// upload begins to store the file at all remote destinations, and returns where
// their answers come.
func (c *copies) upload(ctx context.Context) <-chan answer {
	ended := make(chan answer, len(c.remotes))
	for i, to := range c.remotes {
		go func() {
			place, err := storeAt(ctx, to, c.file, c.observer)
			ended <- answer{to.Name(), i == 0, place, err}
		}()
	}
	return ended
}

// await takes answers until all have come, or a stop does. An answer that has come
// already counts more than a stop.
func (c *copies) await(ended <-chan answer, stop <-chan struct{}) {
	for stopped := false; !stopped && len(c.answers) < len(c.remotes); {
		select {
		case a := <-ended:
			c.answers = append(c.answers, a)
		case <-stop:
			stopped = true
		}
	}
	for len(ended) > 0 {
		c.answers = append(c.answers, <-ended)
	}
}

// write begins to write the file to the archive, if there is one, however long that takes.
func (c *copies) write() {
	if c.local == nil || c.written != nil {
		return
	}
	c.written = make(chan struct{})
	go func() {
		defer close(c.written)
		c.place, c.problem = storeAt(context.Background(), c.local, c.file, c.observer)
	}()
}

// rescue puts a file that remote destinations do not have yet into the spool, else
// into the archive. What one of them has refused for good goes to the archive.
func (c *copies) rescue() {
	so := fate{}
	for _, to := range c.remotes {
		so.Pending = append(so.Pending, to.Name())
	}
	for _, a := range c.answers {
		so.take(a)
	}
	if so.Refused {
		c.write()
	}
	if len(so.Pending) > 0 && c.spool != nil {
		c.keep(so)
	}
	if len(so.Pending) > 0 && c.entry == nil {
		c.write()
	}
}

// isFinal reports whether another try would not change the answer.
func (a answer) isFinal() bool { return a.err == nil || IsRefusal(a.err) }

// keep puts the file into the spool, with what has become of it elsewhere. An
// archive that hangs keeps nothing out of the spool.
func (c *copies) keep(so fate) {
	if c.noted = c.wrote(LateDelivery); c.noted {
		so.takeLocal(c.place, c.problem)
	}
	began := time.Now()
	c.entry, c.full = c.spool.keep(c.file, so)
	c.observer.Delivered(c.spool.name(), time.Since(began), c.full)
}

// wrote reports whether the archive has ended within a time.
func (c *copies) wrote(within time.Duration) bool {
	if c.written == nil {
		return false
	}
	select {
	case <-c.written:
		return true
	case <-time.After(within):
		return false
	}
}

// result returns where a file is that is not in the spool, and what went wrong.
func (c *copies) result() (Place, error) {
	place := Place{File: c.place.File}
	var failed error
	for _, a := range c.answers {
		if a.err == nil {
			place.add(a.place.URL, a.first)
		}
		failed = errors.Join(failed, a.err)
	}
	switch {
	case failed != nil:
		return place, errors.Join(failed, c.full, c.problem)
	case c.always:
		return place, c.problem
	}
	return place, nil // all have it, and nobody asked for the archive
}
