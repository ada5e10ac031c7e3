package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"

	"pcapdaemon/testbed"
)

// logTo returns a log that is written to w.
func logTo(w io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	return log
}

// quietLog is a log that nobody reads.
func quietLog() *logrus.Logger { return logTo(io.Discard) }

// startSubscriber runs a subscriber until the test ends. The state is "subscribed" or the last error.
func startSubscriber(t *testing.T, server *Server, log *logrus.Logger) (messages chan []byte, state func() string) {
	t.Helper()
	received := make(chan Message)
	var last atomic.Value
	last.Store("")
	s := Subscriber{Server: server, Channel: "capture", Messages: received, Log: log, State: func(err error) {
		if err == nil {
			err = errors.New("subscribed")
		}
		last.Store(err.Error())
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(received)
		s.Run(ctx)
	}()
	messages = make(chan []byte, 100)
	go func() {
		for message := range received {
			messages <- message.Data
		}
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Error("subscriber has not ended")
		}
	})
	return messages, func() string { return last.Load().(string) }
}

// checkReceives publishes and expects the message.
func checkReceives(t *testing.T, r *testbed.Redis, messages <-chan []byte) {
	t.Helper()
	text := fmt.Sprint(time.Now().UnixNano())
	r.Publish(t, text)
	select {
	case got := <-messages:
		if string(got) != text {
			t.Errorf("want %s, got %s", text, got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("published message has not arrived")
	}
}

func TestSubscriberSurvivesOutages(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	var log testbed.Transcript
	messages, state := startSubscriber(t, reach(r), logTo(&log))
	subscribed := func() bool { return state() == "subscribed" }
	testbed.Eventually(t, 30*time.Second, "subscribed", subscribed)
	checkReceives(t, r, messages)

	r.Do(t, "CLIENT", "KILL", "TYPE", "pubsub")
	r.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, r, messages)

	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 30*time.Second)
	time.Sleep(4 * time.Second) // long enough for the waits to have grown
	if subscribed() {
		t.Error("subscribed, without a server")
	}
	r.Restart(t)
	r.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, r, messages)
	if lines := testbed.ReadLines(log.String()); len(lines) > 9 {
		t.Errorf("want a handful of lines for two outages, got %d:\n%s", len(lines), log.String())
	}
	began := time.Now()
	r.Do(t, "CLIENT", "KILL", "TYPE", "pubsub") // the waits begin anew
	r.AwaitSubscribers(t, 30*time.Second, 1)
	if took := time.Since(began); took > 4*longDelay/5-500*time.Millisecond { // no wait as it had grown
		t.Errorf("want the first attempt after an outage at once, took %v", took)
	}
}

// TestSubscriberLogsEachOutage: twice the same cause is twice a line.
func TestSubscriberLogsEachOutage(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	var log testbed.Transcript
	_, state := startSubscriber(t, reach(r), logTo(&log))
	const outages = 3
	for n := range outages {
		testbed.Eventually(t, 30*time.Second, "subscribed", func() bool { return state() == "subscribed" })
		if lost := strings.Count(log.String(), "subscription lost"); lost != n {
			t.Errorf("want %d outages in the log, got %s", n, log.String())
		}
		r.Do(t, "CLIENT", "KILL", "TYPE", "pubsub")
		testbed.Eventually(t, 30*time.Second, "the outage is noticed", func() bool { return state() != "subscribed" })
	}
}

// TestSubscriberMovesOn: a server hangs, and its address leads to another one.
func TestSubscriberMovesOn(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	hanging, other := testbed.StartRedis(t), testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, hanging.Address())
	messages, _ := startSubscriber(t, &Server{Addresses: []string{proxy.Address}}, quietLog())
	hanging.AwaitSubscribers(t, 30*time.Second, 1)
	hanging.Signal(t, syscall.SIGSTOP)
	proxy.Lead(other.Address())
	other.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, other, messages)
}

