package client

import (
	"context"
	"fmt"
	"io"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/text"
)

// Announce publishes a request, prints how many listen, and returns before any of them
// has answered: Unanswered if nobody listens. The context, which needs a deadline,
// bounds the time that it takes. No channel of results is needed.
func Announce(ctx context.Context, o Options, request []byte, stdout, stderr io.Writer) Outcome {
	q, err := newRequest(request, o.Judge, asker{by: whoAmI()})
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: %s: %v\n", o.Name, err)
		return Misused
	}
	listeners, err := o.Server.Announce(ctx, o.Requests, q.message)
	if err != nil {
		o.complain(stderr, err)
		return Failed
	}
	out := &printed{to: stdout}
	fmt.Fprintln(out, listeners)
	fmt.Fprintf(stderr, "request %s: %d %s on %s\n", text.Printable(q.id), listeners,
		english.PluralWord(listeners, "host listens", "hosts listen"), o.Requests)
	switch {
	case out.complain(stderr, o.Name):
		return Failed
	case listeners == 0:
		return Unanswered
	}
	return Done
}
