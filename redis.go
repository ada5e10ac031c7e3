package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 1500 * time.Millisecond
	// pingPeriod and pongMargin together are the time within which a server
	// that hangs, or a network that swallows, is noticed.
	pingPeriod = 5 * time.Second
	pongMargin = 5 * time.Second
	// maxWaiting is how many results wait while Redis is away; the newest are kept.
	maxWaiting = 1000
	// lastAttempt is the time for the results that are left at a stop.
	lastAttempt = 2 * time.Second
)

// A redisServer is an address and what opens it.
type redisServer struct {
	address        string // host:port
	user, password string // empty: no AUTH
	tls            bool
	cas            *x509.CertPool // nil: the system's
}

// dial connects and authenticates. The connection is closed when the context ends.
func (s redisServer) dial(ctx context.Context) (redis.Conn, error) {
	connect := func(ctx context.Context, network, address string) (net.Conn, error) {
		// A peer that is gone without a word is noticed by the kernel, a hanging one by pings.
		dialer := net.Dialer{Timeout: dialTimeout, ControlContext: limitSilence, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: pingPeriod, Interval: pingPeriod, Count: 2}}
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return boundConn{conn, context.AfterFunc(ctx, func() { conn.Close() })}, nil
	}
	conn, err := redis.DialContext(ctx, "tcp", s.address,
		redis.DialContextFunc(connect),
		redis.DialUseTLS(s.tls),
		redis.DialTLSConfig(&tls.Config{RootCAs: s.cas}),
		redis.DialTLSHandshakeTimeout(pingPeriod),
		redis.DialWriteTimeout(pingPeriod))
	if err != nil {
		return nil, err
	}
	// Not left to DialUsername, which skips AUTH for a user without a password.
	if credentials := (redis.Args{}); s.user != "" || s.password != "" {
		if s.user != "" {
			credentials = credentials.Add(s.user)
		}
		if _, err := redis.DoWithTimeout(conn, pingPeriod, "AUTH", credentials.Add(s.password)...); err != nil {
			conn.Close()
			return nil, fmt.Errorf("AUTH: %w", err)
		}
	}
	return conn, nil
}

// limitSilence makes the kernel give a connection up when what was sent is not
// acknowledged; by itself it would try for a quarter of an hour (tcp(7), TCP_USER_TIMEOUT).
func limitSilence(_ context.Context, _, _ string, socket syscall.RawConn) error {
	var err error
	control := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((pingPeriod + pongMargin).Milliseconds()))
	})
	return errors.Join(control, err)
}

// A boundConn is a connection that a context closes.
type boundConn struct {
	net.Conn
	release func() bool // from the context
}

// Close implements net.Conn.
func (c boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// newReconnectDelay returns the waits between attempts: 100 ms at first, and
// short enough in the end that dialing and waiting together stay below 6 s.
func newReconnectDelay() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 125 * time.Millisecond, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: 3500 * time.Millisecond}
}

// An outage remembers what has been logged about it: each cause is said once.
type outage struct {
	log    logrus.FieldLogger
	causes map[string]bool
}

// say logs a failure, unless this outage had one for the same cause before.
func (o *outage) say(err error, message string) {
	cause := err
	for next := err; next != nil; next = errors.Unwrap(next) {
		cause = next // the innermost: addresses and ports differ from try to try
	}
	level := logrus.WarnLevel
	var refusal redis.Error
	switch {
	case o.causes[cause.Error()]:
		level = logrus.DebugLevel
	case errors.As(err, &refusal): // by the server; time alone does not mend that
		level = logrus.ErrorLevel
	}
	if o.causes == nil {
		o.causes = map[string]bool{}
	}
	o.causes[cause.Error()] = true
	o.log.WithError(err).Log(level, message)
}

// over forgets the outage; it returns whether there was one.
func (o *outage) over() bool {
	had := len(o.causes) > 0
	o.causes = nil
	return had
}

// A subscriber receives what is published on a channel, for as long as its
// context lives, over any number of connections.
type subscriber struct {
	server   redisServer
	channel  string
	messages chan<- []byte
	// state is told when the subscription begins (nil) and why there is none.
	state func(error)
	log   logrus.FieldLogger
}

