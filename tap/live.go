package tap

// #cgo LDFLAGS: -lpcap
// #include <stdlib.h>
// #include "live.h"
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcap"
)

// A Live is an open interface, or a file. All calls come from one goroutine,
// and none after Close.
type Live struct {
	copying *C.copying
	start   time.Time
	before  Stats         // of what came before start
	taken   int64         // packets that were handed out, from before the end
	end     *atomic.Int64 // of the latest quota
}

// newLive takes a handle over, which is in non-blocking mode. Records have their
// stamps in nanoseconds, or microseconds.
func newLive(handle *pcap.Handle, o Options) (*Live, error) {
	cptr, err := pcapOf(handle)
	if err != nil {
		return nil, err
	}
	copying := C.new_copying(cptr, C.int(ReadTimeout.Milliseconds()), C.bool(o.Nanos))
	if copying == nil {
		return nil, errors.New("out of memory")
	}
	copying.buffer = C.int64_t(o.BufferSize)
	return &Live{copying: copying}, nil
}

// pcapOf returns libpcap's own handle, which gopacket keeps to itself. It
// relies on this of gopacket v1.1.19: Handle is a struct with a field cptr,
// which points to a pcap_t, and nothing closes that but Close.
func pcapOf(handle *pcap.Handle) (*C.pcap_t, error) {
	cptr := reflect.ValueOf(handle).Elem().FieldByName("cptr")
	if !cptr.IsValid() || cptr.Kind() != reflect.Pointer {
		return nil, errors.New("this version of gopacket has no field Handle.cptr")
	}
	return (*C.pcap_t)(cptr.UnsafePointer()), nil
}

// Copy copies packets to the rooms, as records of a pcap file, and returns the
// bytes of the records. It copies what the quota allows and fits, and waits for
// it. It returns when there is more to say, which Next does: a packet that is
// not copied, or an error.
func (l *Live) Copy(rooms [][]byte, q *Quota) (size int) {
	if l.copying.why != C.copied_all { // Next has not been asked
		return 0
	}
	before := q.Copied.Packets.Load()
	defer func() { l.taken += q.Copied.Packets.Load() - before }()
	l.end = q.End
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(q.End)
	l.copying.here, l.copying.left = &l.copying.rooms[0], 0
	for i, room := range rooms[:min(len(rooms), len(l.copying.rooms))] {
		first := unsafe.SliceData(room)
		pinner.Pin(first)
		l.copying.rooms[i] = C.room{memory: C.uintptr_t(uintptr(unsafe.Pointer(first))), size: C.uint64_t(len(room))}
		size += len(room)
	}
	l.copying.left = C.uint64_t(size)
	C.copy_packets(l.copying, C.quota{packets: C.int64_t(q.Packets), bytes: C.int64_t(q.Bytes),
		per_packet: C.int64_t(q.Layout.PerPacket), align: C.int64_t(q.Layout.Align),
		end: (*C.int64_t)(unsafe.Pointer(q.End))},
		(*C.int64_t)(unsafe.Pointer(&q.Copied.Packets)), (*C.int64_t)(unsafe.Pointer(&q.Copied.Bytes)),
		(*C.int64_t)(unsafe.Pointer(&q.Copied.Records)))
	return size - int(l.copying.left)
}

// Next returns a packet that is valid until the next call. The error is
// ErrTimeout if none came within ReadTimeout or none from before the end is to
// be expected any more, ErrEnd, or what libpcap says of a failed read.
func (l *Live) Next() (Packet, error) {
	if l.copying.why == C.copied_all {
		end := l.end
		var none Quota // it takes none, and waits as it does for the last one, which has until ReadTimeout from now
		none.End, none.Layout = &atomic.Int64{}, RecordLayout()
		none.End.Store(time.Now().Add(-ReadTimeout).UnixNano())
		l.Copy(nil, &none)
		l.end = end
	}
	why := l.copying.why
	l.copying.why = C.copied_all
	switch why {
	case C.copied_timeout:
		return Packet{}, ErrTimeout
	case C.copied_file:
		return Packet{}, ErrEnd
	case C.copied_lost:
		return Packet{}, lossOf(&l.copying.link)
	case C.copied_error:
		return Packet{}, errors.New(C.GoString(C.pcap_geterr(l.copying.handle)))
	}
	header := &l.copying.header
	p := Packet{gopacket.CaptureInfo{
		Timestamp:     time.Unix(int64(header.ts.tv_sec), int64(header.ts.tv_usec)*int64(l.copying.unit)),
		CaptureLength: int(header.caplen),
		Length:        int(header.len),
	}, unsafe.Slice((*byte)(l.copying.data), header.caplen)}
	if l.end == nil || p.Timestamp.UnixNano() < l.end.Load() {
		l.taken++
	}
	return p, nil
}

