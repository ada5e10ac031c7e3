package tap

// #include "link.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLinkName is how long an alternative name is at most, in bytes (ALTIFNAMSIZ
// without its NUL).
const maxLinkName = 127

// errNoLink says that no interface has a name.
var errNoLink = errors.New("no such network interface")

// A netDevice is an interface as the kernel describes it.
type netDevice struct {
	index    int
	name     string // its own, by which libpcap opens it
	hardware uint16 // ARPHRD value
	up       bool
}

// Device returns the kernel's own name of the interface that has a name, which
// may also be one of the interface's alternative names. AnyInterface means
// itself. It asks the kernel, which takes microseconds unless the network is
// being configured, in the network namespace of the calling thread. The error
// begins with "interface" and wraps the kernel's.
func Device(name string) (string, error) {
	l, err := findDevice(name)
	return l.name, err
}

// IsDown reports whether an interface is known to be down. It takes names as Device does.
func IsDown(name string) bool {
	l, err := findDevice(name)
	return err == nil && !l.up
}

// lossOf returns what has become of an interface that has parted from its name.
func lossOf(l *C.named_link) error {
	var now [C.IF_NAMESIZE]C.char
	C.current_name(l, &now[0])
	if name := C.GoString(&now[0]); name != "" {
		return fmt.Errorf("the interface is called %s now", name)
	}
	return errors.New("the interface disappeared")
}

// findDevice asks the kernel for an interface by its own or an alternative name.
// It does so by netlink: the ioctls that take names load kernel modules for
// those that they do not know, and libpcap would try its other devices, take
// packets away (nfqueue) or open USB buses.
func findDevice(name string) (netDevice, error) {
	if name == AnyInterface {
		return netDevice{name: AnyInterface, up: true}, nil
	}
	l, err := askDevice(name)
	if err != nil {
		return netDevice{}, fmt.Errorf("interface: %q: %w", name, err)
	}
	return l, nil
}

// askDevice asks the kernel for an interface.
func askDevice(name string) (netDevice, error) {
	if name == "" || len(name) > maxLinkName || strings.ContainsRune(name, 0) {
		return netDevice{}, errNoLink
	}
	answer, err := exchange(linkRequest(name))
	if err != nil {
		return netDevice{}, err
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil || len(messages) == 0 {
		return netDevice{}, errors.New("the kernel's answer cannot be read")
	}
	m := messages[0]
	switch {
	case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
		return netDevice{}, linkError(name, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
	case m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg:
		return netDevice{}, fmt.Errorf("the kernel answers by message type %d", m.Header.Type)
	}
	return parseDevice(m)
}

// linkError returns the error of a look-up by name. Kernels before 5.5 know no
// alternative names, and no name is so long that is none.
func linkError(name string, err unix.Errno) error {
	if err == unix.ENODEV || err == unix.EINVAL && len(name) >= unix.IFNAMSIZ {
		return errNoLink
	}
	return err
}

// linkRequest returns an RTM_GETLINK message (rtnetlink(7)) that asks for an
// interface by name. Short names may be alternative ones, too.
func linkRequest(name string) []byte {
	attribute := uint16(unix.IFLA_IFNAME)
	if len(name) >= unix.IFNAMSIZ {
		attribute = unix.IFLA_ALT_IFNAME
	}
	text := unix.SizeofRtAttr + len(name) + 1
	size := unix.SizeofNlMsghdr + unix.SizeofIfInfomsg + (text+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)
	order := binary.NativeEndian
	m := order.AppendUint32(make([]byte, 0, size), uint32(size))
	m = order.AppendUint16(m, unix.RTM_GETLINK)
	m = order.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, make([]byte, 8+unix.SizeofIfInfomsg)...) // sequence and port; no index: the name counts
	m = order.AppendUint16(m, uint16(text))
	m = order.AppendUint16(m, attribute)
	m = append(m, name...)
	return m[:size]
}

// exchange sends a message to rtnetlink and returns the answer.
func exchange(message []byte) ([]byte, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 1<<16) // the answer is there already
	for {
		n, _, err := unix.Recvfrom(socket, answer, unix.MSG_DONTWAIT)
		if err == nil {
			return answer[:n], nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, os.NewSyscallError("recvfrom", err)
		}
	}
}

// parseDevice returns the interface of an RTM_NEWLINK message.
func parseDevice(m syscall.NetlinkMessage) (netDevice, error) {
	order := binary.NativeEndian // struct ifinfomsg: family, type, index, flags
	l := netDevice{hardware: order.Uint16(m.Data[2:]), index: int(int32(order.Uint32(m.Data[4:]))),
		up: order.Uint32(m.Data[8:])&unix.IFF_UP != 0}
	attributes, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return netDevice{}, err
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.IFLA_IFNAME {
			l.name = strings.TrimRight(string(a.Value), "\x00")
		}
	}
	if l.name == "" {
		return netDevice{}, errors.New("the kernel gives no name")
	}
	return l, nil
}
