package pubsub

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"pcapdaemon/testbed"
)

// resultChannel is where the tests publish results.
const resultChannel = "capture-results"

// next returns the next message.
func next(t *testing.T, messages <-chan []byte, within time.Duration) string {
	t.Helper()
	select {
	case message := <-messages:
		return string(message)
	case <-time.After(within):
		t.Fatalf("no message within %v", within)
	}
	panic("unreachable")
}

// checkNumbers expects messages that are the numbers from first to last, in order.
func checkNumbers(t *testing.T, messages <-chan []byte, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		if want, got := strconv.Itoa(n), next(t, messages, 30*time.Second); got != want {
			t.Fatalf("want message %s, got %s", want, got)
		}
	}
}

// checkSilence fails if any message comes within the time.
func checkSilence(t *testing.T, messages <-chan []byte, during time.Duration) {
	t.Helper()
	select {
	case message := <-messages:
		t.Fatalf("a message where none is due: %s", message)
	case <-time.After(during):
	}
}

// publishNumbers publishes the numbers from first to last.
func publishNumbers(p *Publisher, first, last int) {
	for n := first; n <= last; n++ {
		p.Publish(strconv.AppendInt(nil, int64(n), 10))
	}
}

// newPublisher returns a publisher that ends with the test.
func newPublisher(t *testing.T, server *Server, log *logrus.Logger) *Publisher {
	t.Helper()
	p := NewPublisher(server, resultChannel, nil, log)
	t.Cleanup(p.Close)
	return p
}

// pad returns a message that begins with a number and is of a size.
func pad(n, size int) []byte { return fmt.Appendf(nil, "%-*d", size, n) }

// number returns the number that a message begins with.
func number(t *testing.T, message string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(message, &n); err != nil {
		t.Fatalf("message %q: %v", message, err)
	}
	return n
}

func TestPublisherKeepsOrder(t *testing.T) {
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := newPublisher(t, reach(r), quietLog())
	publishNumbers(p, 1, 3000)
	checkNumbers(t, heard, 1, 3000)
}

// TestPublisherIsFast: it does not wait for the answer to one message before it sends the next one.
func TestPublisherIsFast(t *testing.T) {
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	proxy := testbed.StartProxy(t, r.Address())
	proxy.Delay(time.Millisecond)
	p := newPublisher(t, &Server{Addresses: []string{proxy.Address}}, quietLog())
	began := time.Now()
	for n := range 10_000 {
		p.Publish(pad(n, 300))
	}
	for n := range 10_000 {
		if got := number(t, next(t, heard, 30*time.Second)); got != n {
			t.Fatalf("want message %d, got %d", n, got)
		}
	}
	// A second on a machine that has nothing else to do; one by one it would take 20.
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("want 10,000 messages within a second or a few, took %v", took)
	}
}

func TestPublisherKeepsTheNewest(t *testing.T) {
	t.Parallel()
	const size, all = 4 << 10, 5000
	const kept = maxQueue / size
	r := testbed.StartRedis(t)
	r.Signal(t, syscall.SIGTERM)
	r.Wait(t, 30*time.Second)
	var log testbed.Transcript
	p := newPublisher(t, reach(r), logTo(&log))
	for n := range all {
		p.Publish(pad(n, size))
	}
	r.Restart(t)
	heard := r.Hear(t, resultChannel)
	for n := all - kept; n < all; n++ {
		if got := number(t, next(t, heard, 30*time.Second)); got != n {
			t.Fatalf("want message %d, got %d", n, got)
		}
	}
	if want, got := int64(all-kept), p.Lost(); got != want {
		t.Errorf("want %d lost, got %d", want, got)
	}
	line := fmt.Sprintf("level=error msg=\"results lost\" lost=%d", all-kept)
	testbed.Eventually(t, 30*time.Second, line, func() bool { return strings.Contains(log.String(), line) })
	if n := strings.Count(log.String(), "results dropped"); n != 1 {
		t.Errorf("want one line when the first is dropped, got %d", n)
	}
}

