package pubsub

import (
	"context"

	"github.com/gomodule/redigo/redis"
)

// A Client asks on one channel and hears the answers on another one.
type Client struct {
	server  *Server
	channel string
	answers chan []byte
	broken  chan error
	cancel  func() // ends the listening
	done    chan struct{}
}

// NewClient returns a client that hears what is published as answers from now
// on, until Close or the end of the context. An error means that it hears nothing.
func NewClient(ctx context.Context, server *Server, channel, answers string) (*Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{server: server, channel: channel, answers: make(chan []byte, 1000),
		broken: make(chan error, 1), cancel: cancel, done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(c.done)
		listener := Subscriber{Server: server, Channel: answers, Messages: c.answers}
		c.broken <- listener.session(ctx, func() { close(ready) })
	}()
	select {
	case <-ready:
		return c, nil
	case err := <-c.broken:
		c.Close()
		return nil, err
	}
}

// Publish publishes a request and returns how many listen on its channel.
func (c *Client) Publish(ctx context.Context, request []byte) (listeners int, err error) {
	conn, err := c.server.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return redis.Int(redis.DoWithTimeout(conn, pingPeriod, "PUBLISH", c.channel, request))
}

// Answers returns what is published on the channel of answers, by anybody.
func (c *Client) Answers() <-chan []byte { return c.answers }

// Broken returns a channel that gets an error when no more answers will come.
func (c *Client) Broken() <-chan error { return c.broken }

// Close ends the listening.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}
