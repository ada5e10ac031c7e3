package pubsub

import (
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// startClient returns a client that ends with the test.
func startClient(t *testing.T, server *Server) *Client {
	t.Helper()
	c, err := NewClient(t.Context(), server, "capture", resultChannel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClientAsks(t *testing.T) {
	r := testbed.StartRedis(t)
	requests := r.Hear(t, "capture")
	c := startClient(t, reach(r))
	if listeners, err := c.Publish(t.Context(), []byte("question")); listeners != 1 || err != nil {
		t.Errorf("want 1 listener, got %d, %v", listeners, err)
	}
	if got := next(t, requests, 30*time.Second); got != "question" {
		t.Errorf("want the question, got %s", got)
	}
	r.Do(t, "PUBLISH", resultChannel, "answer")
	if got := next(t, c.Answers(), 30*time.Second); got != "answer" {
		t.Errorf("want the answer, got %s", got)
	}
}

// TestClientSurvivesARestart: it says that it hears nothing, and hears again.
func TestClientSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	c := startClient(t, reach(r))
	for range 2 {
		r.Signal(t, syscall.SIGKILL)
		r.Wait(t, 30*time.Second)
		if err := nextChange(t, c); err == nil {
			t.Error("no error while the server is away")
		}
		time.Sleep(time.Second)
		r.Restart(t)
		for nextChange(t, c) != nil {
		}
		r.Do(t, "PUBLISH", resultChannel, "answer")
		if got := next(t, c.Answers(), 30*time.Second); got != "answer" {
			t.Errorf("want the answer, got %s", got)
		}
	}
}

// TestClientHearsWhatWaited: a publisher that is back first waits for who listens.
func TestClientHearsWhatWaited(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, r.Address())
	c := startClient(t, &Server{Addresses: []string{proxy.Address}})
	p := newPublisher(t, reach(r), quietLog())
	for range 3 { // the answer waits for a short time, which a slow machine may spend otherwise
		proxy.Lead("")
		r.Signal(t, syscall.SIGKILL)
		r.Wait(t, 30*time.Second)
		p.Publish([]byte("answer"))
		time.Sleep(4500 * time.Millisecond) // the client tries in vain
		r.Restart(t)
		p.Await(t.Context())
		time.Sleep(300 * time.Millisecond)
		proxy.Lead(r.Address())
		select {
		case <-c.Answers():
			return
		case <-time.After(6 * time.Second):
		}
	}
	t.Error("want the answer")
}

// TestClientIsBoundedByWhatWaits: however many answers have been heard, more of them are.
func TestClientIsBoundedByWhatWaits(t *testing.T) {
	t.Parallel()
	c, heard := &Client{answers: make(chan []byte)}, make(chan Message)
	go c.collect(t.Context(), heard)
	if c.Waiting() {
		t.Error("want nothing that waits")
	}
	for n := range maxHeard/answerCost + 10 {
		select {
		case heard <- Message{Data: []byte("x")}:
			<-c.answers
		case <-time.After(30 * time.Second):
			t.Fatalf("no more than %d answers are taken", n)
		}
	}
}

// nextChange returns how a client hears now.
func nextChange(t *testing.T, c *Client) error {
	t.Helper()
	select {
	case err := <-c.Changes():
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("no change")
	}
	panic("unreachable")
}

// TestClientWithoutServer: it does not wait for one to come.
func TestClientWithoutServer(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	for name, address := range unreachable(t) {
		began := time.Now()
		if _, err := NewClient(t.Context(), &Server{Addresses: []string{address}}, "capture", resultChannel); err == nil {
			t.Errorf("%s: a client without a server", name)
		}
		if took := time.Since(began); took > pingPeriod+pongMargin+5*time.Second {
			t.Errorf("%s: took %v to say so", name, took)
		}
	}
}

// TestClientHoldsLittle: a client that does not listen lets the server wait, and an answer of
// a length that no host has is left out.
func TestClientHoldsLittle(t *testing.T) {
	t.Parallel()
	const size = 200 << 10
	sent := make(chan int, 1)
	fake := startFakeServer(t, func(to io.Writer, words []string) {
		if words[0] != "SUBSCRIBE" {
			return
		}
		answer := pubsubReply("message", resultChannel, fmt.Sprintf("$%d\r\n%s", size, make([]byte, size)))
		fmt.Fprint(to, pubsubReply("subscribe", resultChannel, ":1"),
			pubsubReply("message", resultChannel, fmt.Sprintf("$%d\r\n%s", maxAnswer+1, make([]byte, maxAnswer+1))))
		for n := 0; ; n++ {
			if _, err := io.WriteString(to, answer); err != nil {
				return
			}
			select {
			case <-sent:
			default:
			}
			sent <- n + 1
		}
	})
	c, err := NewClient(t.Context(), &Server{Addresses: []string{fake}}, "capture", resultChannel)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	last := 0
	for still := 0; still < 5; still++ { // until no more is taken
		time.Sleep(100 * time.Millisecond)
		if n := len(sent); n > 0 {
			last, still = <-sent, 0
		}
		if last*size > 200<<20 {
			t.Fatalf("want the server to wait, it has sent %d MiB", last*size>>20)
		}
	}
	if !c.Waiting() {
		t.Error("want to know that answers wait")
	}
	for range 3 * maxHeard / size { // and nothing is lost
		if got := len(<-c.Answers()); got != size {
			t.Fatalf("want an answer of %d bytes, got %d", size, got)
		}
	}
}
