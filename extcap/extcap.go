// Package extcap is the program as Wireshark starts it: an external capture interface
// (extcap(4)). Wireshark asks what there is to choose, and starts a capture whose packets
// it reads from a fifo. It is a package of its own beside client because it has a command
// line of its own, Wireshark's, and because client asks and hears without knowing who
// reads. It asks as -publish does, through client.
package extcap

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
)

// name is what the interface is called in Wireshark's list.
const name = "pcapdaemon"

// A Program is what the program hands to the capture interface.
type Program struct {
	Version string
	// Settings are what the environment says, and Wrong is what is wrong with it: nothing is captured then.
	Settings Settings
	Wrong    error
	// Server returns the server of an address and of a file of CA certificates; empty: the
	// system's. The error is one line without secrets.
	Server func(address, caFile string) (*pubsub.Server, error)
	// CheckFilter returns an error if an expression is no capture filter.
	CheckFilter func(ctx context.Context, expression string) error
	// Client says how to ask; server, channels, name and what is done with packets are filled in.
	Client client.Options
}

// Settings say where Redis is, if the options do not.
type Settings struct {
	RedisURL, CAFile  string // the address may hold secrets, which are never shown
	Requests, Results string // channels
}

// Invoked reports whether arguments are those with which Wireshark starts the program.
func Invoked(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		word, isFlag := strings.CutPrefix(arg, "--")
		return isFlag && (word == "capture" || strings.HasPrefix(word, "extcap-"))
	})
}

// Run does what Wireshark has started the program for. Redis is asked for a capture and
// for a list that is to be loaded, else never. Errors are on stderr, in words that Wireshark shows.
func Run(p Program, args []string, stdout, stderr io.Writer) client.Outcome {
	o, err := parse(args, p.Settings)
	switch {
	case o.capture && o.fifo != "":
		return p.capture(args, o, cmp.Or(err, p.Wrong), stderr)
	case err == nil:
		err = p.answer(args, o, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon:", err)
		return client.Misused
	}
	return client.Done
}

// answer tells Wireshark what it asks before a capture.
func (p Program) answer(args []string, o options, stdout io.Writer) error {
	switch {
	case o.listInterfaces:
		fmt.Fprint(stdout, sentence("extcap", "version", p.Version, "display", name),
			sentence("interface", "value", name, "display", "Packets of many hosts, on request"))
	case o.listLinks: // what packets really are stands in the file
		fmt.Fprint(stdout, sentence("dlt", "number", "1", "name", "EN10MB", "display", "Ethernet"))
	case o.reload != "":
		conceal(p, o, args)
		fmt.Fprint(stdout, p.load(o))
	case o.configure:
		fmt.Fprint(stdout, o.dialog())
	case o.checks:
		if err := p.CheckFilter(context.Background(), o.filter); err != nil {
			fmt.Fprintln(stdout, err) // which is how Wireshark knows
		}
	default:
		return fmt.Errorf("nothing to do: with --extcap-interface %s, Wireshark gives "+
			"--extcap-dlts, --extcap-config or --capture", name)
	}
	return nil
}