// TestSubscriberWithoutNames: the name server dies with the server, and stays dead.
func TestSubscriberWithoutNames(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	server := &Server{Addresses: []string{fmt.Sprint("redis.example:", r.Port)}}
	var dead atomic.Bool
	server.names.resolve = func(ctx context.Context, name string) ([]string, error) {
		if dead.Load() {
			return answerAfter(time.Hour)(ctx, name)
		}
		return []string{"127.0.0.1"}, nil
	}
	messages, _ := startSubscriber(t, server, quietLog())
	r.AwaitSubscribers(t, 30*time.Second, 1)
	dead.Store(true)
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 30*time.Second)
	time.Sleep(12 * time.Second) // longer than a look-up
	r.Restart(t)
	r.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, r, messages)
}

func TestSubscriberAwayAtStart(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	r.Signal(t, syscall.SIGTERM)
	r.Wait(t, 30*time.Second)
	messages, state := startSubscriber(t, reach(r), quietLog())
	testbed.Eventually(t, 30*time.Second, "connection refused", func() bool { return strings.Contains(state(), "refused") })
	time.Sleep(2 * time.Second)
	r.Restart(t)
	r.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, r, messages)
}

// TestSubscriberStays: silence on the channel is no outage.
func TestSubscriberStays(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	var log testbed.Transcript
	messages, _ := startSubscriber(t, reach(r), logTo(&log))
	r.AwaitSubscribers(t, 30*time.Second, 1)
	time.Sleep(pingPeriod + pongMargin + 2*time.Second)
	checkReceives(t, r, messages)
	if lines := testbed.ReadLines(log.String()); len(lines) != 1 {
		t.Errorf("want one subscription, got %s", log.String())
	}
}

func TestSubscriberNoticesHangingServer(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	messages, state := startSubscriber(t, reach(r), quietLog())
	testbed.Eventually(t, 30*time.Second, "subscribed", func() bool { return state() == "subscribed" })
	r.Signal(t, syscall.SIGSTOP)
	testbed.Eventually(t, 30*time.Second, "the hanging server is noticed", func() bool { return state() != "subscribed" })
	r.Signal(t, syscall.SIGCONT)
	r.AwaitSubscribers(t, 30*time.Second, 1)
	testbed.Eventually(t, 30*time.Second, "subscribed again", func() bool { return state() == "subscribed" })
	checkReceives(t, r, messages)
}

func TestSubscriberRefused(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">secret", "resetchannels", "-@all", "+ping")
	r.Do(t, "ACL", "SETUSER", "default", "on", ">other")
	for name, test := range map[string]struct{ user, password, want string }{
		"wrong password": {"host", "wrong", "WRONGPASS"},
		"no password":    {"", "", "NOAUTH"},
		"not permitted":  {"host", "secret", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			var log testbed.Transcript
			server := &Server{Addresses: []string{r.Address()}, User: test.user, Password: test.password}
			_, state := startSubscriber(t, server, logTo(&log))
			testbed.Eventually(t, 30*time.Second, "refused with "+test.want, func() bool {
				return strings.Contains(state(), test.want)
			})
			if !strings.Contains(log.String(), "level=error") || strings.Contains(log.String(), "secret") {
				t.Errorf("want an error without the password in the log, got %s", log.String())
			}
		})
	}
}

// TestSubscriberWithoutAUTH: a server that does not know the command repeats what
// it was sent, and nobody reads that.
func TestSubscriberWithoutAUTH(t *testing.T) {
	r := testbed.StartRedis(t, "--rename-command", "AUTH", "")
	var log testbed.Transcript
	server := &Server{Addresses: []string{r.Address()}, User: "host", Password: "geheim"}
	_, state := startSubscriber(t, server, logTo(&log))
	testbed.Eventually(t, 30*time.Second, "refused", func() bool { return strings.Contains(state(), "AUTH: ERR") })
	if text := state() + log.String(); strings.Contains(text, "geheim") {
		t.Errorf("the password is shown: %s", text)
	}
}

func TestSubscriberWorksOnceAllowed(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">secret", "resetchannels", "-@all")
	messages, state := startSubscriber(t, reachAs(r, "host"), quietLog())
	testbed.Eventually(t, 30*time.Second, "not permitted", func() bool { return strings.Contains(state(), "NOPERM") })
	permit(t, r, "host", hostACL)
	r.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, r, messages)
}

