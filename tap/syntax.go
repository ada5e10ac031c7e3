package tap

import (
	"context"
	"errors"
	"strings"
)

// elsewhere are words in libpcap's errors that depend on where a filter is compiled:
// on the link type, on whether packets come from an interface, and on what names mean there.
var elsewhere = []string{"support", "unknown host", "unknown network", "unknown ether host"}

// CheckSyntax returns an error if an expression is no pcap-filter(7) expression, whatever
// the interface. It opens none, and so needs no privileges: what another host may be
// able to tell, such as what a name means there, or whether a link has VLANs, is no error.
// Nor is one that takes too long, or a context that ends before.
func (c *Compiler) CheckSyntax(ctx context.Context, expression string) error {
	_, err := c.compile(ctx, question{snap: MaxSnap, expression: expression})
	if err == nil || errors.Is(err, ErrGivenUp) || ctx.Err() != nil {
		return nil
	}
	cause := errors.Unwrap(err)
	for _, word := range elsewhere {
		if cause != nil && strings.Contains(cause.Error(), word) {
			return nil
		}
	}
	return err
}
