// Package client is who asks: it publishes a request, follows the results of all
// hosts that answer, shows them on a terminal or as lines of JSON, and fetches
// files that are returned. It judges no request by itself and knows nothing of
// capturing.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/pubsub"
	"pcapdaemon/store"
	"pcapdaemon/text"
)

const (
	// tick is how often a client looks at the clock.
	tick = 100 * time.Millisecond
	// heldUp is from when on a client that has not looked at it may have missed something.
	heldUp = time.Second
	// sameMoment is how long after the reader of the packets has left a signal is for both: Ctrl-C
	// reaches a whole pipeline, in any order.
	sameMoment = time.Second
)

// An exchange is where a client asks and hears the answers.
type exchange interface {
	// Publish publishes a request and returns how many listen.
	Publish(ctx context.Context, request []byte) (listeners int, err error)
	// Answers returns what anybody answers to anything.
	Answers() <-chan []byte
	// Waiting reports whether there is an answer that was not taken yet.
	Waiting() bool
	// Changes returns why nothing can be heard for the time being, and nil when it can again.
	Changes() <-chan error
}

// A client asks, and shows what it hears.
type client struct {
	exchange exchange
	channel  string // for people
	request  request
	spans    spans
	view     view
	fetcher  *fetcher      // nil: files stay where they are
	dir      string        // that the fetcher fetches into
	live     *live         // nil: packets stay where they are
	grace    time.Duration // for captures that were asked to end; 0: there is no hurry
	quiet    bool          // only what is missing or wrong is said

	session   *session
	published time.Time // just before the request was
	looked    time.Time // at the clock, last
	leaving   time.Time // when the grace is over; zero: nobody knows yet
	owed      bool      // a stop could not be published
	failed    bool      // a file was not fetched, or packets are missing
}

// Ask publishes a request, shows the answers, and returns when the last one has
// come or none is to be expected any more.
func Ask(o Options, request []byte, stdout, stderr io.Writer) Outcome {
	screen := openTerminal(stdout)
	q, err := newRequest(request, o.Judge,
		asker{by: whoAmI(), watches: screen != nil, fetches: o.Dir != "", live: o.Packets != nil})
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: %s: %v\n", o.Name, err)
		return Misused
	}
	in, release := newInterruption(o.Ends)
	defer release()
	out := &printed{to: stdout}
	code, err := consult(in, o, q, newView(q, screen, out, stderr))
	if err != nil && (in.once.Err() != nil || errors.Is(err, context.Canceled)) {
		err = errors.New("interrupted before the request was published")
	}
	if err != nil {
		o.complain(stderr, err)
	}
	if out.complain(stderr, o.Name) {
		return Failed
	}
	return code
}

// consult publishes a request and returns the outcome that the answers amount
// to. An error means that it was not published.
func consult(in interruption, o Options, q request, v view) (Outcome, error) {
	ctx, cancel := context.WithCancel(in.twice)
	defer cancel()
	commit := context.AfterFunc(in.once, cancel) // until the request is out, once is enough
	asking := newClient(o, q, v)
	defer asking.endFile(in.twice) // whatever happens, it is whole
	connected := asking.live.watchReader(cancel)
	over, err := pubsub.NewClient(ctx, o.Server, o.Requests, o.Results)
	connected()
	if err != nil {
		return Unpublished, err
	}
	defer over.Close()
	asking.exchange = over
	if err := asking.ask(ctx); err != nil {
		return Unpublished, err
	}
	if !commit() { // it is out, and nothing can be heard any more
		return asking.leave(), nil
	}
	return asking.wait(in), nil
}

// newClient returns a client that has no exchange yet.
func newClient(o Options, q request, v view) *client {
	asking := &client{channel: o.Requests, request: q, spans: q.spans(o), view: v,
		grace: o.Grace, quiet: o.Quiet}
	switch {
	case o.Packets != nil:
		asking.live = newLive(o, q.id, q.asked.Bytes)
	case o.Dir != "":
		asking.dir = o.Dir
		asking.fetcher = newFetcher(o.Server, store.NewDirectory(o.Dir), o.Results+":"+q.id+":")
		asking.fetcher.identities = o.Identities
	}
	return asking
}

// ask publishes the request.
func (c *client) ask(ctx context.Context) error {
	c.published = time.Now()
	listeners, err := c.exchange.Publish(ctx, c.request.message)
	if err != nil {
		return err
	}
	c.mention(fmt.Sprintf("request %s: %d %s on %s", text.Printable(c.request.id), listeners,
		english.PluralWord(listeners, "host listens", "hosts listen"), c.channel))
	c.session = newSession(c.request, listeners, c.spans, time.Now())
	return nil
}

// mention says how asking goes on, to whoever wants to know that.
func (c *client) mention(text string) {
	if !c.quiet {
		c.view.say(text)
	}
}

