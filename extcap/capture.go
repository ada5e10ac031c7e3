package extcap

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/client"
	"pcapdaemon/result"
	"pcapdaemon/text"
)

const (
	// openTime is how long Wireshark may take to open its end of the fifo.
	openTime = 10 * time.Second
	// leaveTime is how long captures that were asked to stop may take to say so. Wireshark waits meanwhile.
	leaveTime = 600 * time.Millisecond
	// readTime is how long the fifo stays open after something was said: when it closes
	// first, Wireshark does not show it.
	readTime = 100 * time.Millisecond
	// mostSaid is how many bytes Wireshark shows.
	mostSaid = 1000
)

// capture asks the hosts to capture, and writes their packets to the fifo until all have
// ended, Wireshark stops the program, or the fifo is closed. With an error it says that:
// Wireshark, which waits for the fifo, shows it when the fifo is opened and closed.
func (p Program) capture(args []string, o options, wrong error, stderr io.Writer) client.Outcome {
	if wrong == nil {
		conceal(p, o, args)
	}
	fifo, err := p.openFifo(o.fifo)
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon:", cmp.Or(wrong, err))
		return client.Failed
	}
	defer fifo.Close()
	var n notes
	outcome, err := client.Misused, wrong
	if wrong == nil {
		outcome, err = p.ask(o, fifo, &n)
	}
	if err != nil {
		n.said = append(n.said, err.Error())
	}
	if text := n.text(); text != "" {
		fmt.Fprintln(stderr, text)
		time.Sleep(readTime)
	}
	return outcome
}

// ask is capture when nothing is wrong. What hosts and client say it notes.
func (p Program) ask(o options, fifo *os.File, n *notes) (client.Outcome, error) {
	request, err := o.request()
	if err != nil {
		return client.Misused, err
	}
	ask, err := o.client(p)
	if err != nil {
		return client.Misused, err
	}
	ask.Packets, ask.Application, ask.Grace, ask.Quiet = fifo, name+" "+p.Version, leaveTime, true
	return client.Ask(ask, request, results(n.hear), &lines{take: n.say}), nil
}

// openFifo opens a fifo as soon as somebody reads from it. A signal ends the waiting.
func (p Program) openFifo(path string) (*os.File, error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, p.Client.Ends...)
	defer signal.Stop(signals)
	patience := time.After(openTime)
	for {
		fifo, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.ENXIO) {
			return fifo, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-signals:
			return nil, errors.New("stopped before the capture began")
		case <-patience:
			return nil, fmt.Errorf("%s: nobody reads from it", path)
		}
	}
}

// notes are what is to be said of a capture when it ends.
type notes struct {
	hosts []string // of those that refused or failed, in their own words
	said  []string // by the client
}

// hear takes a result.
func (n *notes) hear(r result.Result) {
	if (r.State == result.Refused || r.State == result.Failed) && len(n.hosts) < mostSaid {
		host := strings.TrimSpace(text.Printable(r.Node) + " " + text.Printable(r.Interface))
		n.hosts = append(n.hosts, host+": "+text.Printable(r.Error))
	}
}

// say takes a line of the client.
func (n *notes) say(line []byte) {
	if len(n.said) < mostSaid {
		n.said = append(n.said, string(line))
	}
}

// text returns all lines, as far as Wireshark shows them.
func (n *notes) text() string {
	all := slices.Concat(n.hosts, n.said)
	room := mostSaid
	for i, line := range all {
		if room -= len(line) + 1; room < 0 {
			return strings.Join(append(all[:i:i], fmt.Sprintf("and %d more", len(all)-i)), "\n")
		}
	}
	return strings.Join(all, "\n")
}
