package pubsub

import (
	"slices"
	"sync"
)

const (
	// maxQueue is how many bytes of messages wait at most, those under way included.
	maxQueue = 16 << 20
	// maxBatch is how many bytes of messages are under way at a time, unless one alone has more.
	maxBatch = 1 << 20
)

// A queue holds messages in order until they are answered for. It is bounded
// always: when there are too many, the oldest are dropped and counted.
type queue struct {
	mu      sync.Mutex
	waiting [][]byte
	held    int   // bytes, those under way included
	dropped int64 // messages
}

// push appends a message.
func (q *queue) push(message []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, message)
	q.held += len(message)
	q.trim()
}

// take removes the oldest messages, for one way to the server. Each of them has
// to be answered for or put back.
func (q *queue) take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && (n == 0 || size+len(q.waiting[n]) <= maxBatch) {
		size += len(q.waiting[n])
		n++
	}
	batch := slices.Clone(q.waiting[:n])
	q.cut(n)
	return batch
}

// answered forgets a message that was taken.
func (q *queue) answered(message []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held -= len(message)
}

// putBack returns messages that were taken to where they came from.
func (q *queue) putBack(messages [][]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.Concat(messages, q.waiting)
	q.trim()
}

// trim drops the oldest messages that are too many. The caller holds the lock.
func (q *queue) trim() {
	n := 0
	for ; n < len(q.waiting) && q.held > maxQueue; n++ {
		q.held -= len(q.waiting[n])
	}
	q.cut(n)
	q.dropped += int64(n)
}

// cut removes the oldest n messages. The caller holds the lock.
func (q *queue) cut(n int) {
	clear(q.waiting[:n]) // what is below the slice would be kept alive with it
	q.waiting = q.waiting[n:]
}

// clear drops all that waits.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, message := range q.waiting {
		q.held -= len(message)
	}
	q.dropped += int64(len(q.waiting))
	q.waiting = nil
}

// count returns how many messages wait, and how many were dropped so far.
func (q *queue) count() (waiting int, dropped int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.dropped
}
