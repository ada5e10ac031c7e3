package tap

import (
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// cookedFilters are filters whose meaning depends on the header that libpcap puts
// before packets: whether it counts for their length, and where they begin.
var cookedFilters = []string{"", "greater 60", "less 60", "len = 60", "ip", "ip and greater 60", "udp", "not udp",
	"host 10.0.0.1", "ip[8] = 9", "inbound", "outbound and less 70", "link[0:2] = 0", "link[0:2] = 4",
	"link[4:2] = 0", "link[4:2] = 0 and greater 60", "link[14:2] = 0x800", "link[14:2] = 0x800 and len = 76"}

// TestCookedLinkTypes: on interfaces for which libpcap makes headers up, or has
// none, the recorder yields what a live capture beside it does.
func TestCookedLinkTypes(t *testing.T) {
	t.Parallel()
	ns := testbed.NewNamespace(t, "cooked")
	for name, test := range map[string]struct{ hardware, link int }{
		"nlmon":   {unix.ARPHRD_NETLINK, 253},
		"irda":    {unix.ARPHRD_IRDA, 144},
		"lapd":    {8445, 177}, // ARPHRD_LAPD, which the kernel's headers do not have
		"unknown": {unix.ARPHRD_VOID, 113},
		"ppp":     {unix.ARPHRD_PPP, 113},
		"tunnel":  {unix.ARPHRD_TUNNEL, 12},
		"tun":     {unix.ARPHRD_NONE, 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tun := newTun(t, ns, name, test.hardware)
			o := Options{Interface: name, Snap: MaxSnap}
			r := startRecorder(t, ns, o, MinRecorder)
			r.awaitUp(t)
			filters, opened := openKnown(t, ns, r, cookedFilters)
			if want, got := linkTypeOf(test.link), opened[0].LinkType(); want != got {
				t.Errorf("want link type %d, got %d", want, got)
			}
			var out [][]byte
			for size := 40; size < 100; size += 2 {
				packet := numberedPacket(size)
				if _, err := tun.Write(packet); err != nil {
					t.Fatal(err)
				}
				out = append(out, packet)
			}
			sendFrames(t, ns, name, out)
			testbed.Eventually(t, 5*time.Second, "all recorded", func() bool {
				return len(onlyNumbered(r.readPast(t, ""))) == 2*len(out)
			})
			time.Sleep(ReadTimeout) // the live captures' blocks are retired by then, too
			kept := takeAll(opened)
			for i, filter := range filters {
				want, got := onlyNumbered(kept[i]), onlyNumbered(r.readPast(t, filter))
				if !reflect.DeepEqual(want, got) {
					t.Errorf("%q: live %d packets, recorded %d, or they differ", filter, len(want), len(got))
				}
				if filter == "greater 60" && len(want) != 40 {
					t.Errorf("%q: want 40 packets, as long as they are on the link, got %d", filter, len(want))
				}
			}
		})
	}
}

// TestMadeHeaders: the headers that libpcap makes up have all that the kernel says of
// a packet, each byte of it.
func TestMadeHeaders(t *testing.T) {
	k := newFakeKernel(t, 2, leastRing, 4096)
	k.receive(time.Unix(1, 0), numbered(0, 3000))
	k.retire()
	// struct sockaddr_ll: family, protocol, index, hardware type, direction, length of the address, and that
	native := binary.NativeEndian
	from := native.AppendUint32([]byte("\x11\x00\x86\xdd"), 0x01020304)
	from = append(native.AppendUint16(from, 0x0708), "\x05\x06\xa1\xa2\xa3\xa4\xa5\xa6"...)
	copy(k.block(1)[48+48:], from)
	k.ring.takeBlocks()
	for link, header := range map[int]string{
		113:       "\x00\x05\x07\x08\x00\x06\xa1\xa2\xa3\xa4\xa5\xa6\x00\x00\x86\xdd",
		linuxSLL2: "\x86\xdd\x00\x00\x01\x02\x03\x04\x07\x08\x05\x06\xa1\xa2\xa3\xa4\xa5\xa6\x00\x00",
	} {
		room := make([]byte, 4096)
		k.ring.newCursor(time.Unix(0, 0), true).take(&want{snap: len(header), link: link}, room, 1, never)
		if got := string(room[recordHeader:][:len(header)]); header != got {
			t.Errorf("link type %d: want % x, got % x", link, header, got)
		}
	}
}

// newTun returns an interface of a hardware type, to which packets are written
// that come in by it. It takes away what goes out.
func newTun(t *testing.T, ns testbed.Namespace, name string, hardware int) *os.File {
	t.Helper()
	var tun *os.File
	ns.Do(t, func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		tun = os.NewFile(uintptr(fd), "tun")
		request, err := unix.NewIfreq(name)
		if err != nil {
			t.Error(err)
			return
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			t.Error(err)
			return
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, hardware); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { tun.Close() })
	ns.IP(t, "link", "set", name, "up")
	return tun
}

// openKnown opens an interface once for each filter that libpcap has for its link
// type, and fails unless the recorder has the same.
func openKnown(t *testing.T, ns testbed.Namespace, r run, filters []string) (known []string, opened []*Live) {
	t.Helper()
	ns.Do(t, func() {
		for _, filter := range filters {
			live, liveErr := listen(question{iface: r.options.Interface, snap: MaxSnap, expression: filter})
			_, err := r.compile(filter)
			if (err == nil) != (liveErr == nil) {
				t.Errorf("%q: live %v, recorded %v", filter, liveErr, err)
			}
			if liveErr != nil {
				continue
			}
			t.Cleanup(live.Close)
			if err == nil {
				known, opened = append(known, filter), append(opened, live)
			}
		}
	})
	return known, opened
}

// numberedPacket returns an IPv4 packet of so many bytes, which is its number.
func numberedPacket(size int) []byte {
	packet := append([]byte("\x45\x00\x00\x00\x00\x00\x00\x00\x09\x11\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02"),
		make([]byte, size)...)
	packet[3] = byte(size)
	copy(packet[size-len("frame 00000"):], fmt.Sprintf("frame %05d", size))
	return packet[:size]
}
