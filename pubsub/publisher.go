package pubsub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
)

// LastAttempt is the time for the messages that are left when a publisher is closed.
const LastAttempt = 2 * time.Second

const (
	// gathering is how long messages are held back after an outage. Who listens to
	// them has lost the connection as well, and needs a moment to come back.
	gathering = 1500 * time.Millisecond
	// moving is how far apart two that follow the sentinels are at most when the master
	// changes: the sentinels learn of it within 2 s, and are asked every 2 s.
	moving = 5 * time.Second
)

// A Publisher publishes messages in order, over a connection of its own that it
// opens at once and keeps. While Redis is away the messages wait, 16 MiB of them
// at most; the newest are kept. What was sent and not answered when a
// connection ends is sent again: twice is better than never.
type Publisher struct {
	server  *Server
	channel string
	state   func(error)
	log     logrus.FieldLogger
	queue   queue

	wake    chan struct{} // holds a token when there is something to publish
	check   chan struct{} // holds a token when somebody wants a connection that lives
	closing chan struct{}
	done    chan struct{}
	cancel  func() // ends whatever the publisher waits for

	// Of the goroutine that publishes.
	delay   *backoff.ExponentialBackOff
	trouble outage
	hold    time.Duration // how long messages are held back after the outage
	master  string        // address of the master that had the last connection
	drops   drops

	mu      sync.Mutex
	checked chan struct{} // closed when a connection was found to live, or none could be opened
}

// NewPublisher returns a publisher that runs until Close. If state is not nil,
// it is called with nil when messages can be published, and else with why they cannot.
func NewPublisher(server *Server, channel string, state func(error), log logrus.FieldLogger) *Publisher {
	if state == nil {
		state = func(error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{server: server, channel: channel, state: state, log: log, cancel: cancel,
		wake: make(chan struct{}, 1), check: make(chan struct{}, 1), checked: make(chan struct{}),
		closing: make(chan struct{}), done: make(chan struct{}),
		delay: newReconnectDelay(server.longestDelay()), trouble: outage{log: log}, drops: drops{log: log}}
	if server.Master != "" {
		p.queue.keep = moving
	}
	go p.run(ctx)
	return p
}

// Publish takes a message, which must not be changed afterwards. It never blocks.
func (p *Publisher) Publish(message []byte) {
	p.queue.push(message)
	remind(p.wake)
}

// Lost returns how many messages were dropped so far without having been published.
func (p *Publisher) Lost() int64 {
	_, dropped := p.queue.count()
	return dropped
}

// Await makes sure that there is a connection: one that is open is asked for a
// sign of life, else one is tried at once. It returns when there is one, when none
// could be opened, or when the context ends.
func (p *Publisher) Await(ctx context.Context) {
	p.mu.Lock()
	checked := p.checked
	p.mu.Unlock()
	remind(p.check)
	select {
	case <-checked:
	case <-p.done:
	case <-ctx.Done():
	}
}

// Close makes one last attempt for what waits and ends the publisher.
func (p *Publisher) Close() {
	close(p.closing)
	defer time.AfterFunc(LastAttempt, p.cancel).Stop()
	<-p.done
	p.cancel()
}

// run publishes whatever comes, over any number of connections, until Close.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	for last := false; ; {
		if waiting, _ := p.queue.count(); waiting == 0 && isClosed(p.closing) {
			return
		}
		err := p.session(ctx)
		switch {
		case err == nil:
			return
		case ctx.Err() != nil:
			p.giveUp(fmt.Errorf("not answered within %v", LastAttempt))
			return
		case last:
			p.giveUp(err)
			return
		}
		p.hold = max(p.hold, gathering)
		p.state(err)
		p.trouble.say(err, p.predicament())
		p.drops.say(p.queue.count())
		select {
		case <-p.check:
		case <-time.After(p.delay.NextBackOff()):
		case <-p.closing:
			last = true
		}
	}
}

// predicament says what an outage means: a few words for the log.
func (p *Publisher) predicament() string {
	if waiting, _ := p.queue.count(); waiting > 0 {
		return "results wait"
	}
	return "results cannot be published"
}

