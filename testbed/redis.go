package testbed

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A Redis is a real redis-server.
type Redis struct {
	*Process
	Port     int
	TLSPort  int    // 0: none
	Password string // what the test itself needs
	args     []string
}

// StartRedis starts a redis-server on a free port.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	NeedTools(t, "redis-server")
	r := &Redis{args: args}
	for range 5 { // others look for free ports at the same time
		r.Port = FreePort(t)
		if r.start(t) {
			return r
		}
	}
	t.Fatal("redis-server does not start: ", r.Output.String())
	return nil
}

// Restart starts the server again, on the same port.
func (r *Redis) Restart(t testing.TB) {
	t.Helper()
	if !r.start(t) {
		t.Fatal("redis-server does not start again: ", r.Output.String())
	}
}

// start starts the server and returns whether it listens. That something listens on
// its port does not say that it is this one.
func (r *Redis) start(t testing.TB) (listens bool) {
	t.Helper()
	args := append([]string{"--port", strconv.Itoa(r.Port), "--save", "", "--dir", t.TempDir()}, r.args...)
	r.Process = Start(t, exec.Command("redis-server", args...))
	Eventually(t, 30*time.Second, "redis-server listens or ends", func() bool {
		listens = strings.Contains(r.Output.String(), "Ready to accept connections")
		return listens || r.HasExited()
	})
	return listens
}

// Address returns host:port.
func (r *Redis) Address() string { return "127.0.0.1:" + strconv.Itoa(r.Port) }

// TLSAddress returns host:port for TLS.
func (r *Redis) TLSAddress() string { return "127.0.0.1:" + strconv.Itoa(r.TLSPort) }

// dial connects as the test.
func (r *Redis) dial() (redis.Conn, error) {
	return redis.Dial("tcp", r.Address(), redis.DialPassword(r.Password),
		redis.DialConnectTimeout(10*time.Second), redis.DialReadTimeout(10*time.Second))
}

// Do runs a command.
func (r *Redis) Do(t testing.TB, command string, args ...any) any {
	t.Helper()
	conn, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := conn.Do(command, args...)
	if err != nil {
		t.Fatal(command, ": ", err)
	}
	return reply
}

// Publish publishes a request.
func (r *Redis) Publish(t testing.TB, request string) { r.Do(t, "PUBLISH", "capture", request) }

// AwaitSubscribers waits until the request channel has so many subscribers.
func (r *Redis) AwaitSubscribers(t testing.TB, within time.Duration, n int64) {
	t.Helper()
	Eventually(t, within, "daemon is subscribed", func() bool {
		conn, err := r.dial()
		if err != nil {
			return false
		}
		defer conn.Close()
		counts, err := redis.Int64Map(conn.Do("PUBSUB", "NUMSUB", "capture"))
		return err == nil && counts["capture"] == n
	})
}

// Hear subscribes to a channel and returns what is published there from now on.
func (r *Redis) Hear(t testing.TB, channel string, options ...redis.DialOption) <-chan []byte {
	t.Helper()
	conn, err := redis.Dial("tcp", r.Address(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	subscription := redis.PubSubConn{Conn: conn}
	if err := subscription.Subscribe(channel); err != nil {
		t.Fatal(err)
	}
	heard, ready := make(chan []byte, 100_000), make(chan struct{})
	go func() {
		for {
			switch v := subscription.Receive().(type) {
			case redis.Subscription:
				close(ready)
			case redis.Message:
				heard <- v.Data
			case error:
				return
			}
		}
	}()
	<-ready
	return heard
}
