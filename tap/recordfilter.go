package tap

// #include <pcap/pcap.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
)

// loopbackName is an interface that is everywhere.
const loopbackName = "lo"

// CompileRecorded compiles a pcap-filter(7) expression for the packets that a
// recorder holds. They are judged as the kernel judges packets. It may take as
// long as Compile, with the same bounds. A filter that asks for what is not
// recorded is an error. Errors begin with "open" if nothing was recorded yet,
// and so it is not known what packets look like, or else with "bpf".
func (c *Compiler) CompileRecorded(ctx context.Context, r *Recorder, expression string) (*Filter, error) {
	return c.compile(ctx, question{iface: r.options.Interface, snap: r.options.Snap, expression: expression, recorder: r})
}

// compile compiles a filter for what the recorder holds.
func (r *Recorder) compile(expression string) (*Filter, error) {
	mask := netmask(r.options.Interface) // addresses come and go while it records
	r.mu.Lock()
	link, err := r.link, r.err
	if mask == C.PCAP_NETMASK_UNKNOWN {
		mask = r.netmask // of an interface that is away
	}
	r.mu.Unlock()
	if link < 0 {
		return nil, fmt.Errorf("open %s: %w", r.options.Interface, err)
	}
	f := &Filter{expression: expression, link: C.int(link)}
	if expression == "" {
		return f, nil
	}
	f.code, err = compileLive(C.int(link), r.options.Snap, mask, expression)
	if err == nil {
		err = f.code.checkRecorded()
	}
	if err != nil {
		return nil, compileError(expression, err)
	}
	return f, nil
}

// compileLive compiles a filter as for an open interface of a link type. Only
// code for VLANs differs from that for a file. libpcap makes it for Ethernet,
// and for handles that are really open.
func compileLive(link C.int, snap int, mask C.bpf_u_int32, expression string) (program, error) {
	if link == C.DLT_EN10MB && needsOpen(expression) {
		open, err := question{iface: loopbackName, snap: snap}.openHandle()
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", loopbackName, err)
		}
		defer C.pcap_close(open)
		return compileOn(open, mask, expression)
	}
	dead := C.pcap_open_dead(link, C.int(snap))
	if dead == nil {
		return nil, errors.New("out of memory")
	}
	defer C.pcap_close(dead)
	return compileOn(dead, mask, expression)
}
