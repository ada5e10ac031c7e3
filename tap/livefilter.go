package tap

// #include "bpf.h"
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/gopacket/pcap"
	"golang.org/x/sys/unix"
)

// The kernel judges what is captured live. Only it knows a packet's direction
// and interface, and the VLAN tag that it keeps beside the packet. libpcap
// judges what came before it set a filter once more, without knowing these, and
// rejects it: so the filter is given to the kernel here, and libpcap has none.

// inFlight is how long a packet may be on its way from the filter, which is
// replaced meanwhile, to its time stamp. Both are parts of one softirq.
const inFlight = 200 * time.Microsecond

// errNotJudged says that a filter can be judged by nobody.
var errNotJudged = errors.New("the kernel does not take it, and it asks for what only the kernel knows")

// setLive lets only those packets through that a filter lets through; nil: all of
// them. It returns the program that is left for user space, if the kernel cannot
// run it: one that has a loop, or is too long, or looks into a header that libpcap
// makes up.
func setLive(handle *C.pcap_t, f *Filter, device string) (rest program, err error) {
	all := program{accept(int(C.pcap_snapshot(handle)))}
	code := all
	if f != nil {
		code = f.code
	}
	before := program{}
	if device == loopbackName || device == AnyInterface {
		before = notTwice
	}
	fd := int(C.pcap_fileno(handle))
	inKernel, err := code.forKernel(C.pcap_datalink(handle))
	if err == nil {
		if err = attach(fd, slices.Concat(before, inKernel)); err == nil {
			return nil, nil
		}
	}
	if code.asksKernel() {
		return nil, fmt.Errorf("bpf: set filter %q: %w (%w)", f.expression, errNotJudged, err)
	}
	if err := attach(fd, slices.Concat(before, all)); err != nil {
		return nil, fmt.Errorf("bpf: set filter: %w", err)
	}
	return code, nil
}

// accept returns an instruction that takes a packet, and so many bytes of it.
func accept(snap int) pcap.BPFInstruction {
	return pcap.BPFInstruction{Code: C.BPF_RET | C.BPF_K, K: uint32(snap)}
}

// reject is an instruction that takes no packet.
var reject = accept(0)

// notTwice rejects what leaves by the loopback interface, and goes on with
// others: it comes in there as well. libpcap throws these packets away, too, but
// they take half of the kernel's buffer first, and count as received.
var notTwice = program{
	{Code: C.BPF_LD | C.BPF_W | C.BPF_ABS, K: C.BESIDE_DIRECTION},
	{Code: C.BPF_JMP | C.BPF_JEQ | C.BPF_K, Jf: 3, K: unix.PACKET_OUTGOING},
	{Code: C.BPF_LD | C.BPF_W | C.BPF_ABS, K: C.BESIDE_HARDWARE},
	{Code: C.BPF_JMP | C.BPF_JEQ | C.BPF_K, Jf: 1, K: unix.ARPHRD_LOOPBACK},
	reject,
}

// attach gives a socket a program; what it had before is replaced.
func attach(fd int, code program) error {
	if len(code) > 1<<16-1 {
		return unix.EINVAL
	}
	filter := make([]unix.SockFilter, len(code))
	for i, from := range code {
		filter[i] = unix.SockFilter{Code: from.Code, Jt: from.Jt, Jf: from.Jf, K: from.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// forKernel returns the program for the kernel, which sees packets of most link
// types as libpcap hands them over. It is an error if there is none.
func (p program) forKernel(link C.int) (program, error) {
	size, fields := madeHeader(link)
	if size == 0 {
		return p, nil
	}
	moved := slices.Clone(p)
	for i, instruction := range p {
		if !loadsPacket(instruction) || instruction.K >= besideLowest {
			continue
		}
		switch beside, known := fields[field{instruction.K, instruction.Code}]; {
		case instruction.K >= size:
			moved[i].K -= size
		case known:
			moved[i].K = beside
		default:
			return nil, fmt.Errorf("byte %d of what libpcap puts before packets is not there", instruction.K)
		}
	}
	return moved, nil
}

// seesHeader reports whether a program looks into the header that libpcap puts
// before packets of a link type where the kernel has nothing of the kind.
func (p program) seesHeader(link int) bool {
	_, err := p.forKernel(C.int(link))
	return err != nil
}

// loadsPacket reports whether an instruction loads from the packet or from beside it.
func loadsPacket(i pcap.BPFInstruction) bool {
	class, mode := i.Code&bpfClass, i.Code&bpfMode
	return class == bpfLD && (mode == bpfABS || mode == C.BPF_IND) || class == bpfLDX && mode == C.BPF_MSH
}

// A field is one of a header: its offset, and the instruction that loads it.
type field struct {
	at   uint32
	load uint16
}

// madeHeader returns the size of the header that libpcap puts before the packets
// of a link type, and where the kernel has what is in its fields.
func madeHeader(link C.int) (size uint32, fields map[field]uint32) {
	const load1, load2, load4 = C.BPF_LD | C.BPF_ABS | C.BPF_B, C.BPF_LD | C.BPF_ABS | C.BPF_H, C.BPF_LD | C.BPF_ABS | C.BPF_W
	switch link {
	case C.DLT_LINUX_SLL, C.DLT_LINUX_IRDA, C.DLT_LINUX_LAPD, C.DLT_NETLINK:
		return C.sll_size, map[field]uint32{{0, load2}: C.BESIDE_DIRECTION, {14, load2}: C.BESIDE_PROTOCOL}
	case C.DLT_LINUX_SLL2:
		return C.sll2_size, map[field]uint32{{0, load2}: C.BESIDE_PROTOCOL, {4, load4}: C.BESIDE_INTERFACE,
			{8, load2}: C.BESIDE_HARDWARE, {10, load1}: C.BESIDE_DIRECTION}
	}
	return 0, nil
}

// asksKernel reports whether a program loads what only the kernel knows.
func (p program) asksKernel() bool {
	return slices.ContainsFunc(p, func(i pcap.BPFInstruction) bool {
		return i.Code&bpfClass == bpfLD && i.Code&bpfMode == bpfABS && i.K >= besideLowest
	})
}
