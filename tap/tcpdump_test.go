package tap

import (
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/pcap"

	"pcapdaemon/testbed"
)

// TestKeepsAsTcpdump: recorder, live capture and tcpdump keep the same packets, byte
// for byte, of frames of all sizes, with and without tags, that come and go. Only
// "inbound" on one interface is left out: tcpdump rejects what came in before the
// kernel had its filter.
func TestKeepsAsTcpdump(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "tcpdump")
	for name, filters := range map[string][]string{
		"v0":         {"", "udp", "vlan", "vlan 7 and udp", "not vlan and less 100", "ether multicast"},
		AnyInterface: {"", "udp", "inbound", "outbound and ip6", "less 100", "ifindex 1"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			o := recordV0()
			o.Interface = name
			opened := openAll(t, l.recorded, o, filters)
			r := startRecorder(t, l.recorded, o, 8<<20)
			r.awaitUp(t)
			kept := startTcpdumps(t, l.recorded, name, filters)
			tags := taggings
			if name == AnyInterface { // where a tag within a packet confuses the kernel
				tags = taggings[:1]
			}
			frames := mixedFrames(400, tags)
			for i := range frames[:20] { // as large as a link allows
				frames[i] = append(make([]byte, 0, 1514), frames[i]...)
				number := frames[i][len(frames[i])-len("frame 00000"):]
				frames[i] = append(append(frames[i], make([]byte, 1514-len(frames[i])-len(number))...), number...)
			}
			sendFrames(t, l.other, "v1", frames[:200])
			sendFrames(t, l.recorded, "v0", frames[200:])
			time.Sleep(3 * ReadTimeout)
			live, theirs := takeAll(opened), kept()
			for i, filter := range filters {
				want := onlyNumbered(theirs[i])
				for who, got := range map[string][][]byte{
					"the recorder": onlyNumbered(r.readPast(t, filter)), "a live capture": onlyNumbered(live[i]),
				} {
					if !reflect.DeepEqual(want, got) {
						t.Errorf("%q: tcpdump keeps %d packets, %s %d, or they differ", filter, len(want), who, len(got))
					}
				}
				if filter == "" && len(want) != len(frames) {
					t.Errorf("want %d packets, tcpdump has %d", len(frames), len(want))
				}
			}
		})
	}
}

// startTcpdumps starts tcpdump once for each filter, and returns a function that
// ends all of them and returns what they have kept.
func startTcpdumps(t *testing.T, ns testbed.Namespace, iface string, filters []string) (end func() [][]Packet) {
	t.Helper()
	files, dir := make([]string, len(filters)), t.TempDir()
	processes := make([]*testbed.Process, len(filters))
	for i, filter := range filters {
		files[i] = filepath.Join(dir, string(rune('a'+i)))
		processes[i] = testbed.Start(t, ns.Command("tcpdump", "-Z", "root", "-U", "-n", "-i", iface, "-w", files[i], filter))
	}
	for _, p := range processes {
		testbed.Eventually(t, 10*time.Second, "tcpdump listens", func() bool {
			return strings.Contains(p.Output.String(), "listening on")
		})
	}
	return func() [][]Packet {
		time.Sleep(time.Second) // what the kernel still holds would be lost
		kept := make([][]Packet, len(filters))
		for i, p := range processes {
			p.Signal(t, syscall.SIGINT)
			p.Wait(t, 10*time.Second)
			kept[i] = readFile(t, files[i])
		}
		return kept
	}
}

// readFile returns the packets of a file.
func readFile(t *testing.T, name string) []Packet {
	t.Helper()
	file, err := pcap.OpenOffline(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return packetsOf(file)
}
