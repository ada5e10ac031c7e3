package tap

// #include <stdlib.h>
// #include <pcap/pcap.h>
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/google/gopacket/pcap"
)

// loopbackName is an interface that is everywhere.
const loopbackName = "lo"

// A RecordFilter is a filter for what a recorder holds. It may be used any
// number of times, by many goroutines.
type RecordFilter struct {
	link int // DLT of the packets
	code program
}

// Compile compiles a pcap-filter(7) expression for the packets that the
// recorder holds. They are judged as the kernel judges packets. That may take
// seconds: names in it are looked up. A filter that asks for what is not
// recorded is an error. Errors begin with "open" if nothing was recorded yet,
// and so it is not known what packets look like, or else with "bpf".
func (r *Recorder) Compile(expression string) (*RecordFilter, error) {
	r.mu.Lock()
	link, mask, err := r.link, r.netmask, r.err
	r.mu.Unlock()
	if link < 0 {
		return nil, fmt.Errorf("open %s: %w", r.options.Interface, err)
	}
	f := &RecordFilter{link: link}
	if expression == "" {
		return f, nil
	}
	f.code, err = compileLive(link, r.options.Snap, mask, expression)
	if err == nil {
		err = f.code.checkRecorded()
	}
	if err != nil {
		return nil, fmt.Errorf("bpf: compile filter %q: %w", expression, err)
	}
	return f, nil
}

// compileLive compiles a filter as for an open interface of a link type. Only
// code for VLANs differs from that for a file. libpcap makes it for Ethernet,
// and for handles that are really open.
func compileLive(link, snap int, mask uint32, expression string) (program, error) {
	if link == C.DLT_EN10MB && strings.Contains(expression, "vlan") {
		handle, err := activate(Options{Interface: loopbackName, Snap: snap, BufferSize: 1 << 16})
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", loopbackName, err)
		}
		defer handle.Close()
		open, err := pcapOf(handle)
		if err != nil {
			return nil, err
		}
		return compileFor(open, mask, expression)
	}
	dead := C.pcap_open_dead(C.int(link), C.int(snap))
	if dead == nil {
		return nil, errors.New("out of memory")
	}
	defer C.pcap_close(dead)
	return compileFor(dead, mask, expression)
}

// compileFor compiles a filter for a handle.
func compileFor(handle *C.pcap_t, mask uint32, expression string) (program, error) {
	text := C.CString(expression)
	defer C.free(unsafe.Pointer(text))
	var compiled C.struct_bpf_program
	if C.pcap_compile(handle, &compiled, text, 1, C.bpf_u_int32(mask)) != 0 {
		return nil, errors.New(C.GoString(C.pcap_geterr(handle)))
	}
	defer C.pcap_freecode(&compiled)
	code := make(program, compiled.bf_len)
	for i, from := range unsafe.Slice(compiled.bf_insns, compiled.bf_len) {
		code[i] = pcap.BPFInstruction{Code: uint16(from.code), Jt: uint8(from.jt), Jf: uint8(from.jf), K: uint32(from.k)}
	}
	return code, nil
}

// netmaskOf returns the netmask of an interface, without which a filter cannot
// tell IPv4 broadcasts.
func netmaskOf(iface string) uint32 {
	name := C.CString(iface)
	defer C.free(unsafe.Pointer(name))
	var net, mask C.bpf_u_int32
	var words [C.PCAP_ERRBUF_SIZE]C.char
	if C.pcap_lookupnet(name, &net, &mask, &words[0]) != 0 {
		return C.PCAP_NETMASK_UNKNOWN
	}
	return uint32(mask)
}
