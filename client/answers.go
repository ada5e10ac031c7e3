package client

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// take shows a result and sees to its file.
func (c *client) take(ctx context.Context, message []byte) {
	r, err := result.Decode(message)
	if err != nil {
		return // the channel is everybody's
	}
	t, news := c.session.take(r, time.Now())
	if t != nil && t.silent {
		t.silent = false
		c.view.say(t.name() + ": heard again")
	}
	if !news {
		return
	}
	c.view.heard(message)
	c.hearLive(t, r)
	excessive := c.checkCounts(t)
	switch {
	case r.State == result.Refused:
		c.view.ended(r, "")
	case t == nil || !t.Over() || c.live.holds(t):
	case excessive:
		c.view.ended(r, "")
	case c.fetcher.wants(r):
		c.fetcher.start(ctx, t)
	default:
		c.checkReturned(t)
		c.view.ended(r, "")
	}
}

// checkCounts says that a capture that has ended has more than it may have, if so, and reports whether it has.
func (c *client) checkCounts(t *progress) bool {
	if t == nil || t.broken || !t.Over() || c.live.holds(t) { // its bytes are counted as they come
		return false
	}
	err := t.checkCounts(c.request.asked)
	if err != nil {
		c.failed = true
		c.view.say(fmt.Sprintf("%s: %v", t.name(), err))
	}
	return err != nil
}

// checkReturned says that a capture should have been returned and was not, if so. A
// host says by itself why one has failed.
func (c *client) checkReturned(t *progress) {
	if c.fetcher != nil && c.request.returns && t.State != result.Failed && t.Packets > 0 && !t.returned {
		c.failed = true
		c.view.say(fmt.Sprintf("%s: %s, but its file was not returned", t.name(),
			english.Plural(int(min(t.Packets, math.MaxInt32)), "packet", "")))
	}
}

// fetched shows how fetching a file has ended.
func (c *client) fetched(f fetched) {
	c.fetcher.pending--
	f.capture.fetching = false
	if f.err != nil {
		c.view.say(text.Escape(f.err.Error()))
	}
	if f.file != "" {
		c.view.fetched(f.capture.Result, f.file)
	}
	c.failed = c.failed || f.file == ""
	c.view.ended(f.capture.Result, f.file)
}
