package object

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
	"pcapdaemon/transfer"
)

// maxNames is how many names are tried for one capture file.
const maxNames = 100

// DestinationName is what deliveries to a store are counted under.
const DestinationName = "store"

// Options say how objects get to their address.
type Options struct {
	CAs      *x509.CertPool // nil: the system's
	Token    string         // a bearer token for a web server; empty: none
	Keys     *Keys          // of a bucket
	Agent    string         // User-Agent
	Timeout  time.Duration  // for one capture file, retries included
	Observer store.Observer
}

// A Destination stores capture files as objects. It implements store.Destination.
type Destination struct {
	address Address
	server  server
	agent   string
	client  *transfer.Client
	tries   transfer.Tries
	// plain is set once the server has said that it does not know If-None-Match.
	plain *atomic.Bool
}

// A server is one kind of them: it knows what its requests need and its answers say.
type server interface {
	// describe returns what the header of a request says of a capture file. It may read all of it.
	describe(context.Context, store.File) (http.Header, error)
	// authorize adds what shows who sends a request.
	authorize(*http.Request) error
	// reason returns in words why a request failed, and whether another try may
	// help though the status does not say so.
	reason(transfer.Answer) (words string, again bool)
	// redact takes secrets out of what others say.
	redact(string) string
}

// New returns the destination at an address.
func New(a Address, o Options) *Destination {
	d := &Destination{address: a, agent: o.Agent,
		client: transfer.NewClient(o.CAs, false, transfer.NewStallTimeouts(o.Timeout)),
		tries:  transfer.Tries{Destination: DestinationName, Timeout: o.Timeout, Observer: o.Observer},
		plain:  new(atomic.Bool)}
	if a.IsBucket() {
		d.server = &bucket{region: a.region, keys: o.Keys}
	} else {
		d.server = newWeb(a.user, o.Token)
	}
	return d
}

// Once returns the same destination, but one that tries only once.
func (d *Destination) Once() *Destination {
	once := *d
	once.tries.Single = true
	return &once
}

// Name implements store.Destination.
func (*Destination) Name() string { return DestinationName }

// Store implements store.Destination. An object that bears the name already stays
// as it is, if the server knows how to say so: the new one gets -2, -3 … then.
func (d *Destination) Store(ctx context.Context, r store.File) (store.Place, error) {
	name, names := r.Name, 1
	header, err := d.server.describe(ctx, r)
	if err == nil {
		err = d.tries.Do(ctx, r, func(ctx context.Context) error {
			for {
				err := d.put(ctx, r, name, header)
				if !errors.Is(err, errTaken) {
					return err
				}
				if names++; names > maxNames {
					return backoff.Permanent(store.Refusal{Err: fmt.Errorf("%d names like it are taken", maxNames)})
				}
				name = store.NumberedName(r.Name, names)
			}
		})
	}
	if err != nil {
		return store.Place{}, fmt.Errorf("store at %s: %w", d.address, err)
	}
	return store.Place{URL: d.address.shown + url.PathEscape(name)}, nil
}

// errTaken means that another object bears the name.
var errTaken = errors.New("the name is taken")

// put puts an object at a name once. Errors that another try cannot mend are permanent.
func (d *Destination) put(ctx context.Context, r store.File, name string, header http.Header) error {
	header = header.Clone()
	header.Set("Content-Type", contentType(r.Name))
	if !d.plain.Load() {
		header.Set("If-None-Match", "*") // RFC 9110, 13.1.2: only where there is nothing yet
	}
	header.Set("User-Agent", d.agent)
	answer, err := d.client.Send(ctx, transfer.Request{Method: http.MethodPut, Address: d.address.directory.JoinPath(name),
		Header: header, Body: r.Content, Length: r.Size, Authorize: d.server.authorize})
	if err != nil {
		return transfer.Redacted(err, d.server.redact)
	}
	switch answer.Code {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		return nil
	case http.StatusPreconditionFailed:
		return errTaken
	}
	words, again := d.server.reason(answer)
	if answer.Code == http.StatusNotImplemented && !d.plain.Swap(true) {
		// Some services refuse what they do not know. What that means for names is said once.
		again, words = true, words+"; from now on objects may be overwritten"
	}
	if again {
		return fmt.Errorf("%d %s: %s", answer.Code, http.StatusText(answer.Code), words)
	}
	return answer.Failure(words)
}

// contentType returns the media type of a capture file, by its name.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".pcap":
		return "application/vnd.tcpdump.pcap" // IANA's
	case ".pcapng":
		return "application/x-pcapng"
	}
	return "application/octet-stream"
}
