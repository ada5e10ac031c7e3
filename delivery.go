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
}

// A receipt says where a recording is now.
type receipt struct {
	file string // absolute path
	url  string // for people
	key  string // from which it is fetched, and
	name string // of the file that is there
}

// A destination keeps recordings.
type destination interface {
	name() string
	store(context.Context, recording) (receipt, error)
}

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
	back   destination // for what is returned; nil: nothing is
	// always is set if every recording goes to the archive; otherwise it
	// keeps what could not be uploaded.
	always   bool
	observer observer
}

// deliver stores a recording at all destinations at once; none waits for
// another one or suffers from its failure. The receipt holds what succeeded.
//
// A context that ends stops what goes over the network only: a local file is
// always finished. From stop on, the daemon is about to end: what is still
// being uploaded is written at once, and stays even if the upload then
// succeeds after all.
func (d *delivery) deliver(ctx context.Context, stop <-chan struct{}, r recording) (receipt, error) {
	if d.local != nil {
		r.name = d.local.unused(r.name) // all of them bear the same name
	}
	var back receipt
	var failed error
	var returning sync.WaitGroup
	if r.key != "" {
		returning.Go(func() { back, failed = d.store(ctx, d.back, r) })
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
		return d.store(ctx, d.local, r)
	}
	var place receipt
	var writeErr error
	var writing sync.WaitGroup
	write := func() { place, writeErr = d.store(context.WithoutCancel(ctx), d.local, r) }
	failed, succeeded := make(chan struct{}), make(chan struct{})
	switch {
	case d.always:
		writing.Go(write)
	case d.local != nil:
		writing.Go(func() {
			select {
			case <-stop:
				write()
			case <-failed:
				write()
			case <-succeeded:
			}
		})
	}
	uploaded, err := d.store(ctx, d.upload, r)
	if err != nil {
		close(failed)
	} else {
		close(succeeded)
	}
	writing.Wait()
	place.url = uploaded.url
	if err == nil && !d.always {
		return place, nil // nobody asked for the file
	}
	return place, errors.Join(err, writeErr)
}

// store stores a recording at one destination, counted and timed.
func (d *delivery) store(ctx context.Context, to destination, r recording) (receipt, error) {
	began := time.Now()
	receipt, err := to.store(ctx, r)
	d.observer.delivered(to.name(), time.Since(began), err)
	return receipt, err
}

// fileTime is the start of a capture as its file's name tells it.
const fileTime = "20060102T150405.000000000Z"

// fileName returns the name of a capture's file: node, interface and time of
// the start.
func fileName(node, iface string, start time.Time) string {
	return plain(node + "-" + iface + "-" + start.UTC().Format(fileTime) + ".pcap")
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

// maxTags is the number of tags that CloudShark takes.
const maxTags = 30
