package capfile

import (
	"io"
	"sync"
	"time"
)

const (
	// patience is how long a packet waits for packets of slower captures.
	patience = time.Second
	// maxPending is how many bytes of packets wait in all. A capture of which nothing waits may
	// add to that what it has read at a time.
	maxPending = 64 << 20
	// writeSize is how many bytes are written at a time, about.
	writeSize = 256 << 10
)

// A Merger writes several captures, while they are read, into one pcapng file: an interface for
// each of them, and the packets of all in the order of their stamps. A packet waits
// for captures of which nothing has been read, but not for more than a second: those that come later
// than that stand where they come. Each write ends with a whole block, so that after each
// the file can be read. Its methods may be called from any goroutine.
type Merger struct {
	to     io.Writer
	format pcapngFormat
	notify chan struct{} // capacity one: there may be something to write
	failed chan struct{} // closed: it cannot be written
	done   chan struct{} // closed: all has been written

	mu        sync.Mutex
	room      *sync.Cond // less waits than before, or nothing is taken any more
	inputs    []*Input   // that have an interface, by its number
	blocks    []byte     // to be written before the packets
	pending   inputHeap  // inputs with packets
	size      int        // bytes that are pending
	spare     [][]byte   // memory of batches that were written, for later ones; at most maxSpare
	awaited   int        // inputs of which nothing is pending, and something may come
	expecting bool       // more inputs may come
	closing   bool
	err       error
	latest    uint64 // stamp of the newest packet that was written
	newest    *Input // has had it
	late      int64
}

// NewMerger begins a file: it writes the section header at once. The application is what the file
// says it was made by. As long as further captures are expected, packets wait for
// them too: see Expect. Close has to be called in any case.
func NewMerger(to io.Writer, application string) *Merger {
	m := &Merger{to: to, format: newPcapngFormat(application), expecting: true,
		notify: make(chan struct{}, 1), failed: make(chan struct{}), done: make(chan struct{})}
	m.room = sync.NewCond(&m.mu)
	m.blocks = m.format.section("")
	go m.run()
	return m
}

// Expect says whether further captures may come.
func (m *Merger) Expect(more bool) {
	m.mu.Lock()
	m.expecting = more
	m.mu.Unlock()
	m.wake()
}

// Failed returns a channel that is closed when the file cannot be written any more. What
// is added from then on is dropped.
func (m *Merger) Failed() <-chan struct{} { return m.failed }

// Err returns why the file cannot be written, or nil.
func (m *Merger) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Late returns how many packets are not in order because they came too late. One whose stamp
// lies in the future makes no other late.
func (m *Merger) Late() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.late
}

// IsMixed reports whether interfaces differ in link type or snapshot length. Readers that are
// made with libpcap take no such file.
func (m *Merger) IsMixed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range m.inputs {
		if first := m.inputs[0]; in.head.LinkType != first.head.LinkType || in.head.Snap != first.head.Snap {
			return true
		}
	}
	return false
}

// Close writes what waits, and the statistics of all captures, and returns why the file is not
// complete. Nothing is taken from inputs any more.
func (m *Merger) Close() error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.wake() // and so whoever waits for room
	<-m.done
	return m.Err()
}

// Open adds a capture, for which packets of others wait from now on until Close. Node, interface and
// filter of the header are those that the file shall say; the filter may be
// replaced by what the capture says itself, as link type and snapshot length are.
func (m *Merger) Open(h Header) *Input {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awaited++
	return &Input{merger: m, head: h}
}

// wake has the file written as far as that is possible now.
func (m *Merger) wake() {
	select {
	case m.notify <- struct{}{}:
	default:
	}
}

// run writes the file.
func (m *Merger) run() {
	defer close(m.done)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var out []byte
	for {
		var wait time.Duration
		var over bool
		out, wait, over = m.collect(out[:0])
		if len(out) > 0 {
			if _, err := m.to.Write(out); err != nil {
				m.fail(err)
				return
			}
		}
		switch {
		case over:
			return
		case wait == 0:
			continue
		}
		timer.Reset(wait)
		select {
		case <-m.notify:
		case <-timer.C:
		}
	}
}

// fail notes why the file cannot be written, and drops what waits.
func (m *Merger) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	for _, in := range m.pending {
		in.batches = nil
	}
	m.pending, m.blocks, m.size = nil, nil, 0
	m.room.Broadcast()
	close(m.failed)
}

// collect appends what can be written now to out. It returns how long to wait before the next time,
// unless there is something to do before; over means that all has been written.
func (m *Merger) collect(out []byte) (_ []byte, wait time.Duration, over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.room.Broadcast()
	out = append(out, m.blocks...)
	m.blocks = nil
	now := time.Now()
	soon := uint64(now.Add(patience).UnixNano())
	for len(m.pending) > 0 && len(out) < writeSize {
		in := m.pending[0]
		if !m.closing && (m.awaited > 0 || m.expecting) && in.stamp > m.latest { // else waiting orders nothing
			if wait = in.batches[0].arrived.Add(patience).Sub(now); wait > 0 {
				return out, wait, false
			}
		}
		switch {
		case in.stamp < m.latest && in != m.newest: // what is disordered within one capture came so
			m.late++
		case in.stamp >= m.latest && in.stamp <= soon:
			m.latest, m.newest = in.stamp, in
		}
		out = append(out, in.shift()...)
		m.pending.fix(m)
	}
	switch {
	case len(m.pending) > 0:
		return out, 0, false
	case !m.closing:
		return out, time.Hour, false
	}
	for number, in := range m.inputs {
		out = append(out, in.statistics(uint32(number))...)
	}
	return out, 0, true
}

// add has the blocks that an input has made wait for their turn.
func (m *Merger) add(in *Input, packets int64) {
	blocks := in.blocks
	in.blocks = nil
	if packets == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for in.size > 0 && m.size > maxPending && m.err == nil && !m.closing {
		m.room.Wait()
	}
	if m.err != nil || m.closing || in.ended {
		return
	}
	in.batches = append(in.batches, batch{blocks, time.Now(), blocks})
	in.size += len(blocks)
	m.size += len(blocks)
	in.packets += packets
	if len(in.batches) == 1 {
		m.awaited--
		in.stamp = blockStamp(blocks)
		m.pending.push(in)
	}
	m.wake()
}
