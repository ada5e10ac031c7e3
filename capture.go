package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
	"github.com/google/gopacket/pcapgo"
)

const (
	fileHeaderSize   = 24 // bytes, pcap-savefile(5)
	packetHeaderSize = 16 // bytes

	// readTimeout is how long the kernel may keep packets back to hand over
	// more of them at once. Longer saves an idle capture wake-ups, shorter
	// brings the last packet sooner.
	readTimeout = 100 * time.Millisecond
	// tail is how long after the end of a capture the kernel may still hold
	// packets from before it: a read timeout, and another for slow timers.
	tail = 2 * readTimeout
	// overrun is the time after the end at which a capture ends in any case,
	// as after a clock that was set back.
	overrun = time.Second
	// retryPause is the wait after a failed read.
	retryPause = 10 * time.Millisecond

	anyInterface = "any" // libpcap's pseudo-interface
)

// Why a capture stopped.
const (
	stopPackets   = "packets"
	stopBytes     = "bytes"
	stopTimeout   = "timeout"
	stopMemory    = "memory"
	stopShutdown  = "shutdown"
	stopInterface = "interface"
)

// A source hands out packets: a live interface, a file, or a test. All calls
// come from one goroutine, and none after Close.
type source interface {
	// ZeroCopyReadPacketData returns a packet that is valid until the next call,
	// or pcap.NextErrorTimeoutExpired if none came within the read timeout.
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
	SnapLen() int
	Stats() (*pcap.Stats, error)
	// Error returns the text behind the last failed read.
	Error() error
	Close()
}

// A tap says what to listen to.
type tap struct {
	iface      string
	filter     string // pcap-filter(7); empty: everything
	snap       int    // bytes
	bufferSize int    // of the kernel, in bytes
}

// open returns a source that is capturing already. The filter is compiled
// first: a filter that takes its time must not let the kernel's buffer fill
// with what it would have kept out.
func (t tap) open() (source, error) {
	if _, err := net.InterfaceByName(t.iface); err != nil && t.iface != anyInterface {
		// libpcap would try its other devices, and take packets away (nfqueue) or open USB buses.
		return nil, fmt.Errorf("interface: %s: no such network interface", quote(t.iface))
	}
	link := layers.LinkTypeEthernet // what nearly every interface has, loopback too
	if t.iface == anyInterface {
		link = layers.LinkTypeLinuxSLL
	}
	program, compileErr := compileFilter(link, t.snap, t.filter)

	handle, err := t.activate()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t.iface, err)
	}
	if compileErr == nil && handle.LinkType() == link && !needsHandle(t.filter) {
		err = handle.SetBPFInstructionFilter(program)
	} else {
		err = handle.SetBPFFilter(t.filter)
	}
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("bpf: compile filter %s: %w", quote(t.filter), err)
	}
	return newLiveSource(handle), nil
}

// needsHandle tells whether a filter means something else, or nothing,
// without an open interface: the kernel takes VLAN tags out of the packet,
// and broadcast addresses depend on the interface's netmask.
func needsHandle(filter string) bool {
	return strings.Contains(filter, "vlan") || strings.Contains(filter, "broadcast")
}

// activate opens the interface.
func (t tap) activate() (*pcap.Handle, error) {
	inactive, err := pcap.NewInactiveHandle(t.iface)
	if err != nil {
		return nil, err
	}
	defer inactive.CleanUp()
	for _, err := range []error{
		inactive.SetSnapLen(t.snap),
		inactive.SetPromisc(t.iface != anyInterface), // libpcap 1.10.5 and later refuse it on any
		inactive.SetTimeout(readTimeout),
		inactive.SetBufferSize(t.bufferSize),
	} {
		if err != nil {
			return nil, err
		}
	}
	handle, err := inactive.Activate()
	if err == nil {
		return handle, nil
	}
	switch text := err.Error(); text { // gopacket keeps its error values to itself
	case "Permission Denied":
		return nil, fmt.Errorf("the capability CAP_NET_RAW is missing: %w", inactive.Error())
	case "Interface Not Up":
		return nil, errors.New("the interface is down")
	}
	if cause := inactive.Error(); cause.Error() != "" {
		return nil, cause
	}
	return nil, err
}

// isDown tells whether an interface is known to be down.
func isDown(iface string) bool {
	i, err := net.InterfaceByName(iface)
	return err == nil && i.Flags&net.FlagUp == 0
}

