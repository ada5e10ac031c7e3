package tap

// #include <pcap/pcap.h>
import "C"

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoRaw says which capability is missing, and how to get it.
var errNoRaw = errors.New("the capability CAP_NET_RAW is missing, which setcap cap_net_raw=ep grants the program")

// CheckCapability returns nil if this process may capture, or else why not. The
// missing capability is named. It blocks for no longer than a system call.
func CheckCapability() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // of no protocol: it gets no packets
	switch {
	case errors.Is(err, unix.EPERM):
		return errNoRaw
	case err != nil:
		return os.NewSyscallError("socket", err)
	}
	return unix.Close(fd)
}

// CheckPolicy returns nil if a Compiler's Policy may be right, or else why it
// compiles for none of the usual link types: Ethernet, raw IP, and what libpcap
// cooks. It opens no interface, so one that is not there yet is no reason. A
// policy whose names cannot be looked up now, or that is given up after
// five seconds, may be right. It blocks for as long. The error begins with "bpf".
func (c *Compiler) CheckPolicy(ctx context.Context) error {
	if c.Policy == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, compileTime)
	defer cancel()
	checked := make(chan error, 1)
	go func() { checked <- policyError(c.Policy) }() // ends when libpcap has: a look-up cannot be ended
	select {
	case err := <-checked:
		return err
	case <-ctx.Done():
		return nil
	}
}

// policyError returns why a policy compiles for no link type, or nil.
func policyError(expression string) error {
	if isLong(expression) {
		slowDown()
	}
	var first error
	for _, link := range []C.int{C.DLT_EN10MB, C.DLT_RAW, C.DLT_LINUX_SLL, C.DLT_LINUX_SLL2} {
		_, err := policyOn(link, expression)
		if err == nil || strings.HasPrefix(err.Error(), "unknown ") { // host, network, port: not now
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return compileError(expression, first)
}

// policyOn compiles an expression for a link type.
func policyOn(link C.int, expression string) (program, error) {
	dead := C.pcap_open_dead(link, MaxSnap)
	if dead == nil {
		return nil, errors.New("out of memory")
	}
	defer C.pcap_close(dead)
	return compileOn(dead, C.PCAP_NETMASK_UNKNOWN, expression)
}
