package tap

// #cgo LDFLAGS: -lpcap
// #include <endian.h>
// #include <stdint.h>
// #include <string.h>
// #include <pcap/pcap.h>
//
// typedef struct {
//	uint64_t packets, bytes;          // copied
//	const struct pcap_pkthdr *header; // of a packet that was read and not copied, or NULL
//	const u_char *data;
// } progress;
//
// // copy_records copies packets that are there already to the room as records
// // of a pcap file, at most so many. It stops before one that is not older than
// // the end, or does not fit.
// static void copy_records(pcap_t *handle, uint8_t *room, uint64_t size,
//			const volatile int64_t *end, uint64_t most, progress *done)
// {
//	int64_t unit = pcap_get_tstamp_precision(handle) == PCAP_TSTAMP_PRECISION_NANO ? 1 : 1000;
//	struct pcap_pkthdr *header;
//	const u_char *data;
//	while (done->packets < most && pcap_next_ex(handle, &header, &data) == 1) {
//		int64_t nanos = header->ts.tv_usec * unit;
//		if (header->ts.tv_sec * INT64_C(1000000000) + nanos >= *end ||
//		    done->bytes + 16 + header->caplen > size) {
//			done->header = header;
//			done->data = data;
//			return;
//		}
//		uint32_t record[4] = {htole32(header->ts.tv_sec), htole32(nanos / 1000),
//				      htole32(header->caplen), htole32(header->len)};
//		memcpy(room + done->bytes, record, 16);
//		memcpy(room + done->bytes + 16, data, header->caplen);
//		done->bytes += 16 + header->caplen;
//		done->packets++;
//	}
// }
import "C"

import (
	"errors"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcap"
)

// A Live is an open interface, or a file. All calls come from one goroutine,
// and none after Close.
type Live struct {
	handle *pcap.Handle
	cptr   *C.pcap_t // the handle's own
	done   C.progress
}

// newLive takes a handle over.
func newLive(handle *pcap.Handle) (*Live, error) {
	cptr, err := pcapOf(handle)
	if err != nil {
		return nil, err
	}
	return &Live{handle: handle, cptr: cptr}, nil
}

// pcapOf returns libpcap's own handle, which gopacket keeps to itself. It
// relies on this of gopacket v1.1.19: Handle is a struct with a field cptr,
// which points to a pcap_t and stays the same until Close.
func pcapOf(handle *pcap.Handle) (*C.pcap_t, error) {
	cptr := reflect.ValueOf(handle).Elem().FieldByName("cptr")
	if !cptr.IsValid() || cptr.Kind() != reflect.Pointer {
		return nil, errors.New("this version of gopacket has no field Handle.cptr")
	}
	return (*C.pcap_t)(cptr.UnsafePointer()), nil
}

// Copy copies packets to the room, as records of a pcap file, and returns how
// many, at most so many, and their bytes. It copies only what is there
// already, is older than the end (Unix time in nanoseconds) and fits. Whatever
// comes next, Next returns it.
func (l *Live) Copy(room []byte, end *atomic.Int64, most int64) (packets int64, bytes int) {
	if len(room) == 0 || most <= 0 || l.done.header != nil {
		return 0, 0
	}
	l.done = C.progress{}
	C.copy_records(l.cptr, (*C.uint8_t)(&room[0]), C.uint64_t(len(room)),
		(*C.int64_t)(unsafe.Pointer(end)), C.uint64_t(most), &l.done)
	return int64(l.done.packets), int(l.done.bytes)
}

// Next returns a packet that is valid until the next call. The error is
// ErrTimeout, ErrEnd, or what libpcap says of a failed read.
func (l *Live) Next() (Packet, error) {
	header := l.done.header
	if header == nil {
		data, info, err := l.handle.ZeroCopyReadPacketData()
		switch {
		case errors.Is(err, pcap.NextErrorTimeoutExpired):
			err = ErrTimeout
		case errors.Is(err, pcap.NextErrorReadError):
			err = l.handle.Error()
		}
		return Packet{CaptureInfo: info, Data: data}, err
	}
	l.done.header = nil
	unit := time.Microsecond
	if C.pcap_get_tstamp_precision(l.cptr) == C.PCAP_TSTAMP_PRECISION_NANO {
		unit = time.Nanosecond
	}
	return Packet{gopacket.CaptureInfo{
		Timestamp:     time.Unix(int64(header.ts.tv_sec), int64(header.ts.tv_usec)*int64(unit)),
		CaptureLength: int(header.caplen),
		Length:        int(header.len),
	}, unsafe.Slice((*byte)(l.done.data), header.caplen)}, nil
}

// LinkType returns the LINKTYPE value that a file of the packets needs.
func (l *Live) LinkType() int { return linkTypeOf(int(C.pcap_datalink(l.cptr))) }

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
func (l *Live) SnapLen() int { return l.handle.SnapLen() }

// Stats returns the counts up to now.
func (l *Live) Stats() (Stats, error) {
	stats, err := l.handle.Stats()
	if err != nil {
		return Stats{}, err
	}
	return Stats{Received: int64(stats.PacketsReceived), Dropped: int64(stats.PacketsDropped),
		IfDropped: int64(stats.PacketsIfDropped)}, nil
}

// Close closes the interface, which takes tens of milliseconds.
func (l *Live) Close() { l.handle.Close() }