// libpcapVersion returns libpcap's own words about itself.
func libpcapVersion() string { return pcap.Version() }

// Bounds end a capture, whichever comes first.
type bounds struct {
	packets int64
	bytes   int64 // of the file, its header included
	timeout time.Duration
}

// An outcome is what became of a capture.
type outcome struct {
	counts
	stop  string
	ended time.Time
	err   error // why packets may be missing
}

// record writes a source's packets to the buffer as a pcap file, until the
// bounds or the context end it. A packet belongs to the capture if its own time
// stamp lies before the end, however late libpcap hands it over.
func record(ctx context.Context, src source, start time.Time, b bounds, buf *buffer) outcome {
	var end, signalled atomic.Int64 // Unix time in nanoseconds
	timeout := start.Add(b.timeout).UnixNano()
	end.Store(timeout)
	overdue := time.AfterFunc(b.timeout+overrun, func() { end.Store(0) })
	defer overdue.Stop()
	defer context.AfterFunc(ctx, func() {
		now := time.Now().UnixNano()
		if end.CompareAndSwap(timeout, min(now, timeout)) && now < timeout {
			signalled.Store(now)
			overdue.Reset(overrun)
		}
	})()

	var out outcome
	out.stop, out.err = out.copyPackets(src, b, &end, buf)
	out.Bytes = buf.size
	out.ended = time.Now()
	if out.stop == stopTimeout {
		out.ended = time.Unix(0, timeout)
		if at := signalled.Load(); at != 0 {
			out.stop, out.ended = stopShutdown, time.Unix(0, at)
		}
	}
	stats, err := src.Stats()
	if err != nil {
		out.err = errors.Join(out.err, fmt.Errorf("read statistics: %w", err))
		return out
	}
	out.Received = int64(stats.PacketsReceived)
	out.Dropped = int64(stats.PacketsDropped)
	out.IfDropped = int64(stats.PacketsIfDropped)
	return out
}

// copyPackets is the capture loop; it returns why it stopped. The end may be
// moved meanwhile. Per packet it makes no allocation and takes no lock of ours.
func (out *outcome) copyPackets(src source, b bounds, end *atomic.Int64, buf *buffer) (stop string, err error) {
	file := pcapgo.NewWriter(buf)
	if err := file.WriteFileHeader(uint32(src.SnapLen()), fileLinkType(src.LinkType())); err != nil {
		return stopMemory, err
	}
	bulk, _ := src.(bulkSource)
	var broken time.Time // since when reads fail; zero: they do not
	for {
		if bulk != nil {
			// All but the last packet, and but those that are at some limit: these are judged below.
			room := buf.room()
			room = room[:min(int64(len(room)), b.bytes-buf.size)]
			packets, size := bulk.copyRecords(room, end, b.packets-out.Packets-1)
			out.Packets += packets
			buf.extend(size)
		}
		data, info, err := src.ZeroCopyReadPacketData()
		switch {
		case err == nil:
			broken = time.Time{}
			size := packetHeaderSize + len(data)
			switch {
			case info.Timestamp.UnixNano() >= end.Load():
				return stopTimeout, nil
			case buf.size+int64(size) > b.bytes:
				return stopBytes, nil
			case !buf.reserve(size):
				return stopMemory, nil
			}
			if err := file.WritePacket(info, data); err != nil {
				return stopMemory, err
			}
			if out.Packets++; out.Packets == b.packets {
				return stopPackets, nil
			}
		case errors.Is(err, pcap.NextErrorTimeoutExpired):
			if time.Now().UnixNano() >= end.Load()+int64(tail) {
				return stopTimeout, nil
			}
		case errors.Is(err, io.EOF): // a file has no more
			return stopTimeout, nil
		case broken.IsZero():
			broken = time.Now()
		case time.Since(broken) > tail: // what was in the ring has been read
			return stopInterface, src.Error()
		default:
			time.Sleep(retryPause)
		}
	}
}

// fileLinkType returns the LINKTYPE value that a file needs for a handle's
// DLT value. They differ for raw IP, whose DLT is not the same on every system.
func fileLinkType(handle layers.LinkType) layers.LinkType {
	const dltRaw, linkTypeRaw = 12, 101
	if handle == dltRaw {
		return linkTypeRaw
	}
	return handle
}