// TestSubscriberCutsMessages: one that is too long is not kept, whatever its length, and
// the ones after it come.
func TestSubscriberCutsMessages(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t, "--client-output-buffer-limit", "pubsub 0 0 0", "--proto-max-bulk-len", "1gb")
	received := make(chan Message, 10)
	var log testbed.Transcript
	var long atomic.Int64
	startSubscriberOf(t, Subscriber{Server: reach(r), Channel: "capture", Messages: received, Log: logTo(&log),
		State: func(error) {}, TooLong: func() { long.Add(1) }})
	r.AwaitSubscribers(t, 30*time.Second, 1)
	want := int64(0)
	for _, size := range []int{0, 1, MaxMessage - 1, MaxMessage, MaxMessage + 1, MaxMessage + 2, 2 * MaxMessage,
		16 << 20, 64 << 20, 3} {
		text := strings.Repeat("0123456789", size/10+1)[:size]
		r.Publish(t, text)
		select {
		case got := <-received:
			if got.Len() != int64(size) || string(got.Data) != text[:min(size, MaxMessage)] {
				t.Errorf("want %d bytes and their beginning, got %d, %d of them kept", size, got.Len(), len(got.Data))
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("a message of %d bytes has not come", size)
		}
		if size > MaxMessage {
			want++
		}
	}
	if got := long.Load(); got != want {
		t.Errorf("want %d counted, got %d", want, got)
	}
	if n := strings.Count(log.String(), "message cut off"); n != 1 || !strings.Contains(log.String(), "bytes=65537") {
		t.Errorf("want one line that says how long, got %s", log.String())
	}
	if n := strings.Count(log.String(), "subscribed"); n != 1 {
		t.Errorf("want one subscription, got %s", log.String())
	}
}

// startSubscriberOf runs a subscriber until the test ends.
func startSubscriberOf(t *testing.T, s Subscriber) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// TestSubscriberKeepsLittle: a message of 450 MB takes the memory of a small one.
func TestSubscriberKeepsLittle(t *testing.T) {
	const size = 450_000_000
	chunk := make([]byte, 1<<20)
	fake := startFakeServer(t, func(to io.Writer, words []string) {
		if words[0] != "SUBSCRIBE" {
			return
		}
		fmt.Fprintf(to, "*3\r\n$9\r\nsubscribe\r\n$7\r\ncapture\r\n:1\r\n"+
			"*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$%d\r\n", size)
		for left := size; left > 0; left -= len(chunk) {
			if _, err := to.Write(chunk[:min(left, len(chunk))]); err != nil {
				return
			}
		}
		fmt.Fprint(to, "\r\n*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$4\r\nnext\r\n")
	})
	received := make(chan Message, 2)
	took := allocated(func() {
		startSubscriberOf(t, Subscriber{Server: &Server{Addresses: []string{fake}}, Channel: "capture",
			Messages: received, Log: quietLog(), State: func(error) {}})
		for _, want := range []int64{size, 4} {
			select {
			case got := <-received:
				if got.Len() != want {
					t.Errorf("want %d bytes, got %d", want, got.Len())
				}
			case <-time.After(60 * time.Second):
				t.Fatal("no message")
			}
		}
	})
	if took > 4<<20 {
		t.Errorf("want little memory taken, got %d bytes", took)
	}
}

// TestSubscriberWaitsForLittle: what comes before a subscription holds it up for a short time.
func TestSubscriberWaitsForLittle(t *testing.T) {
	r := testbed.StartRedis(t)
	left := make(chan time.Duration, 100)
	startSubscriberOf(t, Subscriber{Server: reach(r), Channel: "capture", Messages: make(chan Message), Log: quietLog(),
		State: func(error) {}, Before: func(ctx context.Context) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
		}})
	if got := <-left; got > beforeTimeout || got < -time.Minute {
		t.Errorf("want at most %v, got %v", beforeTimeout, got)
	}
}

