package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	Messages chan<- Message
	// TooLong, if not nil, is called for each message that is longer than MaxMessage,
	// before it is handed over.
	TooLong func()
	// State is called with nil when the subscription begins, and else with why there is none.
	State func(error)
	// Before, if not nil, is called when the server was reached, before each
	// subscription. Its context ends after a short time.
	Before func(context.Context)
	Log    logrus.FieldLogger

	longest time.Duration // between attempts; 0: longDelay
	keep    int           // bytes of a message; 0: MaxMessage
}

// MaxMessage is how many bytes of a message are kept.
const MaxMessage = 64 << 10

// A Message is what was published at one time. Of one that is longer than MaxMessage
// the rest was not kept.
type Message struct {
	Data []byte
	Rest int64 // bytes that followed Data
}

// Len returns how many bytes were published.
func (m Message) Len() int64 { return int64(len(m.Data)) + m.Rest }

// beforeTimeout is how long what comes before a subscription may hold it up.
const beforeTimeout = 2 * time.Second

// Run subscribes again and again until the context ends.
func (s *Subscriber) Run(ctx context.Context) {
	delay := newReconnectDelay(cmp.Or(s.longest, s.Server.longestDelay()))
	trouble := outage{log: s.Log}
	long := cuts{log: s.Log}
	for {
		subscribed := false
		err := s.session(ctx, &long, func() {
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
func (s *Subscriber) session(ctx context.Context, long *cuts, subscribed func()) error {
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
	replies := repliesOf(conn)
	replies.cutMessages(int64(cmp.Or(s.keep, MaxMessage)))
	if err := channel.Subscribe(s.Channel); err != nil {
		return err
	}
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	for confirmed := false; ; {
		switch v := channel.ReceiveWithTimeout(pingPeriod + pongMargin).(type) {
		case redis.Subscription:
			if err := s.checkConfirmation(v); err != nil {
				return err
			}
			if !confirmed {
				confirmed = true
				subscribed()
				pinging.Go(func() { keepTalking(ctx, channel) })
			}
		case redis.Message:
			if v.Channel != s.Channel || !confirmed {
				return fmt.Errorf("%s: message on a channel that was not subscribed", replies.address)
			}
			select {
			case s.Messages <- s.receive(v.Data, replies, long):
			case <-ctx.Done():
				return ctx.Err()
			}
		case error:
			return explainOdd(conn, v)
		}
	}
}

// checkConfirmation returns what is wrong with what a server says about a subscription.
func (s *Subscriber) checkConfirmation(v redis.Subscription) error {
	switch {
	case v.Kind != "subscribe":
		return errors.New("unsubscribed by the server")
	case v.Channel != s.Channel:
		return fmt.Errorf("the server has subscribed another channel than %s", s.Channel)
	}
	return nil
}

// receive returns the message that the server has sent data of.
func (s *Subscriber) receive(data []byte, replies *replyReader, long *cuts) Message {
	keep := cmp.Or(s.keep, MaxMessage)
	if len(data) <= keep {
		return Message{Data: data}
	}
	message := Message{data[:keep], replies.cutLength() - int64(keep)}
	long.add(message)
	if s.TooLong != nil {
		s.TooLong()
	}
	return message
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

// cutsPeriod is the least time between two lines in the log about messages that are too long.
const cutsPeriod = time.Minute

// cuts logs messages that are too long, but not each of them.
type cuts struct {
	log    logrus.FieldLogger
	at     time.Time // of the latest line
	unsaid int       // messages since then
}

// add takes note of a message.
func (c *cuts) add(m Message) {
	c.unsaid++
	if !c.at.IsZero() && time.Since(c.at) < cutsPeriod {
		return
	}
	c.log.WithFields(logrus.Fields{"bytes": m.Len(), "limit": MaxMessage, "messages": c.unsaid}).Warn("message cut off")
	c.at, c.unsaid = time.Now(), 0
}