// TestPublisherDrainsABacklog: what comes while a long queue goes out costs none of it.
func TestPublisherDrainsABacklog(t *testing.T) {
	t.Parallel()
	const size, first, all = 4 << 10, 3000, 5000 // 12 MiB, then 8 MiB more
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	proxy := testbed.StartProxy(t, "")
	p := newPublisher(t, &Server{Addresses: []string{proxy.Address}}, quietLog())
	for n := range first {
		p.Publish(pad(n, size))
	}
	proxy.Delay(time.Millisecond)
	proxy.Lead(r.Address())
	for n := range all {
		if got := number(t, next(t, heard, 30*time.Second)); got != n {
			t.Fatalf("want message %d, got %d", n, got)
		}
		if more := n + first - 1500; n >= 1500 && more < all {
			p.Publish(pad(more, size))
		}
	}
	if lost := p.Lost(); lost != 0 {
		t.Errorf("want none lost, got %d", lost)
	}
}

// TestPublisherDoesNotRepeat: a server that hangs and wakes publishes each message once.
func TestPublisherDoesNotRepeat(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := newPublisher(t, reach(r), quietLog())
	publishNumbers(p, 0, 0)
	checkNumbers(t, heard, 0, 0)
	r.Signal(t, syscall.SIGSTOP)
	publishNumbers(p, 1, 3)
	time.Sleep(answerTimeout - 4*time.Second)
	r.Signal(t, syscall.SIGCONT)
	checkNumbers(t, heard, 1, 3)
	checkSilence(t, heard, 500*time.Millisecond)
}

// TestPublisherLeavesAHangingServer: its address leads to another one by now.
func TestPublisherLeavesAHangingServer(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	hanging, other := testbed.StartRedis(t), testbed.StartRedis(t)
	late, heard := hanging.Hear(t, resultChannel), other.Hear(t, resultChannel)
	proxy := testbed.StartProxy(t, hanging.Address())
	server := &Server{Addresses: []string{proxy.Address}}
	var log testbed.Transcript
	p := newPublisher(t, server, logTo(&log))
	publishNumbers(p, 0, 0)
	checkNumbers(t, late, 0, 0)
	hanging.Signal(t, syscall.SIGSTOP)
	publishNumbers(p, 1, 3)
	time.Sleep(time.Second)
	if !strings.Contains(other.Do(t, "PING").(string), "PONG") {
		t.Fatal("the other server does not answer")
	}
	proxy.Lead(other.Address())
	publishNumbers(p, 4, 6)
	began := time.Now()
	if got := next(t, heard, answerTimeout+gathering+30*time.Second); got != "1" {
		t.Errorf("want message 1 after %v, got %s", time.Since(began), got)
	}
	checkNumbers(t, heard, 2, 6)
	if !strings.Contains(log.String(), "results wait") {
		t.Errorf("want a line for the outage, got %s", log.String())
	}
	hanging.Signal(t, syscall.SIGCONT)
	checkNumbers(t, late, 1, 3) // it had been sent those
	checkSilence(t, late, 500*time.Millisecond)
}

// TestPublisherAsksAHangingServerOnce: each connection that it accepts is not
// another copy of what it was sent.
func TestPublisherAsksAHangingServerOnce(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := newPublisher(t, reach(r), quietLog())
	publishNumbers(p, 0, 0)
	checkNumbers(t, heard, 0, 0)
	r.Signal(t, syscall.SIGSTOP)
	publishNumbers(p, 1, 1)
	time.Sleep(2*answerTimeout + 3*time.Second) // two connections were given up
	r.Signal(t, syscall.SIGCONT)
	checkNumbers(t, heard, 1, 1)
	checkNumbers(t, heard, 1, 1) // sent again, for the first one was not answered
	checkSilence(t, heard, time.Second)
}

// TestPublisherIsCut: the order holds and nothing is missing when connections
// end with thousands of messages waiting and under way.
func TestPublisherIsCut(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	const all = 20_000
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	proxy := testbed.StartProxy(t, r.Address())
	proxy.Delay(time.Millisecond)
	p := newPublisher(t, &Server{Addresses: []string{proxy.Address}}, quietLog())
	for n := range all {
		p.Publish(pad(n, 300))
	}
	for expected, cuts := 0, 0; expected < all; {
		switch got := number(t, next(t, heard, 30*time.Second)); {
		case got > expected:
			t.Fatalf("want message %d or an older one again, got %d", expected, got)
		case got == expected:
			expected++
		}
		if expected/5000 > cuts {
			cuts++
			proxy.Cut()
		}
	}
}

