package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/tap"
)

const (
	// tail is how long after the end of a capture the kernel may still hold
	// packets from before it: a read timeout, and another for slow timers.
	tail = 2 * tap.ReadTimeout
	// overrun is the time after the end at which a capture ends in any case,
	// as after a clock that was set back.
	overrun = time.Second
	// clockTolerance is how far the clock may be from where it should be
	// before it counts as set.
	clockTolerance = time.Second
	// rush is the time within which packets fill what is ready when they come fast. Each
	// call into C keeps the runtime's monitor awake for its first 10 ms.
	rush = 100 * time.Millisecond
	// mostAhead is how many chunks are ready at a time then, at most, and aheadShare that they
	// are no larger part of what the capture holds already.
	mostAhead, aheadShare = 8, 8
	// retryPause is the wait after a failed read.
	retryPause = 10 * time.Millisecond
)

// Why a capture stopped.
const (
	stopPackets   = "packets"
	stopBytes     = "bytes"
	stopTimeout   = "timeout"
	stopMemory    = "memory"
	stopShutdown  = "shutdown"
	stopInterface = "interface"
	stopRequest   = "request"
)

// A source hands out packets: a live interface, what a recorder holds, a file,
// or a test. All calls come from one goroutine, and none after Close.
type source interface {
	// Copy copies packets to the rooms one after the other, as records of a
	// pcap file, and returns the bytes of the records. It copies only what the
	// quota allows and what fits. It may wait for packets until the end, but need
	// not. Whatever comes next, Next returns it.
	Copy(rooms [][]byte, q *tap.Quota) (size int)
	// Next returns a packet that is valid until the next call. The error is
	// tap.ErrTimeout if none came within the read timeout, or none from before
	// the end will, or tap.ErrEnd.
	Next() (tap.Packet, error)
	LinkType() int // LINKTYPE value of a file
	SnapLen() int  // bytes
	Stats() (tap.Stats, error)
	Close()
}

// A pastSource is a source that hands out packets from before the request.
type pastSource interface {
	source
	// Since returns from when on nothing of the past is missing.
	Since() time.Time
	// Gap returns when the interface was not there, or nil.
	Gap() error
}

// bounds end a capture, whichever comes first.
type bounds struct {
	packets int64
	bytes   int64 // of the file, its header included
	timeout time.Duration
}

// granted returns the bounds as results tell them.
func (b bounds) granted() *result.Limits {
	return &result.Limits{Packets: b.packets, Bytes: b.bytes, Timeout: b.timeout.Seconds()}
}

// An outcome is what became of a capture.
type outcome struct {
	result.Counts
	result.Losses
	stop  string
	ended time.Time
	note  string // what else there is to say of it, even if nothing is missing
	err   error  // why packets may be missing
}

// A capture takes packets from its source to its buffer until its bounds end it.
type capture struct {
	source   source
	began    time.Time
	bounds   bounds
	deadline *deadline
	buffer   *capfile.Buffer
	quota    tap.Quota                      // all that the bounds allow, but for the last packet
	ahead    int                            // chunks that it has ready at a time
	unit     time.Duration                  // of the stamps in the buffer
	header   [capfile.RecordHeaderSize]byte // of the packet that is added
}

// A plan says what a capture is to become.
type plan struct {
	bounds bounds
	layout capfile.Layout // of the file that is made of the records
	unit   time.Duration  // of the records' stamps
}

// newCapture returns a capture that is to be recorded to a buffer.
func newCapture(src source, start time.Time, p plan, buf *capfile.Buffer) *capture {
	end := newDeadline(start, p.bounds.timeout)
	c := &capture{source: src, began: start, bounds: p.bounds, deadline: end, buffer: buf, ahead: 1, unit: p.unit,
		quota: tap.Quota{End: &end.at, Packets: p.bounds.packets - 1, Bytes: p.bounds.bytes, Layout: p.layout.Packet}}
	c.quota.Copied.Bytes.Store(p.layout.Fixed)
	return c
}

// sofar returns what the capture holds. It may be called at any time.
func (c *capture) sofar() *result.Counts {
	return &result.Counts{Packets: c.quota.Copied.Packets.Load(), Bytes: c.quota.Copied.Bytes.Load()}
}

