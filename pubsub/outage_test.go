package pubsub

import (
	"testing"
	"time"
)

func TestReconnectDelay(t *testing.T) {
	delay := newReconnectDelay(longDelay)
	for n := range 50 {
		least := 100 * time.Millisecond
		if n > 10 {
			least = 2 * time.Second
		}
		if wait, most := delay.NextBackOff(), 6*time.Second-freshTimeout-connectTimeout; wait < least || wait > most {
			t.Errorf("attempt %d: want %v to %v, got %v", n, least, most, wait)
		}
	}
}