// TestPublisherTellsItsState: outage by outage, to its owner and the log.
func TestPublisherTellsItsState(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	states := make(chan error, 100)
	var log testbed.Transcript
	p := NewPublisher(reach(r), resultChannel, func(err error) { states <- err }, logTo(&log))
	defer p.Close()
	await := func(good bool) {
		t.Helper()
		for deadline := time.After(30 * time.Second); ; {
			select {
			case err := <-states:
				if (err == nil) == good {
					return
				}
			case <-deadline:
				t.Fatalf("want a state that is good=%v, got none", good)
			}
		}
	}
	await(true)
	for range 2 {
		r.Signal(t, syscall.SIGKILL)
		r.Wait(t, 30*time.Second)
		await(false)
		r.Restart(t)
		await(true)
	}
	if strings.Contains(log.String(), "results wait") {
		t.Errorf("want no word of results that wait when there are none, got\n%s", log.String())
	}
	for _, line := range []string{"level=warning msg=\"results cannot be published\"", "level=info msg=\"results published again\""} {
		if n := strings.Count(log.String(), line); n < 2 || n > 4 { // the end of the connection, and nobody there
			t.Errorf("want %q twice or a little more, got %d times in\n%s", line, n, log.String())
		}
	}
}

// TestPublisherIsRefused: a server that answers, but not as wanted, is no success.
func TestPublisherIsRefused(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">secret", "-@all", "&*")
	var log testbed.Transcript
	states := make(chan error, 100)
	p := NewPublisher(reachAs(r, "host"), resultChannel, func(err error) { states <- err }, logTo(&log))
	defer p.Close()
	if err := <-states; err != nil {
		t.Errorf("want a connection, although ping is not permitted, got %v", err)
	}
	publishNumbers(p, 1, 2)
	if err := <-states; err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("want NOPERM, got %v", err)
	}
	time.Sleep(time.Second)
	for len(states) > 0 {
		if err := <-states; err == nil {
			t.Error("want no success while publishing is refused")
		}
	}
	r.Do(t, "ACL", "SETUSER", "host", "+publish")
	checkNumbers(t, heard, 1, 2)
	if n := strings.Count(log.String(), "level=error"); n != 1 {
		t.Errorf("want one error, got %s", log.String())
	}
	testbed.Eventually(t, 30*time.Second, "success in the end", func() bool { return <-states == nil })
}

// TestPublisherAwait: whoever is subscribed finds the publisher's connection
// open, also when the one before was cut while it was idle.
func TestPublisherAwait(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	p := newPublisher(t, reach(r), quietLog())
	open := make(chan int, 10)
	s := Subscriber{Server: reach(r), Channel: "capture", Messages: make(chan Message), Before: p.Await, Log: quietLog(),
		State: func(err error) {
			if err == nil {
				open <- strings.Count(string(r.Do(t, "CLIENT", "LIST", "TYPE", "normal").([]byte)), "cmd=ping")
			}
		}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { s.Run(ctx) })
	for try := range 3 {
		if n := <-open; n != 1 {
			t.Errorf("subscription %d: want one connection of the publisher, got %d", try, n)
		}
		r.Signal(t, syscall.SIGKILL)
		r.Wait(t, 30*time.Second)
		r.Restart(t)
	}
}

// TestPublisherAwaitsALivingConnection: it is asked at once, and holds nobody up.
func TestPublisherAwaitsALivingConnection(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	open := make(chan error, 10)
	p := NewPublisher(reach(r), resultChannel, func(err error) { open <- err }, quietLog())
	t.Cleanup(p.Close)
	if err := <-open; err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), pingPeriod)
		if p.Await(ctx); ctx.Err() != nil {
			t.Error("want an answer before the time is over")
		}
		cancel()
	}
}

// TestPublisherHoldsOn: what has to be held back for long after the master has changed still has to be
// after a failure on the way.
func TestPublisherHoldsOn(t *testing.T) {
	failed := make(chan error, 10)
	held := &Publisher{server: &Server{Addresses: []string{testbed.DeadAddress(t)}}, state: func(err error) { failed <- err }, log: quietLog(), hold: moving,
		delay: newReconnectDelay(longDelay), trouble: outage{log: quietLog()}, drops: drops{log: quietLog()},
		wake: make(chan struct{}, 1), check: make(chan struct{}, 1), checked: make(chan struct{}),
		closing: make(chan struct{}), done: make(chan struct{}), cancel: func() {}}
	go held.run(t.Context())
	<-failed
	if held.Close(); held.hold != moving {
		t.Errorf("want %v, got %v", moving, held.hold)
	}
}

