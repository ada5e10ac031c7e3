package tap

// #cgo LDFLAGS: -lpcap
// #include <stdlib.h>
// #include <pcap/pcap.h>
import "C"

import (
	"errors"
	"unsafe"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
)

// compile compiles a pcap-filter(7) expression for packets of a link
// type, without a handle. gopacket can do that too, but under one lock for
// the whole process: a filter that takes seconds, or waits for DNS, would
// hold up the start of every other capture. libpcap needs no lock since 1.8.
func compile(link layers.LinkType, snap int, expression string) ([]pcap.BPFInstruction, error) {
	dead := C.pcap_open_dead(C.int(link), C.int(snap))
	if dead == nil {
		return nil, errors.New("out of memory")
	}
	defer C.pcap_close(dead)
	text := C.CString(expression)
	defer C.free(unsafe.Pointer(text))
	var program C.struct_bpf_program
	if C.pcap_compile(dead, &program, text, 1, C.PCAP_NETMASK_UNKNOWN) != 0 {
		return nil, errors.New(C.GoString(C.pcap_geterr(dead)))
	}
	defer C.pcap_freecode(&program)
	instructions := make([]pcap.BPFInstruction, program.bf_len)
	for i, from := range unsafe.Slice(program.bf_insns, program.bf_len) {
		instructions[i] = pcap.BPFInstruction{Code: uint16(from.code), Jt: uint8(from.jt), Jf: uint8(from.jf), K: uint32(from.k)}
	}
	return instructions, nil
}
