package main

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
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcap"
)

// A bulkSource can copy many packets at once.
type bulkSource interface {
	source
	// copyRecords copies at most so many packets to the room, as records of a
	// pcap file, and returns how many, and their bytes. It copies only what is
	// there already, is older than the end (Unix time in nanoseconds) and fits.
	// Whatever comes next, the next read returns it.
	copyRecords(room []byte, end *atomic.Int64, most int64) (packets int64, bytes int)
}

// A liveSource is an open interface that copies packets within libpcap. Going
// there and back for each packet would cost more than all the rest.
type liveSource struct {
	*pcap.Handle
	cptr *C.pcap_t
	done C.progress
}

// newLiveSource returns a source for a handle. gopacket keeps libpcap's own
// handle to itself; should another version keep it elsewhere, the source is
// the handle as it is, and only slower.
func newLiveSource(handle *pcap.Handle) source {
	cptr := reflect.ValueOf(handle).Elem().FieldByName("cptr")
	if !cptr.IsValid() || cptr.Kind() != reflect.Pointer {
		return handle
	}
	return &liveSource{Handle: handle, cptr: (*C.pcap_t)(cptr.UnsafePointer())}
}

// copyRecords implements bulkSource.
func (s *liveSource) copyRecords(room []byte, end *atomic.Int64, most int64) (packets int64, bytes int) {
	if len(room) == 0 || most <= 0 || s.done.header != nil {
		return 0, 0
	}
	s.done = C.progress{}
	C.copy_records(s.cptr, (*C.uint8_t)(&room[0]), C.uint64_t(len(room)),
		(*C.int64_t)(unsafe.Pointer(end)), C.uint64_t(most), &s.done)
	return int64(s.done.packets), int(s.done.bytes)
}

// ZeroCopyReadPacketData implements source: first the packet that copyRecords stopped at.
func (s *liveSource) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	header := s.done.header
	if header == nil {
		return s.Handle.ZeroCopyReadPacketData()
	}
	s.done.header = nil
	unit := time.Microsecond
	if C.pcap_get_tstamp_precision(s.cptr) == C.PCAP_TSTAMP_PRECISION_NANO {
		unit = time.Nanosecond
	}
	return unsafe.Slice((*byte)(s.done.data), header.caplen), gopacket.CaptureInfo{
		Timestamp:     time.Unix(int64(header.ts.tv_sec), int64(header.ts.tv_usec)*int64(unit)),
		CaptureLength: int(header.caplen),
		Length:        int(header.len),
	}, nil
}