// run subscribes again and again until the context ends.
func (s *subscriber) run(ctx context.Context) {
	delay := newReconnectDelay()
	trouble := outage{log: s.log}
	for {
		subscribed := false
		err := s.session(ctx, func() {
			subscribed = true
			delay.Reset()
			trouble.over()
			s.state(nil)
			s.log.Info("subscribed")
		})
		if ctx.Err() != nil {
			return
		}
		s.state(err)
		if subscribed {
			trouble.say(err, "subscription lost")
		} else {
			trouble.say(err, "not subscribed")
		}
		select {
		case <-time.After(delay.NextBackOff()):
		case <-ctx.Done():
			return
		}
	}
}

// session subscribes once and receives until something breaks.
func (s *subscriber) session(ctx context.Context, subscribed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.server.dial(ctx)
	if err != nil {
		return err
	}
	channel := redis.PubSubConn{Conn: conn}
	defer channel.Close()
	if err := channel.Subscribe(s.channel); err != nil {
		return err
	}
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	for {
		switch v := channel.ReceiveWithTimeout(pingPeriod + pongMargin).(type) {
		case redis.Subscription:
			if v.Kind != "subscribe" {
				return errors.New("unsubscribed by the server")
			}
			subscribed()
			pinging.Go(func() { ping(ctx, channel) })
		case redis.Message:
			select {
			case s.messages <- v.Data:
			case <-ctx.Done():
				return ctx.Err()
			}
		case error:
			return v
		}
	}
}

// ping keeps a subscribed connection talking until the context ends. A failure
// shows at the receiver, by the missing answer.
func ping(ctx context.Context, channel redis.PubSubConn) {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = channel.Ping("")
		case <-ctx.Done():
			return
		}
	}
}

// A publisher publishes messages in order, over a connection of its own that
// it opens when there is something to say. While Redis is away they wait.
type publisher struct {
	server  redisServer
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

// newPublisher returns a publisher that runs until close.
func newPublisher(server redisServer, channel string, log logrus.FieldLogger) *publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &publisher{server: server, channel: channel, log: log, cancel: cancel,
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	go p.run(ctx)
	return p
}

// Publish takes a message. It never blocks.
func (p *publisher) Publish(message []byte) {
	p.mu.Lock()
	p.waiting = append(p.waiting, message)
	p.trim()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// close makes one last attempt for what waits and ends the publisher.
func (p *publisher) close() {
	close(p.closing)
	defer time.AfterFunc(lastAttempt, p.cancel).Stop()
	<-p.done
	p.cancel()
}

// trim drops the oldest messages of an outage that are too many. The caller holds the lock.
func (p *publisher) trim() {
	if excess := len(p.waiting) - maxWaiting; p.away && excess > 0 {
		p.waiting = p.waiting[excess:]
		p.lost += excess
	}
}

// takeLost returns how many messages the outage cost, and forgets them.
func (p *publisher) takeLost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost := p.lost
	p.lost = 0
	return lost
}

// run publishes whatever waits, until close.
func (p *publisher) run(ctx context.Context) {
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
func (p *publisher) drain(ctx context.Context, conn redis.Conn) (redis.Conn, error) {
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

// ask publishes a request and returns how many listen on its channel. From
// before that on it hands over what is published on the result channel. The
// channel of errors gets one when the results end before the context does.
func (s redisServer) ask(ctx context.Context, channel, resultChannel string, request []byte) (int, <-chan []byte, <-chan error, error) {
	results, broken, ready := make(chan []byte, maxWaiting), make(chan error, 1), make(chan struct{})
	go func() {
		listener := subscriber{server: s, channel: resultChannel, messages: results}
		broken <- listener.session(ctx, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-broken:
		return 0, nil, nil, err
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return 0, nil, nil, err
	}
	defer conn.Close()
	listeners, err := redis.Int(redis.DoWithTimeout(conn, pingPeriod, "PUBLISH", channel, request))
	return listeners, results, broken, err
}
