package pubsub

import (
	"slices"
	"sync"
	"time"
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
	keep time.Duration // how long messages can be recalled that were answered for

	mu      sync.Mutex
	past    []published // what can be recalled, oldest first
	waiting [][]byte
	held    int   // bytes, those of the past and those under way included
	dropped int64 // messages
}

// A published message has been answered for.
type published struct {
	message []byte
	at      time.Time
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
	q.forget()
	n, size := 0, 0
	for n < len(q.waiting) && (n == 0 || size+len(q.waiting[n]) <= maxBatch) {
		size += len(q.waiting[n])
		n++
	}
	batch := slices.Clone(q.waiting[:n])
	q.cut(n)
	return batch
}

// answered takes note that a message that was taken has reached the server.
func (q *queue) answered(message []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.past = append(q.past, published{message, time.Now()})
	q.forget()
}

// recall makes wait again what was answered for not long before the last one.
func (q *queue) recall() {
	q.mu.Lock()
	defer q.mu.Unlock()
	var messages [][]byte
	for _, p := range q.past {
		messages = append(messages, p.message)
	}
	q.past = nil
	q.waiting = slices.Concat(messages, q.waiting)
}

// forget drops what is too old to be recalled. The caller holds the lock.
func (q *queue) forget() {
	for len(q.past) > 0 && time.Since(q.past[0].at) >= q.keep {
		q.forgetOne()
	}
}

// forgetOne drops the oldest that could be recalled. The caller holds the lock.
func (q *queue) forgetOne() {
	q.held -= len(q.past[0].message)
	q.past[0].message = nil
	q.past = q.past[1:]
}

// putBack returns messages that were taken to where they came from.
func (q *queue) putBack(messages [][]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.Concat(messages, q.waiting) // they were counted all the time
}

// trim drops the oldest messages that are too many. The caller holds the lock.
func (q *queue) trim() {
	for len(q.past) > 0 && q.held > maxQueue {
		q.forgetOne() // has been published
	}
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