// giveUp drops what is left when the last attempt has failed.
func (p *Publisher) giveUp(err error) {
	if waiting, _ := p.queue.count(); waiting > 0 {
		p.log.WithField("lost", waiting).WithError(err).Error("results not published")
		p.queue.clear()
	}
}

// session connects once and publishes until something breaks. It returns nil
// when the publisher is closed and nothing is left.
func (p *Publisher) session(ctx context.Context) error {
	conn, err := p.open(ctx)
	if err != nil {
		p.tellChecked()
		return err
	}
	defer conn.Close()
	p.nowConnected()
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	for {
		waiting, dropped := p.queue.count()
		p.drops.say(waiting, dropped)
		if waiting == 0 {
			if isClosed(p.closing) {
				return nil
			}
			if err := p.pause(conn, ticker.C); err != nil {
				return err
			}
		}
		if err := p.publish(conn); err != nil {
			return err
		}
	}
}

// open returns a connection on which the server has answered and taken the first
// of what waits. A server that hangs accepts connections all the same: if it were sent
// everything again on each of them, it would publish it as often when it wakes.
func (p *Publisher) open(ctx context.Context) (redis.Conn, error) {
	conn, err := p.server.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err = ping(conn, answerTimeout); err == nil {
		p.tellChecked()
		p.follow(conn)
		p.gather(ctx)
		err = p.publish(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// follow takes note of the master that a connection leads to. When it is another
// one, those who listen may have moved before, and have missed what was
// published on the former one; or they will move later.
func (p *Publisher) follow(conn redis.Conn) {
	master := masterOf(conn)
	if p.master != "" && master != p.master {
		p.hold = moving
		p.queue.recall()
	}
	p.master = master
}

// gather gives those who listen the time to come back after an outage.
func (p *Publisher) gather(ctx context.Context) {
	select {
	case <-time.After(p.hold):
	case <-p.closing:
	case <-ctx.Done():
	}
}

// pause waits for something to publish, and asks for signs of life meanwhile.
func (p *Publisher) pause(conn redis.Conn, tick <-chan time.Time) error {
	select {
	case <-p.wake:
	case <-p.closing:
	case <-tick:
		return ping(conn, answerTimeout)
	case <-p.check:
		if err := ping(conn, answerTimeout); err != nil {
			return err
		}
		p.tellChecked()
	}
	return nil
}

// nowConnected ends an outage: the server has taken the first of what waited.
func (p *Publisher) nowConnected() {
	p.delay.Reset()
	p.hold = 0
	if p.trouble.over() {
		p.log.Info("results published again")
	}
	p.state(nil)
}

// tellChecked lets those go on who await a connection.
func (p *Publisher) tellChecked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.checked)
	p.checked = make(chan struct{})
}

// publish sends the oldest messages that wait in one go, and waits for the
// answers. What is not answered goes back to the queue.
func (p *Publisher) publish(conn redis.Conn) error {
	batch := p.queue.take()
	err := p.send(conn, batch)
	for err == nil && len(batch) > 0 {
		if _, err = redis.ReceiveWithTimeout(conn, answerTimeout); err == nil {
			p.queue.answered(batch[0])
			batch = batch[1:]
		}
	}
	if err != nil {
		p.queue.putBack(batch)
		return fmt.Errorf("publish on %s: %w", p.channel, err)
	}
	return nil
}

// send sends messages without waiting for answers.
func (p *Publisher) send(conn redis.Conn, messages [][]byte) error {
	for _, message := range messages {
		if err := conn.Send("PUBLISH", p.channel, message); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// drops remembers what has been logged about dropped messages: that there are
// some, and how many there were once nothing waits any more.
type drops struct {
	log  logrus.FieldLogger
	told int64 // so many have been logged
	open bool  // that there are more has been logged
}

// say logs what is new.
func (d *drops) say(waiting int, dropped int64) {
	switch {
	case dropped == d.told:
	case waiting == 0:
		d.log.WithField("lost", dropped-d.told).Error("results lost")
		d.told, d.open = dropped, false
	case !d.open:
		d.log.WithField("waiting", waiting).Error("results dropped")
		d.open = true
	}
}

// remind puts a token into a channel that holds one.
func remind(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// isClosed reports whether a channel is closed on which nothing is ever sent.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