// wait shows the answers until the last one, and returns the outcome.
func (c *client) wait(in interruption) Outcome {
	var giveUp context.CancelFunc
	in.twice, giveUp = context.WithCancel(in.twice)
	defer giveUp()
	if !c.hear(in) {
		giveUp()
		c.endFile(in.twice)
		return c.leave()
	}
	written := in.twice
	if !c.leaving.IsZero() { // it does not wait for a reader that takes nothing, either
		var done context.CancelFunc
		written, done = context.WithDeadline(in.twice, c.leaving)
		defer done()
	}
	c.endFile(written)
	c.view.close()
	unfinished := c.session.unfinished()
	for _, t := range unfinished {
		c.view.say(t.name() + ": no result")
	}
	if len(unfinished) > 0 {
		c.sayFetchable()
	}
	code := c.session.outcome()
	switch {
	case code == Unanswered:
		c.view.say("no host answered: " + c.session.whyNobody())
	case c.failed:
		return Failed
	}
	return code
}

// leave ends before the end, and returns the outcome.
func (c *client) leave() Outcome {
	if c.fetcher != nil {
		c.fetcher.working.Wait() // not for long: it has been given up
	}
	c.view.close()
	switch {
	case !c.leaving.IsZero() && !c.failed:
		return Done
	case c.request.begins && c.leaving.IsZero():
		c.mention("left before the results came; what still runs can be stopped, with the flags of this command, by: " +
			c.request.stopByHand())
	}
	c.sayFetchable()
	return Failed
}

// sayFetchable says how to fetch what comes after the client has left.
func (c *client) sayFetchable() {
	if c.request.returns {
		c.mention("what is returned can be fetched within 10 minutes, with the same flags, by: " + c.request.fetchByHand(c.dir))
	}
}

// hear takes what comes until nothing more is to be expected; false means
// that the client is to leave before.
func (c *client) hear(in interruption) bool {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	once, broken := in.once.Done(), c.live.failed()
	for c.looked = time.Now(); c.busy() || !c.session.over(c.resume()); {
		select {
		case message := <-c.exchange.Answers():
			c.take(in.twice, message)
		case f := <-c.fetcher.finished():
			c.fetched(f)
		case s := <-c.live.finished():
			c.streamed(s)
		case <-ticker.C:
			now := c.resume()
			c.sayFallen(now)
			if !c.leaving.IsZero() && now.After(c.leaving) {
				return false
			}
			c.look(now)
			c.view.draw(c.session, now)
			if broken != nil && c.live.isUnread() {
				broken = nil
				c.fileBroken(in.twice)
			}
		case <-broken:
			broken = nil
			c.fileBroken(in.twice)
		case err := <-c.exchange.Changes():
			c.change(in.twice, err)
		case <-once:
			once = nil
			switch stopped := c.session.stopped; {
			case !c.request.begins:
				return false
			case stopped.IsZero():
				c.stop(in.twice)
			case time.Since(stopped) > sameMoment: // they end because nobody reads the packets
				return false
			}
		case <-in.twice.Done():
			return false
		}
	}
	return true
}

// resume returns the time, and gives everybody some if the client was stopped, or could not write, since
// it last looked: what has come meanwhile has not been heard yet.
func (c *client) resume() time.Time {
	now := time.Now()
	if now.Sub(c.looked) > heldUp {
		c.session.resume(c.looked, now)
	}
	c.looked = now
	return now
}

// sayFallen names the captures of which nothing is heard any more.
func (c *client) sayFallen(now time.Time) {
	for _, t := range c.session.fallSilent(now) {
		c.view.say(fmt.Sprintf("%s: nothing heard since %s; waiting for it for another %s at most", t.name(),
			t.latest.Format(time.TimeOnly), text.FormatDuration(t.deadline.Sub(now).Round(time.Second))))
	}
}

// busy reports whether there is something to do that does not depend on hosts.
func (c *client) busy() bool {
	return c.exchange.Waiting() || c.fetcher != nil && c.fetcher.pending > 0 || c.live.busy()
}

// change notes whether anything can be heard. It is called after every attempt to connect.
func (c *client) change(ctx context.Context, err error) {
	if err != nil {
		if c.session.lost.IsZero() {
			c.view.say("no results are heard for the time being: " + text.Escape(err.Error()))
		}
		c.session.lose(time.Now())
		return
	}
	c.session.regain(time.Now())
	c.view.say("results are heard again")
	if c.owed {
		c.stop(ctx)
	}
}

// stop asks the captures to end. If Redis is away, that is owed until it is back.
func (c *client) stop(ctx context.Context) {
	if c.grace > 0 {
		c.leaving = time.Now().Add(c.grace)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.grace)
		defer cancel()
	}
	_, err := c.exchange.Publish(ctx, c.request.stop())
	if c.owed = err != nil; c.owed {
		c.view.say("stop not published: " + text.Escape(err.Error()))
		return
	}
	c.session.stop(time.Now())
	c.mention("asked the captures to stop; press Ctrl-C again to leave without their results")
}
