package pubsub

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// texts returns messages as text.
func texts(messages [][]byte) string { return fmt.Sprintf("%s", messages) }

func TestQueueKeepsOrder(t *testing.T) {
	var q queue
	for n := range 3 {
		q.push(fmt.Append(nil, n))
	}
	batch := q.take()
	q.push([]byte("3"))
	q.answered(batch[0])
	q.putBack(batch[1:])
	q.push([]byte("4"))
	if want, got := "[1 2 3 4]", texts(q.take()); got != want {
		t.Errorf("want %s, got %s", want, got)
	}
	if want, got := "[]", texts(q.take()); got != want {
		t.Errorf("want %s, got %s", want, got)
	}
}

// TestQueueIsBounded: by bytes, whatever is under way, and the newest are kept.
func TestQueueIsBounded(t *testing.T) {
	const size, kept = maxBatch, maxQueue / maxBatch
	message := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }
	var q queue
	for n := range kept {
		q.push(message(n))
	}
	under := q.take() // the oldest, which counts on
	if waiting, dropped := q.count(); len(under) != 1 || waiting != kept-1 || dropped != 0 {
		t.Fatalf("want 1, %d and 0 messages, got %d, %d and %d", kept-1, len(under), waiting, dropped)
	}
	for n := kept; n < kept+3; n++ {
		q.push(message(n))
	}
	if waiting, dropped := q.count(); waiting != kept-1 || dropped != 3 {
		t.Errorf("want %d waiting and 3 dropped, got %d and %d", kept-1, waiting, dropped)
	}
	q.putBack(under)
	if got := q.take()[0][0]; got != 0 {
		t.Errorf("want what was put back, got message %d", got)
	}
	if got := q.take()[0][0]; got != 4 {
		t.Errorf("want message 4 as the oldest that is left, got %d", got)
	}
	q.answered(under[0])
	q.clear()
	if _, dropped := q.count(); dropped != 3+kept-2 {
		t.Errorf("want %d dropped, got %d", 3+kept-2, dropped)
	}
}

// TestQueueRecalls: what was answered for lately can be sent again, in order, and
// is the first to go when there is too much.
func TestQueueRecalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue{keep: 5 * time.Second}
		for n := range 3 {
			q.push(fmt.Append(nil, n))
			q.answered(q.take()[0])
			time.Sleep(2 * time.Second)
		}
		q.take() // forgets what is too old
		q.push([]byte("3"))
		q.recall()
		q.push([]byte("4"))
		if want, got := "[1 2 3 4]", texts(q.take()); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
		q.recall()
		if want, got := "[]", texts(q.take()); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	})
}

// TestQueueForgetsFirst: before a message is dropped, those are that were published.
func TestQueueForgetsFirst(t *testing.T) {
	q := queue{keep: time.Hour}
	for range 2 * maxQueue / maxBatch {
		q.push(make([]byte, maxBatch))
		q.answered(q.take()[0])
	}
	for range maxQueue / maxBatch {
		q.push(make([]byte, maxBatch))
	}
	if _, dropped := q.count(); dropped != 0 {
		t.Errorf("want none dropped, got %d", dropped)
	}
	q.recall()
	waiting, _ := q.count()
	if want := maxQueue / maxBatch; waiting != want {
		t.Errorf("want %d messages that wait, got %d", want, waiting)
	}
}

// TestQueueTakesWhatIsLarge: a message that is larger than what is under way at a time goes alone.
func TestQueueTakesWhatIsLarge(t *testing.T) {
	var q queue
	q.push(make([]byte, maxBatch+1))
	q.push([]byte("small"))
	for _, want := range []int{maxBatch + 1, len("small")} {
		if batch := q.take(); len(batch) != 1 || len(batch[0]) != want {
			t.Fatalf("want one message of %d bytes, got %d", want, len(batch))
		}
	}
}

// TestQueueDropsWhatIsTooLarge: a message that fits in no queue is not kept for ever.
func TestQueueDropsWhatIsTooLarge(t *testing.T) {
	var q queue
	q.push(make([]byte, maxQueue+1))
	q.push([]byte("small"))
	if _, dropped := q.count(); dropped != 1 {
		t.Errorf("want 1 dropped, got %d", dropped)
	}
	if want, got := "[small]", texts(q.take()); got != want {
		t.Errorf("want %s, got %s", want, got)
	}
}

// TestQueueHoldsNoMore: what was dropped or answered is given back to the runtime.
func TestQueueHoldsNoMore(t *testing.T) {
	var q queue
	for range 4 * maxQueue / 1000 {
		q.push(make([]byte, 1000))
	}
	full := heap()
	for waiting := 1; waiting > 0; waiting, _ = q.count() {
		for _, message := range q.take() {
			q.answered(message)
		}
	}
	if freed, want := full-heap(), int64(maxQueue*9/10); full > 2*maxQueue || freed < want {
		t.Errorf("want at most %d bytes when full and %d freed then, got %d and %d", 2*maxQueue, want, full, freed)
	}
	if q.held != 0 || len(q.past) > 0 {
		t.Errorf("want nothing held, got %d bytes of %d messages", q.held, len(q.past))
	}
}

// heap returns how many bytes are in use.
func heap() int64 {
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	return int64(memory.HeapAlloc)
}