// judge lets only what the filter takes through, from now on: what the kernel
// has judged otherwise, or not at all, is older than the beginning.
func (l *Live) judge(o Options) error {
	handle := l.copying.handle
	if o.Filter != nil {
		if err := o.Filter.checkLink(handle); err != nil {
			return err
		}
	}
	rest, err := setLive(handle, o.Filter, o.Interface)
	if err != nil {
		return err
	}
	if rest != nil && !C.filter_packets(l.copying, rest.instructions(), C.uint32_t(len(rest))) {
		return errors.New("bpf: out of memory")
	}
	time.Sleep(inFlight)
	l.before, err = l.counts()
	l.begin(time.Now())
	return err
}

// watch ends the capture when the interface parts from its name. It is an error
// if it is another one already than that which was found by its name.
func (l *Live) watch(device netDevice) error {
	if device.index == 0 { // any
		return nil
	}
	name := C.CString(device.name)
	defer C.free(unsafe.Pointer(name))
	C.watch_link(&l.copying.link, C.pcap_fileno(l.copying.handle), name)
	if int(l.copying.link.index) != device.index || !bool(C.keeps_name(&l.copying.link)) {
		return errors.New("another interface has its name now")
	}
	return nil
}

// begin leaves out what is older.
func (l *Live) begin(at time.Time) {
	l.start = at
	C.begin_at(l.copying, C.int64_t(at.UnixNano()))
}

// Start returns when an interface was ready: no packet is older. It is zero for a file.
func (l *Live) Start() time.Time { return l.start }

// LinkType returns the LINKTYPE value that a file of the packets needs.
func (l *Live) LinkType() int { return linkTypeOf(int(C.pcap_datalink(l.copying.handle))) }

// linkTypeOf returns the LINKTYPE value for a handle's DLT value. They are equal
// but for raw IP, whose DLT is not the same on every system.
func linkTypeOf(dlt int) int {
	const dltRaw, linkTypeRaw = 12, 101
	if dlt == dltRaw {
		return linkTypeRaw
	}
	return dlt
}

// SnapLen returns the snapshot length, in bytes.
func (l *Live) SnapLen() int { return int(C.pcap_snapshot(l.copying.handle)) }

// Stats returns the counts up to now. Received is what was handed out, from before
// the end, and what the kernel dropped: what it still holds belongs to nobody.
func (l *Live) Stats() (Stats, error) {
	now, err := l.counts()
	dropped := now.Dropped - l.before.Dropped
	return Stats{Received: l.taken + dropped, Dropped: dropped,
		IfDropped: now.IfDropped - l.before.IfDropped}, err
}

// counts returns the counts since the handle is open.
func (l *Live) counts() (Stats, error) {
	var stats C.struct_pcap_stat
	if C.pcap_stats(l.copying.handle, &stats) != 0 {
		return Stats{}, fmt.Errorf("pcap_stats: %s", C.GoString(C.pcap_geterr(l.copying.handle)))
	}
	return Stats{Received: int64(stats.ps_recv), Dropped: int64(stats.ps_drop), IfDropped: int64(stats.ps_ifdrop)}, nil
}

// Close closes the interface, which takes tens of milliseconds.
func (l *Live) Close() {
	C.free_copying(l.copying)
	l.copying = nil
}
