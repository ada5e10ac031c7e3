package pubsub

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

const (
	// maxAnswer is how many bytes an answer may have. Hosts with very many interfaces
	// say more than fits in MaxMessage.
	maxAnswer = 256 << 10
	// maxHeard is how many bytes of answers wait for whoever asked.
	maxHeard = 4 << 20
	// answerCost is what a waiting answer takes beside its bytes.
	answerCost = 64
)

// A Client asks on one channel and hears the answers on another one, over any
// number of connections.
type Client struct {
	server  *Server
	channel string
	answers chan []byte
	waiting atomic.Int64 // answers that were not taken yet
	changes chan error
	cancel  func() // ends the listening
	done    chan struct{}
}

// NewClient returns a client that hears what is published as answers from now
// on, until Close or the end of the context. An error means that it cannot hear anything.
func NewClient(ctx context.Context, server *Server, channel, answers string) (*Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{server: server, channel: channel, answers: make(chan []byte),
		changes: make(chan error, 1), cancel: cancel, done: make(chan struct{})}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard) // Changes says it to whoever waits for answers
	heard := make(chan Message)
	listener := Subscriber{Server: server, Channel: answers, Messages: heard, State: c.change, Log: quiet,
		longest: shortDelay, keep: maxAnswer}
	var running sync.WaitGroup
	running.Go(func() { listener.Run(ctx) })
	running.Go(func() { c.collect(ctx, heard) })
	go func() {
		running.Wait()
		close(c.done)
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

// collect keeps the answers for whoever asked, until the context ends. When too many
// bytes wait the server has to wait.
func (c *Client) collect(ctx context.Context, heard <-chan Message) {
	var waiting [][]byte
	held := 0
	for {
		c.waiting.Store(int64(len(waiting)))
		from, to := heard, c.answers
		var first []byte
		if held >= maxHeard {
			from = nil
		}
		if len(waiting) == 0 {
			to = nil
		} else {
			first = waiting[0]
		}
		select {
		case message := <-from:
			if message.Rest == 0 { // no host says so much
				waiting = append(waiting, message.Data)
				held += len(message.Data) + answerCost
			}
		case to <- first:
			waiting[0] = nil // what is below the slice would be kept alive with it
			waiting = waiting[1:]
			held -= len(first) + answerCost
		case <-ctx.Done():
			return
		}
	}
}

// change passes on whether anything can be heard; only the newest counts.
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
	return publish(conn, c.channel, request)
}

// Answers returns what is published on the channel of answers, by anybody. What is
// longer than 256 KiB, which no host says, and what is published while the connection is lost does not come.
func (c *Client) Answers() <-chan []byte { return c.answers }

// Waiting reports whether there is an answer that was not taken from Answers yet.
func (c *Client) Waiting() bool { return c.waiting.Load() > 0 }

// Changes returns why no answers come for the time being, and nil when they come again.
func (c *Client) Changes() <-chan error { return c.changes }

// Close ends the listening.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}
