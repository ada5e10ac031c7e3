// Package tap is where packets come from: network interfaces, and files in
// tests. It knows interfaces, filters, packets, their time stamps and the
// memory that it is handed, and nothing of what is done with packets.
//
// Interfaces are opened through gopacket; what has to be fast, or done without
// gopacket's process-wide lock, calls libpcap directly. No other package of
// the program needs C.
package tap

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcap"
)

const (
	// AnyInterface is libpcap's pseudo-interface for all of them.
	AnyInterface = "any"

	// ReadTimeout is how long the kernel may keep packets back to hand over
	// more of them at once. Longer saves an idle capture wake-ups, shorter
	// brings the last packet sooner.
	ReadTimeout = 100 * time.Millisecond

	// LiveDescriptors is how many descriptors a Live has: its socket, libpcap's event to wake
	// it up, and a socket that says when the interface changes. One more is needed to open it.
	LiveDescriptors = 4

	// MaxSnap is the longest snapshot length that libpcap takes, in bytes.
	MaxSnap = 262144
)

var (
	// ErrTimeout says that no packet came within ReadTimeout.
	ErrTimeout = errors.New("no packet within the read timeout")
	// ErrEnd says that a file holds no more packets.
	ErrEnd = io.EOF
)

// A Packet is one packet and what is known of it. Whoever handed it out says
// how long its data is valid.
type Packet struct {
	gopacket.CaptureInfo
	Data []byte
}

// Stats are counts since an interface was opened.
type Stats struct {
	Received  int64 // passed the filter and were handed out, or dropped
	Dropped   int64 // by the kernel, for want of buffer
	IfDropped int64 // by the interface or its driver
}

// Options say what to listen to.
type Options struct {
	Interface  string  // its own or an alternative name, or AnyInterface
	Filter     *Filter // nil: everything
	Snap       int     // snapshot length, 1 to MaxSnap bytes
	BufferSize int     // of the kernel, in bytes
	Nanos      bool    // stamps of records in nanoseconds, not microseconds
}

// Open returns an interface that is capturing already. The filter has been
// compiled before: while that takes its time, the kernel's buffer would fill
// with what it keeps out. Errors begin with "interface", "open" or "bpf",
// whichever is to blame.
func Open(o Options) (*Live, error) {
	l, err := findDevice(o.Interface)
	if err != nil {
		return nil, err
	}
	o.Interface = l.name
	handle, err := activate(o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Interface, err)
	}
	live, err := newLive(handle, o)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open %s: %w", o.Interface, err)
	}
	if err := live.watch(l); err != nil {
		live.Close()
		return nil, fmt.Errorf("open %s: %w", o.Interface, err)
	}
	if err := live.judge(o); err != nil {
		live.Close()
		return nil, err
	}
	return live, nil
}

// OpenFile returns a capture file as if it were an interface.
func OpenFile(path string) (*Live, error) {
	handle, err := pcap.OpenOffline(path)
	if err != nil {
		return nil, err
	}
	return newLive(handle, Options{})
}

// activate opens the interface.
func activate(o Options) (*pcap.Handle, error) {
	inactive, err := pcap.NewInactiveHandle(o.Interface)
	if err != nil {
		return nil, err
	}
	defer inactive.CleanUp()
	for _, err := range []error{
		inactive.SetSnapLen(o.Snap),
		inactive.SetPromisc(o.Interface != AnyInterface), // libpcap 1.10.5 and later refuse it on any
		inactive.SetTimeout(ReadTimeout),
		inactive.SetBufferSize(o.BufferSize),
	} {
		if err != nil {
			return nil, err
		}
	}
	handle, err := inactive.Activate()
	if err == nil {
		return handle, cookOn(handle, o.Interface)
	}
	switch text := err.Error(); text { // gopacket keeps its error values to itself
	case "Permission Denied":
		return nil, fmt.Errorf("%w: %w", errNoRaw, inactive.Error())
	case "Interface Not Up":
		return nil, errors.New("the interface is down")
	}
	if cause := inactive.Error(); cause.Error() != "" {
		return nil, cause
	}
	return nil, err
}

// Version returns libpcap's own words about itself.
func Version() string { return pcap.Version() }
