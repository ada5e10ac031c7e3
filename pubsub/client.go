package pubsub

import (
	"context"
	"fmt"
	"io"

	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
)

// A Client asks on one channel and hears the answers on another one, over any
// number of connections.
type Client struct {
	server  *Server
	channel string
	answers chan []byte
	changes chan error
	cancel  func() // ends the listening
	done    chan struct{}
}

// NewClient returns a client that hears what is published as answers from now
// on, until Close or the end of the context. An error means that it cannot hear anything.
func NewClient(ctx context.Context, server *Server, channel, answers string) (*Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{server: server, channel: channel, answers: make(chan []byte, 1000),
		changes: make(chan error, 1), cancel: cancel, done: make(chan struct{})}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard) // whoever waits for answers is told by Changes
	listener := Subscriber{Server: server, Channel: answers, Messages: c.answers, State: c.change, Log: quiet,
		longest: shortDelay}
	go func() {
		defer close(c.done)
		listener.Run(ctx)
	}()
	select {
	case err := <-c.changes:
		if err == nil {
			return c, nil
		}
		c.Close()
		return nil, err
	case <-ctx.Done():
		c.Close()
		return nil, ctx.Err()
	}
}

// change tells how the listening stands; only the newest counts.
func (c *Client) change(err error) {
	select {
	case <-c.changes:
	default:
	}
	c.changes <- err
}

// Publish publishes a request and returns how many listen on its channel.
func (c *Client) Publish(ctx context.Context, request []byte) (listeners int, err error) {
	conn, err := c.server.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	listeners, err = redis.Int(redis.DoWithTimeout(conn, pingPeriod, "PUBLISH", c.channel, request))
	if err != nil {
		return 0, fmt.Errorf("publish on %s: %w", c.channel, err)
	}
	return listeners, nil
}

// Answers returns what is published on the channel of answers, by anybody.
// What is published while the connection is lost does not come.
func (c *Client) Answers() <-chan []byte { return c.answers }

// Changes returns why no answers come for the time being, and nil when they come again.
func (c *Client) Changes() <-chan error { return c.changes }

// Close ends the listening.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}