// TestCutsAreLoggedOnceAMinute: with how many there were meanwhile.
func TestCutsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log testbed.Transcript
		c := cuts{log: logTo(&log)}
		for range 150 { // seconds
			c.add(Message{Data: make([]byte, MaxMessage), Rest: 1})
			time.Sleep(time.Second)
		}
		lines := testbed.ReadLines(log.String())
		if len(lines) != 3 || !strings.Contains(lines[2], "messages=60") {
			t.Errorf("want three lines, the last one of 60 messages, got %s", log.String())
		}
	})
}

// TestSkippingEnds: a message that does not end holds nobody up for long.
func TestSkippingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		var writing sync.WaitGroup
		defer writing.Wait()
		defer near.Close()
		writing.Go(func() {
			fmt.Fprintf(far, "*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$%d\r\n%s", maxSkipped, make([]byte, MaxMessage))
			for err := error(nil); err == nil; _, err = far.Write(make([]byte, maxLine)) {
				time.Sleep(time.Second)
			}
		})
		r := newReplyReader(near, "redis.example:6379")
		r.cutMessages(MaxMessage)
		began := time.Now()
		_, err := redis.ReceiveWithTimeout(redis.NewConn(r, 0, 0), pingPeriod+pongMargin)
		if took := time.Since(began); !mentions(err, "has not ended within 30s") || took > skipTimeout+2*time.Second {
			t.Errorf("want it given up after %v, got %v after %v", skipTimeout, err, took)
		}
	})
}

// pubsubReply returns what a server says about a channel to who has subscribed.
func pubsubReply(kind, channel, last string) string {
	return fmt.Sprintf("*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n%s\r\n", len(kind), kind, len(channel), channel, last)
}

// TestSubscriberBelievesNoOther: only the confirmation of its own channel counts, and only
// once, and only messages of that channel come.
func TestSubscriberBelievesNoOther(t *testing.T) {
	t.Parallel()
	good := pubsubReply("subscribe", "capture", ":1")
	for name, test := range map[string]struct {
		answer, want  string
		subscriptions int
	}{
		"as asked":               {good, "subscribed", 1},
		"another channel":        {pubsubReply("subscribe", "other", ":1"), "another channel than capture", 0},
		"a part of its name":     {pubsubReply("subscribe", "captur", ":1"), "another channel than capture", 0},
		"a pattern":              {pubsubReply("psubscribe", "capture", ":1"), "unsubscribed by the server", 0},
		"unsubscribed":           {pubsubReply("unsubscribe", "capture", ":0"), "unsubscribed by the server", 0},
		"unsubscribed later":     {good + pubsubReply("unsubscribe", "capture", ":0"), "unsubscribed by the server", 1},
		"another channel later":  {good + pubsubReply("subscribe", "other", ":2"), "another channel than capture", 1},
		"confirmed again":        {strings.Repeat(good, 1000), "subscribed", 1},
		"message of another one": {good + pubsubReply("message", "other", "$1\r\nx"), "not subscribed", 1},
		"message before that":    {pubsubReply("message", "capture", "$1\r\nx"), "not subscribed", 0},
		"long one of another one": {good + pubsubReply("message", "other", "$99999\r\n"+strings.Repeat("x", 99999)),
			"not subscribed", 1},
		"unknown":  {good + pubsubReply("unknown", "capture", ":1"), errNotRedis.Error(), 1},
		"a status": {"+OK\r\n", errNotRedis.Error(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			fake := startFakeServer(t, func(to io.Writer, words []string) {
				if words[0] == "SUBSCRIBE" && calls.Add(1) == 1 {
					fmt.Fprint(to, test.answer)
				}
			})
			var log testbed.Transcript
			messages, state := startSubscriber(t, &Server{Addresses: []string{fake}}, logTo(&log))
			testbed.Eventually(t, 30*time.Second, test.want, func() bool { return strings.Contains(state(), test.want) })
			checkSilence(t, messages, 20*time.Millisecond)
			if n := strings.Count(log.String(), "level=info msg=subscribed"); n != test.subscriptions {
				t.Errorf("want %d subscriptions, got %d: %s", test.subscriptions, n, log.String())
			}
		})
	}
}
