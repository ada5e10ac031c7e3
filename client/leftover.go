package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/encrypt"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/store"
	"pcapdaemon/text"
)

// Fetch fetches into a directory what hosts have left in Redis for an id, until a signal
// comes, shows what is fetched, and removes the keys. It touches no other keys, and no lists of captures
// that run. Unanswered means that there is nothing.
func Fetch(o Options, id string, stdout, stderr io.Writer) Outcome {
	in, release := newInterruption(o.Ends)
	defer release()
	out := &printed{to: stdout}
	l := leftover{id: id, prefix: o.Results + ":" + id + ":", shown: newView(request{}, openTerminal(stdout), out, stderr)}
	l.fetcher = newFetcher(o.Server, store.NewDirectory(o.Dir), l.prefix)
	l.fetcher.identities = o.Identities
	l.list = o.Server.Keys
	err := o.Server.Ping(in.once) // one that is not there is not waited for
	if err == nil {
		err = l.fetch(in.once)
	}
	if err != nil {
		o.complain(stderr, err)
		return Failed
	}
	switch {
	case l.failed || out.complain(stderr, o.Name):
		return Failed
	case l.files == 0:
		fmt.Fprintf(stderr, "nothing is left for %s: keys expire after 10 minutes\n", text.Printable(id))
		return Unanswered
	}
	return Done
}

// A leftover is what is still in Redis of the captures that hosts have returned for an id.
type leftover struct {
	id      string
	prefix  string // of the keys
	list    func(ctx context.Context, prefix string) (keys []string, err error)
	fetcher *fetcher
	shown   view
	files   int  // fetched
	failed  bool // something was not
}

// fetch fetches all there is. The server names only so many keys at a time.
func (l *leftover) fetch(ctx context.Context) error {
	defer func() { l.shown.close() }()
	seen := map[string]bool{}
	for {
		keys, err := l.list(ctx, l.prefix)
		if err != nil {
			return err
		}
		news := false
		for _, key := range keys {
			if seen[key] || ctx.Err() != nil {
				continue
			}
			seen[key], news = true, true
			if node, device, ok := l.parse(key); ok {
				l.fetchKey(ctx, key, result.Result{ID: l.id, Node: node, Interface: device, State: result.Fetched})
			}
		}
		if ctx.Err() != nil || !news || len(keys) < pubsub.MaxKeys {
			return ctx.Err()
		}
	}
}

// parse returns whose capture a key holds; false means that of one that runs, or none.
// The names of devices have no colons, those of nodes may.
func (l *leftover) parse(key string) (node, device string, ok bool) {
	rest, ours := strings.CutPrefix(key, l.prefix)
	if before, live := strings.CutSuffix(rest, pubsub.ListSuffix); !ours || live && strings.Contains(before, ":") {
		return "", "", false
	}
	i := strings.LastIndex(rest, ":")
	if i < 0 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// fetchKey fetches what a key holds and shows how that has ended.
func (l *leftover) fetchKey(ctx context.Context, key string, r result.Result) {
	file, err := l.store(ctx, key, r)
	if err != nil {
		l.failed = true
		l.shown.say(text.Escape(fmt.Sprintf("%s %s: %v", r.Node, r.Interface, err)))
	}
	if file != "" {
		l.files++
		l.shown.fetched(r, file)
		l.shown.ended(r, file)
	}
}

// store brings a file into the directory. Its first packet tells the time that its name
// bears: that of the start is not known here.
func (l *leftover) store(ctx context.Context, key string, r result.Result) (path string, err error) {
	from, release := l.fetcher.open(ctx, key)
	defer release()
	file, head, err := look(from)
	encrypted := encrypt.IsEncrypted(head)
	if err == nil && encrypted && l.fetcher.identities != nil {
		encrypted = false
		file, head, err = look(&opened{from: file, identities: l.fetcher.identities})
	}
	if err != nil {
		return "", err
	}
	extension, first := capfile.Identify(head)
	if first.IsZero() {
		first = time.Now()
	}
	if encrypted {
		extension = ".pcap" + encrypt.Extension // which of the two cannot be seen
	}
	r.Name = store.FileName(r.Node, r.Interface, first, extension)
	return l.fetcher.keep(ctx, key, store.File{ID: r.ID, Name: localName(r)}, &content{from: capfile.NewChecker(file)})
}

// look returns a reader of a file, and what the file begins with.
func look(from io.Reader) (file *bufio.Reader, head []byte, err error) {
	file = bufio.NewReaderSize(from, capfile.IdentifySize)
	if head, err = file.Peek(capfile.IdentifySize); err == io.EOF {
		err = nil
	}
	return file, head, err
}
