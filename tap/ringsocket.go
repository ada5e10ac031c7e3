package tap

// #include "ring.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A ringSocket is a packet socket with a ring of blocks (packet_mmap), bound to
// nothing at first. What it records stays readable until the kernel comes round.
type ringSocket struct {
	file   *os.File
	cooked bool // without link header: what it says stands beside the packets
}

// htons returns a number in network order.
func htons(n uint16) uint16 { return n<<8 | n>>8 }

// openRingSocket opens a socket with a ring, and maps that.
func openRingSocket(g C.geometry, cooked bool) (*ringSocket, []byte, error) {
	kind := unix.SOCK_RAW
	if cooked {
		kind = unix.SOCK_DGRAM
	}
	// In blocking mode, though nobody reads it: Go's poller would have what is in
	// the other mode, and wake up for each block.
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, nil, fmt.Errorf("%w: %w", errNoRaw, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &ringSocket{file: os.NewFile(uintptr(fd), "packets"), cooked: cooked}
	blocks, err := s.makeRing(g)
	if err != nil {
		s.file.Close()
		return nil, nil, err
	}
	return s, blocks, nil
}

// makeRing makes the ring.
func (s *ringSocket) makeRing(g C.geometry) ([]byte, error) {
	if err := unix.SetsockoptInt(s.fd(), unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("TPACKET_V3: %w", err)
	}
	request := unix.TpacketReq3{Block_size: uint32(g.block_size), Block_nr: uint32(g.blocks),
		Frame_size: uint32(g.block_size), Frame_nr: uint32(g.blocks), Retire_blk_tov: uint32(ReadTimeout.Milliseconds())}
	if err := unix.SetsockoptTpacketReq3(s.fd(), unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return nil, fmt.Errorf("take %d bytes for the kernel's ring: %w", g.blocks*g.block_size, err)
	}
	return s.mapRing(g)
}

// mapRing maps the ring.
func (s *ringSocket) mapRing(g C.geometry) ([]byte, error) {
	blocks, err := unix.Mmap(s.fd(), 0, int(g.blocks*g.block_size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map the kernel's ring: %w", err)
	}
	return blocks, nil
}

// fd returns the descriptor.
func (s *ringSocket) fd() int { return int(s.file.Fd()) }

// attach lets the kernel judge all packets by a program from now on.
func (s *ringSocket) attach(code program) error {
	if len(code) > 4096 { // BPF_MAXINSNS
		return fmt.Errorf("the kernel takes no filter of %d instructions", len(code))
	}
	if err := attach(s.fd(), code); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	return nil
}

// silence lets no packet pass until a program is attached.
func (s *ringSocket) silence() error { return s.attach(program{reject}) }

// bind begins to record an interface, 0 for all, unless it is bound to it already.
func (s *ringSocket) bind(index int) error {
	if s.bound() == index && index != 0 {
		return nil
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}
	_, _ = unix.GetsockoptInt(s.fd(), unix.SOL_SOCKET, unix.SO_ERROR) // of the interface before
	if err := unix.Bind(s.fd(), to); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if index == 0 {
		return nil
	}
	switch code, err := unix.GetsockoptInt(s.fd(), unix.SOL_SOCKET, unix.SO_ERROR); {
	case err != nil:
		return fmt.Errorf("bind: %w", err)
	case unix.Errno(code) == unix.ENETDOWN:
		return errors.New("the interface is down")
	case code != 0:
		return fmt.Errorf("bind: %w", unix.Errno(code))
	}
	membership := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(s.fd(), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &membership); err != nil {
		return fmt.Errorf("promiscuous mode: %w", err)
	}
	return nil
}

// bound returns the index of the interface that the socket records, 0 for all or
// none; -1: it is no more.
func (s *ringSocket) bound() int {
	name, err := unix.Getsockname(s.fd())
	if err != nil {
		return -1
	}
	link, ok := name.(*unix.SockaddrLinklayer)
	if !ok {
		return -1
	}
	return int(int32(link.Ifindex))
}

// close ends the recording. The kernel keeps the socket for as long as its ring
// is mapped, so nothing passes its filter any more.
func (s *ringSocket) close() {
	_ = s.silence()
	s.file.Close()
}

// recordingProgram returns what the kernel is to judge packets of a link type by: a
// filter that was compiled for a snapshot length in bytes, nil for none.
func recordingProgram(code program, link C.int, snap int) (program, error) {
	code, err := code.forKernel(link)
	if err != nil {
		return nil, err
	}
	if len(code) == 0 {
		code = program{accept(snap)}
	}
	return slices.Concat(notTwice, code), nil
}

// interfaceIndex returns the index of the interface whose own name is the given
// one, 0 for all of them.
func interfaceIndex(name string) (int, error) {
	device, err := findDevice(name)
	if err == nil && device.name != name { // it is looked for by this name all the time
		err = fmt.Errorf("interface: %q: %w", name, errNoLink)
	}
	return device.index, err
}

// recordedLink returns the DLT value with which an interface is recorded: that
// which libpcap gives it, and anyLink for all of them.
func recordedLink(name string, snap int) (int, error) {
	if name == AnyInterface {
		return anyLink, nil
	}
	if link, known := linkType(name); known {
		return int(link), nil
	}
	handle, err := question{iface: name, snap: snap}.openHandle()
	if err != nil {
		return 0, err
	}
	defer C.pcap_close(handle)
	return int(C.pcap_datalink(handle)), nil
}
