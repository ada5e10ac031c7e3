package pubsub

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
)

// A Subscriber receives what is published on a channel, for as long as its
// context lives, over any number of connections.
type Subscriber struct {
	Server   *Server
	Channel  string
	Messages chan<- []byte
	// State is told when the subscription begins (nil) and why there is none.
	State func(error)
	// Before, if not nil, is called when the server was reached, before each
	// subscription. Its context ends after a short time.
	Before func(context.Context)
	Log    logrus.FieldLogger

	longest time.Duration // between attempts; 0: longDelay
}

// beforeTimeout is how long what comes before a subscription may hold it up.
const beforeTimeout = 2 * time.Second

// Run subscribes again and again until the context ends.
func (s *Subscriber) Run(ctx context.Context) {
	delay := newReconnectDelay(cmp.Or(s.longest, s.Server.longestDelay()))
	trouble := outage{log: s.Log}
	for {
		subscribed := false
		err := s.session(ctx, func() {
			subscribed = true
			delay.Reset()
			trouble.over()
			s.State(nil)
			s.Log.Info("subscribed")
		})
		if ctx.Err() != nil {
			return
		}
		s.State(err)
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
func (s *Subscriber) session(ctx context.Context, subscribed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.Server.dial(ctx)
	if err != nil {
		return err
	}
	channel := redis.PubSubConn{Conn: conn}
	defer channel.Close()
	if s.Before != nil {
		before, cancel := context.WithTimeout(ctx, beforeTimeout)
		s.Before(before)
		cancel()
	}
	if err := channel.Subscribe(s.Channel); err != nil {
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
			pinging.Go(func() { keepTalking(ctx, channel) })
		case redis.Message:
			select {
			case s.Messages <- v.Data:
			case <-ctx.Done():
				return ctx.Err()
			}
		case error:
			return v
		}
	}
}

// keepTalking keeps a subscribed connection talking until the context ends. A failure
// shows at the receiver, by the missing answer.
func keepTalking(ctx context.Context, channel redis.PubSubConn) {
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