// TestPublisherFollows: what was published is held back and sent again for another master, and not for the first one.
func TestPublisherFollows(t *testing.T) {
	p := &Publisher{}
	p.queue.keep = time.Hour
	for _, step := range []struct {
		master  string
		hold    time.Duration
		waiting int
	}{{"a:1", 0, 0}, {"a:1", 0, 0}, {"b:1", moving, 1}} {
		p.follow(&masterConn{address: step.master})
		if waiting, _ := p.queue.count(); p.hold != step.hold || waiting != step.waiting {
			t.Errorf("%s: want %d messages held back for %v, got %d for %v", step.master, step.waiting, step.hold, waiting, p.hold)
		}
		if len(p.queue.past) == 0 {
			p.queue.answered([]byte("x"))
		}
	}
}

// TestPublisherGathers: the end of the publisher, or of its context, does not wait for those who listen.
func TestPublisherGathers(t *testing.T) {
	for name, test := range map[string]struct {
		closed, ended bool
		want          time.Duration
	}{"held back": {false, false, moving}, "closed": {true, false, 0}, "at an end": {false, true, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Publisher{hold: moving, closing: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.closed {
					close(p.closing)
				}
				if test.ended {
					cancel()
				}
				began := time.Now()
				if p.gather(ctx); time.Since(began) != test.want {
					t.Errorf("want it to take %v, took %v", test.want, time.Since(began))
				}
			})
		})
	}
}

// TestPublisherAwaitEnds: a server that is away or hangs holds nobody up.
func TestPublisherAwaitEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for name, address := range unreachable(t) {
		p := newPublisher(t, &Server{Addresses: []string{address}}, quietLog())
		began := time.Now()
		p.Await(ctx)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: waiting took %v", name, took)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := newPublisher(t, &Server{Addresses: []string{testbed.DeadAddress(t)}}, quietLog())
	if p.Await(ctx); ctx.Err() != nil {
		t.Error("want an answer when there is no connection")
	}
}

// unreachable returns addresses where no Redis answers.
func unreachable(t *testing.T) map[string]string {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	return map[string]string{
		"nobody there": testbed.DeadAddress(t),
		"no answer":    silent.Addr().String(),
	}
}

func TestPublisherCloses(t *testing.T) {
	t.Parallel()
	for name, address := range unreachable(t) {
		var log testbed.Transcript
		p := NewPublisher(&Server{Addresses: []string{address}}, resultChannel, nil, logTo(&log))
		publishNumbers(p, 1, 3)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		p.Close()
		if took := time.Since(began); took > LastAttempt+5*time.Second {
			t.Errorf("%s: closing took %v", name, took)
		}
		if lost := p.Lost(); lost != 3 || !strings.Contains(log.String(), "lost=3") {
			t.Errorf("%s: want 3 lost, got %d and %s", name, lost, log.String())
		}
	}
}

// TestPublisherClosesWhenAllIsSaid: what waits at the end goes out first.
func TestPublisherClosesWhenAllIsSaid(t *testing.T) {
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := NewPublisher(reach(r), resultChannel, nil, quietLog())
	publishNumbers(p, 1, 20_000)
	p.Close()
	checkNumbers(t, heard, 1, 20_000)
}

// TestPublisherBeginsAnew: the next outage is not treated as the one that is over.
func TestPublisherBeginsAnew(t *testing.T) {
	p := &Publisher{state: func(error) {}, log: quietLog(), delay: newReconnectDelay(longDelay), hold: moving}
	for range 10 {
		p.delay.NextBackOff()
	}
	p.nowConnected()
	if wait := p.delay.NextBackOff(); wait > 150*time.Millisecond {
		t.Errorf("want the first attempt soon, got it after %v", wait)
	}
	if p.hold != 0 {
		t.Errorf("want nothing held back, got %v", p.hold)
	}
}

// TestPublisherGivesUp: what is lost is said, with its number, and nothing if nothing is.
func TestPublisherGivesUp(t *testing.T) {
	var log testbed.Transcript
	p := &Publisher{log: logTo(&log)}
	if p.giveUp(errLost); log.String() != "" {
		t.Errorf("want nothing said when nothing is lost, got %s", log.String())
	}
	p.queue.push([]byte("x"))
	if p.giveUp(errLost); !strings.Contains(log.String(), "lost=1") || p.Lost() != 1 {
		t.Errorf("want one lost, got %d and %s", p.Lost(), log.String())
	}
}
