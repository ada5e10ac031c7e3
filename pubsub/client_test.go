package pubsub

import (
	"fmt"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

func TestClientAsks(t *testing.T) {
	r := testbed.StartRedis(t)
	requests := r.Hear(t, "capture")
	c, err := NewClient(t.Context(), reach(r), "capture", resultChannel)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if listeners, err := c.Publish(t.Context(), []byte("question")); listeners != 1 || err != nil {
		t.Errorf("want 1 listener, got %d, %v", listeners, err)
	}
	if got := next(t, requests, time.Second); got != "question" {
		t.Errorf("want the question, got %s", got)
	}
	r.Do(t, "PUBLISH", resultChannel, "answer")
	if got := next(t, c.Answers(), time.Second); got != "answer" {
		t.Errorf("want the answer, got %s", got)
	}
}

func TestClientWithoutServer(t *testing.T) {
	server := &Server{Addresses: []string{fmt.Sprint("127.0.0.1:", testbed.FreePort(t))}}
	if _, err := NewClient(t.Context(), server, "capture", resultChannel); err == nil {
		t.Error("a client without a server")
	}
}
