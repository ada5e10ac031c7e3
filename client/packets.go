package client

import (
	"context"
	"errors"
	"time"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// hearLive takes news of a capture whose packets are read while it is made.
func (c *client) hearLive(t *progress, r result.Result) {
	if c.live == nil {
		return
	}
	if t != nil && r.State == result.Started {
		if difference := c.live.compareClock(r, c.published, time.Now()); difference != "" {
			c.view.say(difference)
		}
	}
	if t != nil {
		if err := c.live.heard(t); err != nil {
			c.failed = true
			c.view.say(text.Escape(err.Error()))
		}
	}
	c.look(time.Now())
}

// look looks how the packets of all hosts stand.
func (c *client) look(now time.Time) {
	if c.live == nil {
		return
	}
	c.live.look(c.session, now)
	c.sayMixed()
}

// sayMixed says once when some readers cannot take the file.
func (c *client) sayMixed() {
	if line := c.live.describeMixed(); line != "" {
		c.mention(line)
	}
}

// streamed shows how reading a capture has ended.
func (c *client) streamed(s *stream) {
	s.over = true
	s.capture.fetching = false
	if s.err != nil {
		c.failed, s.capture.broken = true, true
		c.view.say(text.Escape(s.err.Error()))
	} else {
		c.checkCounts(s.capture)
	}
	if s.file != "" {
		c.view.fetched(s.capture.Result, s.file)
	}
	if s.capture.Over() {
		c.view.ended(s.capture.Result, s.file)
	}
}

// fileBroken ends the captures, because what they capture cannot be written any more.
func (c *client) fileBroken(ctx context.Context) {
	if err := c.live.merger.Err(); err != nil && !errors.Is(err, errReaderGone) {
		c.failed = true
		c.view.say(text.Escape(err.Error()))
	}
	if c.session.stopped.IsZero() {
		c.stop(ctx)
	}
}

// endFile ends the file of all packets, if there is one, and says what it lacks.
func (c *client) endFile(ctx context.Context) {
	if c.live == nil {
		return
	}
	late, err := c.live.close(ctx)
	c.sayMixed()
	c.live = nil
	if late > 0 {
		c.view.say(describeLate(late))
	}
	if err != nil && !c.failed && !errors.Is(err, errReaderGone) {
		c.failed = true
		c.view.say(text.Escape(err.Error()))
	}
}
