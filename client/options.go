package client

import (
	"fmt"
	"io"
	"os"
	"time"

	"pcapdaemon/encrypt"
	"pcapdaemon/pubsub"
	"pcapdaemon/text"
)

// Options say whom a client asks, and how.
type Options struct {
	Server            *pubsub.Server
	Requests, Results string // channels
	// Dir is the absolute path of the directory into which captures are fetched; empty: none are.
	Dir string
	// Identities open the encrypted ones of these; nil: they stay as they are.
	Identities *encrypt.Identities
	// Packets is a file or a pipe into which the packets of all captures are written as one pcapng
	// file while they are captured; nil: they are not. It is not closed. A reader that closes the
	// pipe ends the captures, as a signal does. Whoever writes to standard output has to ignore SIGPIPE.
	Packets *os.File
	// Application, a name and a version, is what that file says it was made by.
	Application string
	// Grace is how long the client waits, after it was asked to end its captures, for what is
	// left of them; 0: as long as it takes.
	Grace time.Duration
	// Quiet is set if only what is missing or wrong is said, and not how asking goes on.
	Quiet bool
	// Capture is how long a capture may last where neither the request nor its host
	// says so, and Delivery how long its delivery may take.
	Capture, Delivery time.Duration
	// Judge judges a request as the hosts will that it names.
	Judge func(message []byte) (Asked, error)
	// Ends are the signals that end the client, at least one: the first ends its captures, the second the client.
	Ends []os.Signal
	// Name is what its errors begin with: the flag that the request stands in.
	Name string
}

// Asked is what a client has to know of a request.
type Asked struct {
	ID, By       string
	Node, NodeRE string // whom it names: one of them is empty
	Interfaces   []string
	Timeout      int64  // seconds; 0: not given
	Progress     int64  // seconds between results on the way; 0: none are asked for
	Packets      int64  // 0: not given
	Bytes        int64  // of the file; 0: not given
	Stop         string // id of captures to be ended; nothing is captured
	RollCall     bool   // nothing is captured
}

// complain says what is wrong with the server, or with the way to it.
func (o Options) complain(stderr io.Writer, err error) {
	fmt.Fprintf(stderr, "pcapdaemon: redis %s: %s\n", o.Server, text.Escape(err.Error()))
}
