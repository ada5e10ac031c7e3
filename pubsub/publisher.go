package pubsub

import (
	"context"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
)

const (
	// maxWaiting is how many messages wait while Redis is away; the newest are kept.
	maxWaiting = 1000
	// LastAttempt is the time for the messages that are left when a publisher is closed.
	LastAttempt = 2 * time.Second
)

// A Publisher publishes messages in order, over a connection of its own that
// it opens when there is something to say. While Redis is away they wait.
type Publisher struct {
	server  *Server
	channel string
	log     logrus.FieldLogger

	wake    chan struct{} // holds a token when there is something to do
	closing chan struct{}
	done    chan struct{}
	cancel  func() // ends whatever the publisher waits for

	mu      sync.Mutex
	waiting [][]byte
	away    bool
	lost    int // messages of this outage
}

// NewPublisher returns a publisher that runs until Close.
func NewPublisher(server *Server, channel string, log logrus.FieldLogger) *Publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{server: server, channel: channel, log: log, cancel: cancel,
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	go p.run(ctx)
	return p
}

// Publish takes a message. It never blocks.
func (p *Publisher) Publish(message []byte) {
	p.mu.Lock()
	p.waiting = append(p.waiting, message)
	p.trim()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close makes one last attempt for what waits and ends the publisher.
func (p *Publisher) Close() {
	close(p.closing)
	defer time.AfterFunc(LastAttempt, p.cancel).Stop()
	<-p.done
	p.cancel()
}

// trim drops the oldest messages of an outage that are too many. The caller holds the lock.
func (p *Publisher) trim() {
	if excess := len(p.waiting) - maxWaiting; p.away && excess > 0 {
		p.waiting = p.waiting[excess:]
		p.lost += excess
	}
}

// takeLost returns how many messages the outage cost, and forgets them.
func (p *Publisher) takeLost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost := p.lost
	p.lost = 0
	return lost
}

// run publishes whatever waits, until Close.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	var conn redis.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	delay := newReconnectDelay()
	trouble := outage{log: p.log}
	for last := false; ; {
		var err error
		conn, err = p.drain(ctx, conn)
		if err == nil && trouble.over() {
			p.log.WithField("lost", p.takeLost()).Info("results published again")
		}
		if last {
			if err != nil {
				p.log.WithError(err).Error("results not published")
			}
			return
		}
		wake, retry := p.wake, (<-chan time.Time)(nil)
		if err != nil {
			trouble.say(err, "results wait")
			wake, retry = nil, time.After(delay.NextBackOff())
		} else {
			delay.Reset()
		}
		select {
		case <-wake:
		case <-retry:
		case <-p.closing:
			last = true
		}
	}
}

// drain publishes all that waits and returns the connection to use next time.
// It waits for each answer as long as the connection lives: a hanging server
// publishes what it was sent when it wakes, and what is sent again comes twice.
func (p *Publisher) drain(ctx context.Context, conn redis.Conn) (redis.Conn, error) {
	for {
		p.mu.Lock()
		if len(p.waiting) == 0 {
			p.away = false
			p.mu.Unlock()
			return conn, nil
		}
		message := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.mu.Unlock()

		used, err := conn != nil, error(nil)
		if !used {
			conn, err = p.server.dial(ctx)
		}
		if err == nil {
			if _, err = conn.Do("PUBLISH", p.channel, message); err == nil {
				continue
			}
			conn.Close()
		}
		conn = nil
		p.mu.Lock()
		p.waiting = append([][]byte{message}, p.waiting...)
		if !used { // a used connection may just have been cut while idle
			p.away = true
			p.trim()
		}
		p.mu.Unlock()
		if !used {
			return nil, err
		}
	}
}
