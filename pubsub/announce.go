package pubsub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Announce publishes one message over a connection of its own and returns how many
// listen on the channel. Each address is tried once, and none has more than its
// share of the time that the context, which needs a deadline, leaves; an error
// means that no server has taken the message.
func (s *Server) Announce(ctx context.Context, channel string, message []byte) (listeners int, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, errors.New("announce: no deadline")
	}
	if s.Master != "" {
		conn, err := s.dial(ctx)
		if err == nil {
			listeners, err = announce(conn, channel, message)
		}
		return listeners, inTime(ctx, err)
	}
	left := len(s.Addresses)
	err = s.inTurn(func(address string) (err error) {
		share, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
		left--
		conn, err := s.open(share, address, s.User, s.Password)
		if err == nil {
			listeners, err = announce(conn, channel, message)
		}
		return inTime(share, err)
	})
	return listeners, err
}

// part returns a wait, or half of what is left of the context's time if that is less,
// so that somebody else may be asked after it.
func part(ctx context.Context, wait time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(wait, max(time.Until(deadline)/2, time.Millisecond))
	}
	return wait
}

// inTime returns an error, in plain words if it comes of the end of the context.
func inTime(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("no answer in time")
	}
	return err
}

// announce publishes a message and closes the connection. A server that hangs is not
// sent it: it would publish it when it wakes.
func announce(conn redis.Conn, channel string, message []byte) (listeners int, err error) {
	defer conn.Close()
	if err := ping(conn, pingPeriod); err != nil {
		return 0, err
	}
	return publish(conn, channel, message)
}

// publish publishes a message and returns how many listen on the channel.
func publish(conn redis.Conn, channel string, message []byte) (listeners int, err error) {
	listeners, err = redis.Int(redis.DoWithTimeout(conn, pingPeriod, "PUBLISH", channel, message))
	if err != nil {
		return 0, fmt.Errorf("publish on %s: %w", channel, explainOdd(conn, err))
	}
	return listeners, nil
}
