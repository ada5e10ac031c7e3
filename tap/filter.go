package tap

// #cgo LDFLAGS: -lpcap
// #include <arpa/inet.h>
// #include <stdlib.h>
// #include <pcap/pcap.h>
import "C"

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/google/gopacket/pcap"
	"golang.org/x/sys/unix"
)

// Filters are compiled by libpcap directly. gopacket does that under one lock
// for the whole process: a filter that takes seconds, or waits for DNS, would
// hold up the start of every other capture. libpcap needs no lock since 1.8.

// A Filter is a compiled pcap-filter(7) expression. It may be used any number
// of times, by many goroutines.
type Filter struct {
	expression string
	link       C.int // DLT of the packets that it judges
	code       program
}

// A question is a filter that is to be compiled.
type question struct {
	iface      string // empty: any Ethernet will do
	snap       int
	policy     policy
	expression string
	recorder   *Recorder // whose packets it is for; nil: those of the open interface
}

// text returns all that is to be compiled.
func (q question) text() string { return q.policy.join(q.expression) }

// An answer is a filter, or why it does not compile.
type answer struct {
	filter *Filter
	err    error
}

// ask compiles a filter, which may take very long, and answers. What it needed
// for that it closes afterwards: nobody has to wait for it.
func ask(q question, answers chan<- answer) {
	if q.recorder != nil {
		filter, err := q.recorder.compile(q.expression)
		answers <- answer{filter, err}
		return
	}
	handle, err := q.handle()
	if err != nil {
		answers <- answer{err: fmt.Errorf("open %s: %w", q.iface, err)}
		return
	}
	defer C.pcap_close(handle)
	code, err := q.policy.compileOn(handle, netmask(q.iface), q.expression)
	if err != nil {
		answers <- answer{err: err}
		return
	}
	answers <- answer{filter: &Filter{expression: q.expression, link: C.pcap_datalink(handle), code: code}}
}

// handle returns a handle that compiles as the open interface does: a dead one
// of the same link type, or an open one where that would not do.
func (q question) handle() (*C.pcap_t, error) {
	link, known := linkType(q.iface)
	switch {
	case q.iface == "":
		link = C.DLT_EN10MB
	case !known || needsOpen(q.text()):
		return q.openHandle()
	}
	if dead := C.pcap_open_dead(link, C.int(q.snap)); dead != nil {
		return dead, nil
	}
	return nil, errors.New("out of memory")
}

// openHandle returns a handle of the interface that takes no packets.
func (q question) openHandle() (*C.pcap_t, error) {
	handle, err := activate(Options{Interface: q.iface, Snap: q.snap, BufferSize: 1 << 16})
	if err != nil {
		return nil, err
	}
	cptr, err := pcapOf(handle)
	if err != nil {
		handle.Close()
		return nil, err
	}
	if err := attach(int(C.pcap_fileno(cptr)), program{reject}); err != nil {
		handle.Close()
		return nil, err
	}
	return cptr, nil
}

// compileOn compiles a filter on a handle.
func compileOn(handle *C.pcap_t, mask C.bpf_u_int32, expression string) (program, error) {
	text := C.CString(expression)
	defer C.free(unsafe.Pointer(text))
	var compiled C.struct_bpf_program
	if C.pcap_compile(handle, &compiled, text, 1, mask) != 0 {
		return nil, errors.New(C.GoString(C.pcap_geterr(handle)))
	}
	defer C.pcap_freecode(&compiled)
	code := make(program, compiled.bf_len)
	for i, from := range unsafe.Slice(compiled.bf_insns, compiled.bf_len) {
		code[i] = pcap.BPFInstruction{Code: uint16(from.code), Jt: uint8(from.jt), Jf: uint8(from.jf), K: uint32(from.k)}
	}
	return code, nil
}

// checkLink returns an error if packets of a handle are not of the filter's link type.
func (f *Filter) checkLink(handle *C.pcap_t) error {
	if link := C.pcap_datalink(handle); link != f.link {
		return fmt.Errorf("bpf: filter %q: it is for link type %d, the interface has %d now", f.expression, f.link, link)
	}
	return nil
}

// needsOpen reports whether a filter becomes another one for an open interface:
// the kernel takes VLAN tags out of the packet.
func needsOpen(expression string) bool { return strings.Contains(expression, "vlan") }

// anyLink is the DLT value of packets of all interfaces: Linux SLL2, which says of
// each packet which interface it came on.
const anyLink = C.DLT_LINUX_SLL2

// cookOn gives a handle of all interfaces the link type anyLink. It closes the
// handle if there is an error.
func cookOn(handle *pcap.Handle, iface string) error {
	if iface != AnyInterface {
		return nil
	}
	cptr, err := pcapOf(handle)
	if err == nil && C.pcap_set_datalink(cptr, anyLink) != 0 {
		err = errors.New(C.GoString(C.pcap_geterr(cptr)))
	}
	if err != nil {
		handle.Close()
	}
	return err
}

// linkType returns the DLT value that an interface will have when it is open,
// if that is known without opening it.
func linkType(iface string) (link C.int, known bool) {
	if iface == AnyInterface {
		return anyLink, true
	}
	if _, err := os.Stat("/sys/class/net/" + iface + "/dsa/tagging"); err == nil {
		return 0, false // a switch puts tags into its frames, of one kind or another
	}
	switch l, err := findDevice(iface); {
	case err != nil:
		return 0, false
	case l.hardware == unix.ARPHRD_ETHER || l.hardware == unix.ARPHRD_LOOPBACK:
		return C.DLT_EN10MB, true
	case l.hardware == unix.ARPHRD_NONE: // tun
		return C.DLT_RAW, true
	}
	return 0, false
}

// netmask returns the netmask of an interface, without which a filter cannot
// tell IPv4 broadcasts. pcap_lookupnet has it in network order and pcap_compile
// wants it in the host's, as it compares it with what is loaded from a packet.
func netmask(iface string) C.bpf_u_int32 {
	name := C.CString(iface)
	defer C.free(unsafe.Pointer(name))
	var words [C.PCAP_ERRBUF_SIZE]C.char
	var net, mask C.bpf_u_int32
	if C.pcap_lookupnet(name, &net, &mask, &words[0]) != 0 {
		return C.PCAP_NETMASK_UNKNOWN
	}
	return C.bpf_u_int32(C.ntohl(C.uint32_t(mask)))
}
