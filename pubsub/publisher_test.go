package pubsub

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

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
		if want, got := strconv.Itoa(n), next(t, messages, 6*time.Second); got != want {
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

func TestPublisherKeepsOrder(t *testing.T) {
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := NewPublisher(reach(r), resultChannel, quietLog())
	publishNumbers(p, 1, 3000)
	checkNumbers(t, heard, 1, 3000)
	p.Close()
}

func TestPublisherKeepsTheNewest(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := NewPublisher(reach(r), resultChannel, quietLog())
	defer p.Close()
	publishNumbers(p, -1, -1)
	checkNumbers(t, heard, -1, -1)
	r.Signal(t, syscall.SIGTERM)
	r.Wait(t, 5*time.Second)
	publishNumbers(p, 0, 0)
	testbed.Eventually(t, 5*time.Second, "the outage is noticed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.away
	})
	publishNumbers(p, 1, 1500)
	r.Restart(t)
	heard = r.Hear(t, resultChannel)
	first, _ := strconv.Atoi(next(t, heard, 6*time.Second))
	if first < 500 || first > 502 { // one may have been under way
		t.Errorf("want the newest 1000, got them from %d on", first)
	}
	checkNumbers(t, heard, first+1, 1500)
}

// TestPublisherDoesNotRepeat: a server that hangs and wakes publishes each message once.
func TestPublisherDoesNotRepeat(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, resultChannel)
	p := NewPublisher(reach(r), resultChannel, quietLog())
	publishNumbers(p, 0, 0)
	checkNumbers(t, heard, 0, 0)
	r.Signal(t, syscall.SIGSTOP)
	publishNumbers(p, 1, 3)
	time.Sleep(pingPeriod + pongMargin + time.Second)
	r.Signal(t, syscall.SIGCONT)
	checkNumbers(t, heard, 1, 3)
	checkSilence(t, heard, 500*time.Millisecond)
	p.Close()
}

func TestPublisherCloses(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, address := range map[string]string{
		"nobody there": fmt.Sprint("127.0.0.1:", testbed.FreePort(t)), "no answer": silent.Addr().String()} {
		p := NewPublisher(&Server{Addresses: []string{address}}, resultChannel, quietLog())
		publishNumbers(p, 1, 1)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		p.Close()
		if took := time.Since(began); took > LastAttempt+time.Second {
			t.Errorf("%s: closing took %v", name, took)
		}
	}
}