// run writes the source's packets to the buffer, as records of a pcap file, until the
// bounds or the context end it. A packet belongs to the capture if its own time
// stamp lies before the end, however late libpcap hands it over.
func (c *capture) run(ctx context.Context) outcome {
	defer c.deadline.watch()()
	defer context.AfterFunc(ctx, func() { c.deadline.bringForward(stopOf(ctx)) })()

	var stop string
	var err error
	if ctx.Err() == nil || c.reachesBack() {
		stop, err = c.loop()
	} else {
		stop = stopOf(ctx) // before it began
	}
	c.buffer.Trim()
	out := outcome{stop: stop, ended: c.deadline.clock(), err: err}
	if stop == stopTimeout {
		out.stop, out.ended = c.deadline.reached()
	}
	c.deadline.follow()
	out.note = c.deadline.note()
	out.Counts = *c.sofar()
	stats, err := c.source.Stats()
	if err != nil {
		out.err = errors.Join(out.err, fmt.Errorf("read statistics: %w", err))
		return out
	}
	out.Received, out.Dropped, out.IfDropped = stats.Received, stats.Dropped, stats.IfDropped
	return out
}

// reachesBack reports whether packets from before the beginning are wanted.
func (c *capture) reachesBack() bool {
	past, ok := c.source.(pastSource)
	return ok && past.Since().Before(c.began)
}

// stopOf returns why a capture stops whose context has ended.
func stopOf(ctx context.Context) string {
	if errors.Is(context.Cause(ctx), errStopRequested) {
		return stopRequest
	}
	return stopShutdown
}

// loop is the capture loop; it returns why it stopped, stopTimeout if the end
// has come. Per packet it makes no allocation and takes no lock of ours.
func (c *capture) loop() (stop string, err error) {
	var broken time.Time // since when reads fail; zero: they do not
	for {
		passed := c.deadline.passed() // asked first: what came before that is handed out now
		c.copyMany()
		packet, err := c.source.Next()
		switch {
		case err == nil:
			broken = time.Time{}
			if stop := c.judge(packet); stop != "" {
				return stop, nil
			}
			if c.add(packet) == c.bounds.packets {
				return stopPackets, nil
			}
		case errors.Is(err, tap.ErrTimeout):
			broken = time.Time{} // so the interface works
			if c.deadline.follow(); passed && c.deadline.passed() {
				return stopTimeout, nil
			}
		case errors.Is(err, tap.ErrEnd): // nothing of a file is left to wait for
			return stopTimeout, nil
		case broken.IsZero():
			broken = time.Now()
		case time.Since(broken) > tail: // what was in the ring has been read
			return stopInterface, err
		default:
			time.Sleep(retryPause)
		}
	}
}

// copyMany copies packets to what is left of the buffer. It leaves the last one,
// and those that are at some limit, to be judged one by one.
func (c *capture) copyMany() {
	held := int(c.buffer.Size / capfile.ChunkSize)
	began, rooms := time.Now(), c.buffer.Rooms(min(c.ahead, 1+held/aheadShare))
	size := c.source.Copy(rooms, &c.quota)
	c.buffer.Extend(size)
	switch took := time.Since(began); {
	case took < rush && size > len(rooms)*capfile.ChunkSize/2:
		c.ahead = min(2*c.ahead, mostAhead)
	case took > 10*rush:
		c.ahead = 1
	}
}

// judge returns why a packet does not belong to the capture. It returns nothing
// if the packet does; then there is room for it.
func (c *capture) judge(packet tap.Packet) (stop string) {
	inFile := c.quota.Layout.Size(len(packet.Data))
	switch {
	case c.deadline.excludes(packet.Timestamp):
		return stopTimeout
	case c.quota.Copied.Bytes.Load()+inFile > c.bounds.bytes:
		return stopBytes
	case !c.buffer.Reserve(capfile.RecordHeaderSize + len(packet.Data)):
		return stopMemory
	}
	return ""
}

// add adds a packet for which there is room, and returns how many there are.
func (c *capture) add(packet tap.Packet) (packets int64) {
	stamp := packet.Timestamp
	record := binary.LittleEndian.AppendUint32(c.header[:0], uint32(stamp.Unix()))
	record = binary.LittleEndian.AppendUint32(record, uint32(int64(stamp.Nanosecond())/int64(c.unit)))
	record = binary.LittleEndian.AppendUint32(record, uint32(packet.CaptureLength))
	record = binary.LittleEndian.AppendUint32(record, uint32(packet.Length))
	_, _ = c.buffer.Write(record) // there is room
	_, _ = c.buffer.Write(packet.Data)
	c.quota.Copied.Bytes.Add(c.quota.Layout.Size(len(packet.Data)))
	c.quota.Copied.Records.Add(int64(len(record) + len(packet.Data)))
	return c.quota.Copied.Packets.Add(1)
}
