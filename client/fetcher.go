package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"pcapdaemon/encrypt"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/store"
)

// A keys is where hosts leave the captures that they return.
type keys interface {
	// Fetch writes what a key holds and returns how many bytes that are.
	Fetch(ctx context.Context, key string, to io.Writer) (size int64, err error)
	// Remove removes a key.
	Remove(ctx context.Context, key string) error
}

const (
	// fetchers is how many files are fetched at one time.
	fetchers = 4
	// maxFileName is the longest name of a file that is fetched, in bytes: file
	// systems take 255, and -2 may have to be added.
	maxFileName = 240
)

// A fetcher fetches captures into a directory. It is used from one goroutine.
type fetcher struct {
	keys    keys
	dir     *store.Directory
	prefix  string // of all keys that are ours
	pending int    // files that are on their way
	seen    map[string]bool
	// identities open what is encrypted; nil: that stays as it is.
	identities *encrypt.Identities
	slots      chan struct{}
	ended      chan fetched
	working    sync.WaitGroup
}

// A fetched is how fetching the file of a capture has ended. It may be an
// error and a file: when only the key could not be removed.
type fetched struct {
	capture *progress
	file    string
	err     error
}

// newFetcher returns a fetcher that touches only keys with a prefix.
func newFetcher(from keys, into *store.Directory, prefix string) *fetcher {
	return &fetcher{keys: from, dir: into, prefix: prefix, seen: map[string]bool{},
		slots: make(chan struct{}, fetchers), ended: make(chan fetched)}
}

// finished returns what has been fetched. Whoever takes it counts pending down.
func (f *fetcher) finished() <-chan fetched {
	if f == nil {
		return nil
	}
	return f.ended
}

// wants reports whether there is something to fetch.
func (f *fetcher) wants(r result.Result) bool {
	return f != nil && r.Key != "" && !f.seen[r.Key] && !strings.HasSuffix(r.Key, pubsub.ListSuffix)
}

// start fetches the file of a capture, until the context ends.
func (f *fetcher) start(ctx context.Context, t *progress) {
	if checkKey(f.prefix, t.Result) == nil { // what one host claims of another's key keeps that from nobody
		f.seen[t.Key] = true
	}
	f.pending++
	t.fetching, t.returned = true, true
	r := t.Result // another result may come meanwhile
	f.working.Go(func() {
		done := fetched{capture: t}
		select {
		case f.slots <- struct{}{}:
			done.file, done.err = f.fetch(ctx, r)
			<-f.slots
		case <-ctx.Done():
			return
		}
		select {
		case f.ended <- done:
		case <-ctx.Done():
		}
	})
}

// checkKey returns an error if the key of a result is none of the request, whose keys begin with
// a prefix, or another node's.
func checkKey(prefix string, r result.Result) error {
	device, ofNode := strings.CutPrefix(r.Key, prefix+r.Node+":")
	switch {
	case !strings.HasPrefix(r.Key, prefix):
		return fmt.Errorf("key %s is not of this request", r.Key)
	case !ofNode || strings.Contains(strings.TrimSuffix(device, pubsub.ListSuffix), ":"): // names of nodes may have colons
		return fmt.Errorf("key %s is another node's", r.Key)
	}
	return nil
}

// fetch brings the file of a capture into the directory and removes the key.
func (f *fetcher) fetch(ctx context.Context, r result.Result) (file string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %s: %w", r.Node, r.Interface, err)
		}
	}()
	if err := checkKey(f.prefix, r); err != nil {
		return "", err
	}
	from, release := f.open(ctx, r.Key)
	defer release()
	content := &content{from: &whole{from: from, missing: r.Bytes}}
	name := localName(r)
	if plain, encrypted := strings.CutSuffix(name, encrypt.Extension); encrypted && f.identities != nil {
		name, content.from = plain, &opened{from: content.from, identities: f.identities}
	}
	return f.keep(ctx, r.Key, store.File{ID: r.ID, Name: name, Size: r.Bytes}, content)
}

// open begins to read what a key holds. Release ends it.
func (f *fetcher) open(ctx context.Context, key string) (from io.Reader, release func()) {
	var reading sync.WaitGroup
	reader, writer := io.Pipe()
	reading.Go(func() {
		_, err := f.keys.Fetch(ctx, key, writer)
		writer.CloseWithError(err)
	})
	return reader, func() {
		reader.Close() // ends the writer
		reading.Wait()
	}
}

// keep writes the content of a key to a file and removes the key.
func (f *fetcher) keep(ctx context.Context, key string, file store.File, content *content) (path string, err error) {
	file.Content = func() io.Reader { return content }
	place, err := f.dir.Store(ctx, file)
	switch {
	case content.err != nil:
		return "", content.err // and not what the directory makes of it
	case err != nil:
		return "", err
	}
	if err := f.keys.Remove(ctx, key); err != nil {
		return place.File, fmt.Errorf("fetched, but: %w", err)
	}
	return place.File, nil
}

// localName returns what to name the file of a capture. What a result says is
// foreign text: no name leaves the directory, or hides in it.
func localName(r result.Result) string {
	extension := store.Extension(r.Name)
	if !slices.Contains([]string{".pcap.age", ".pcapng", ".pcapng.age"}, extension) {
		extension = ".pcap"
	}
	base := strings.TrimSuffix(store.PlainName(r.Name), extension)
	if strings.Trim(base, "._-") == "" {
		base = store.FileName(r.Node, r.Interface, time.Time(r.Started), "")
	}
	base = strings.TrimLeft(base, ".-")
	return base[:min(len(base), maxFileName-len(extension))] + extension
}

// A content is what is read of a key. It remembers why that could not go on.
type content struct {
	from io.Reader
	err  error
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// An opened reads an encrypted file decrypted.
type opened struct {
	from       io.Reader
	identities *encrypt.Identities
	plain      io.Reader // nil: nothing was read yet
}

// Read implements io.Reader.
func (o *opened) Read(p []byte) (int, error) {
	if o.plain == nil {
		plain, err := o.identities.Open(o.from)
		if err != nil {
			return 0, err
		}
		o.plain = plain
	}
	return o.plain.Read(p)
}

// A whole reads a file of known length, and all of it or an error.
type whole struct {
	from    io.Reader
	missing int64 // bytes
}

// Read implements io.Reader.
func (w *whole) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	w.missing -= int64(n)
	switch {
	case w.missing < 0:
		err = errors.New("the file is longer than its result says")
	case err == io.EOF && w.missing > 0:
		err = fmt.Errorf("%d bytes of the file are missing", w.missing)
	}
	return n, err
}
