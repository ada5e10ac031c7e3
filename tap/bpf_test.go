package tap

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
)

// deadFilters are filters that need no open interface.
var deadFilters = []string{
	"udp", "tcp", "not udp", "ip", "ip6", "arp", "port 53", "not port 53", "udp dst port 1024", "portrange 1000-2000",
	"host 10.0.0.1", "net 10.0.0.0/8", "src net 10.0.0.0/9 and not dst port 53", "ether host 02:00:00:00:00:01",
	"ether broadcast", "ether multicast", "ip multicast", "less 100", "greater 100", "len = 77", "len % 3 = 1",
	"ip[8] < 64", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "ip[2:2] - ((ip[0] & 0xf) << 2) > 60",
	"udp[8:4] = 0x7061636b", "ether[12:2] ^ 0x0800 = 0", "(ip[1] + 7) / (ip[8] & 1) > 3",
	"1 << (ip[8] & 31) & 0x80000001 != 0", "ip[2:2] >> (ip[8] & 7) > 100",
	"ip6 proto 17", "icmp or icmp6", "ip proto 47", "ether proto 0x88cc", "-ip[9] > 4294967270",
	"vlan", "vlan 7 and udp", "mpls",
}

// compileDead compiles a filter without an interface.
func compileDead(t testing.TB, filter string) program {
	t.Helper()
	code, err := pcap.CompileBPFFilter(layers.LinkTypeEthernet, 262144, filter)
	if err != nil {
		t.Fatalf("%s: %v", filter, err)
	}
	return code
}

// TestJudgesAsLibpcap compares with libpcap's own interpreter, on packets that
// are whole, cut off, or nonsense.
func TestJudgesAsLibpcap(t *testing.T) {
	random := newRandom(1)
	for _, filter := range deadFilters {
		code := compileDead(t, filter)
		if err := code.checkRecorded(); err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		reference, err := pcap.NewBPF(layers.LinkTypeEthernet, 262144, filter)
		if err != nil {
			t.Fatal(err)
		}
		matched := 0
		for range 4000 {
			data, length := randomFrame(random)
			want := reference.Matches(gopacketInfo(data, length), data)
			if got := code.judge(data, length, nil); want != got {
				t.Fatalf("%s: want %v, got %v for % x of %d bytes", filter, want, got, data, length)
			}
			if want {
				matched++
			}
		}
		if matched == 0 {
			t.Logf("%s matches none", filter)
		}
	}
}

// TestTagStandsBeside: code that is compiled for an open interface finds the
// outer VLAN tag beside the packet, and the next one in it.
func TestTagStandsBeside(t *testing.T) {
	const loadPresent, loadTCI, loadTPID = 0xfffff030, 0xfffff02c, 0xfffff03c
	tag := &vlanTag{tpid: 0x8100, tci: 0xe007}
	for name, test := range map[string]struct {
		place uint32
		tag   *vlanTag
		value uint32
	}{
		"a tag":              {loadPresent, tag, 1},
		"no tag":             {loadPresent, nil, 0},
		"what is in the tag": {loadTCI, tag, 0xe007},
		"what is in none":    {loadTCI, nil, 0},
		"its protocol":       {loadTPID, tag, 0x8100},
	} {
		for _, equal := range []bool{true, false} {
			value := test.value
			if !equal {
				value++
			}
			code := program{{Code: 0x30, K: test.place}, {Code: 0x15, Jf: 1, K: value}, {Code: 0x06, K: 1}, {Code: 0x06}}
			if err := code.checkRecorded(); err != nil {
				t.Fatal(err)
			}
			if got := code.judge(make([]byte, 60), 60, test.tag); got != equal {
				t.Errorf("%s: want %d == %d to be %v", name, test.value, value, equal)
			}
		}
	}
}

// TestUnsoundPrograms: a program that would leave its bounds, or asks for what
// is not recorded, is refused before it runs.
func TestUnsoundPrograms(t *testing.T) {
	end := pcap.BPFInstruction{Code: 0x06, K: 1}
	for name, test := range map[string]struct {
		program program
		words   string // "": sound
	}{
		"everything":                   {program{end}, ""},
		"nothing at all":               {program{}, "no end"},
		"no end":                       {program{{Code: 0x00}}, "no end"},
		"an unknown instruction":       {program{{Code: 0x09}, end}, "instruction 0"},
		"an instruction of 16 bits":    {program{{Code: 0x106}, end}, "instruction 0"},
		"negation with an operand":     {program{{Code: 0x8c}, end}, "instruction 0"},
		"a jump to the end":            {program{{Code: 0x05}, end}, ""},
		"a jump past the end":          {program{{Code: 0x05, K: 1}, end}, "instruction 0"},
		"a jump far past the end":      {program{{Code: 0x05, K: 0x7fffffff}, end}, "instruction 0"},
		"a jump back":                  {program{{Code: 0x05, K: 0xffffffff}, end}, "a loop (protochain)"},
		"a branch to the end":          {program{{Code: 0x15}, end}, ""},
		"a branch past the end":        {program{{Code: 0x15, Jf: 1}, end}, "instruction 0"},
		"another branch past the end":  {program{{Code: 0x1d, Jt: 1}, end}, "instruction 0"},
		"the last word of memory":      {program{{Code: 0x02, K: 15}, {Code: 0x61, K: 15}, end}, ""},
		"a store past the memory":      {program{{Code: 0x02, K: 16}, end}, "instruction 0"},
		"another store":                {program{{Code: 0x03, K: 16}, end}, "instruction 0"},
		"a load past the memory":       {program{end, {Code: 0x60, K: 16}, end}, "instruction 1"},
		"another load":                 {program{{Code: 0x61, K: 0x80000000}, end}, "instruction 0"},
		"division by a constant":       {program{{Code: 0x34, K: 3}, end}, ""},
		"division by zero":             {program{{Code: 0x34}, end}, "instruction 0"},
		"the rest of one":              {program{{Code: 0x94}, end}, "instruction 0"},
		"division by what X will hold": {program{{Code: 0x3c}, end}, ""},
		"a shift by 31":                {program{{Code: 0x64, K: 31}, end}, ""},
		"a shift by 32":                {program{{Code: 0x74, K: 32}, end}, "instruction 0"},
		"direction":                    {program{{Code: 0x28, K: 0xfffff004}, end}, ""},
		"interface":                    {program{{Code: 0x20, K: 0xfffff008}, end}, ""},
		"some other thing":             {program{{Code: 0x20, K: 0xfffff014}, end}, "not recorded"},
		"from the network header":      {program{{Code: 0x20, K: 0xfff00000}, end}, "not recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.program.checkRecorded()
			if (err == nil) != (test.words == "") || err != nil && !strings.Contains(err.Error(), test.words) {
				t.Errorf("want %q, got %v", test.words, err)
			}
		})
	}
}

// randomFrame returns a frame that is nearly right, and its length.
func randomFrame(random *rand.Rand) ([]byte, int) {
	pick := func(values ...uint16) uint16 { return values[random.IntN(len(values))] }
	frame := make([]byte, 14, 1600)
	for i := range 12 {
		frame[i] = byte(pick(0, 1, 2, 0xff))
	}
	if random.IntN(4) == 0 {
		copy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01")
	}
	kind := pick(0x0800, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88cc, 0x8847)
	binary.BigEndian.PutUint16(frame[12:], kind)
	if kind == 0x8100 {
		frame = binary.BigEndian.AppendUint16(frame, pick(1, 7, 0xe007))
		kind = pick(0x0800, 0x86dd, 0x8100)
		frame = binary.BigEndian.AppendUint16(frame, kind)
	}
	payload := make([]byte, 20+random.IntN(120))
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	if kind == 0x0800 {
		payload[0] = byte(pick(0x45, 0x45, 0x45, 0x46, 0x4f))
		payload[9] = byte(pick(6, 17, 17, 1, 47))
		binary.BigEndian.PutUint16(payload[6:], pick(0, 0, 0x4000, 0x2001))
		copy(payload[12:], "\x0a\x00\x00\x01\x0a\x00\x00\x02")
		binary.BigEndian.PutUint16(payload[16:], pick(0x0a00, 0xe000, 0xffff))
	}
	if kind == 0x86dd {
		payload[6] = byte(pick(6, 17, 58))
	}
	if at := 20; len(payload) > at+12 {
		binary.BigEndian.PutUint16(payload[at:], pick(53, 1024, 1500, 60000))
		binary.BigEndian.PutUint16(payload[at+2:], pick(53, 1024, 1500, 60000))
		if random.IntN(2) == 0 {
			copy(payload[at+8:], "pack")
		}
	}
	frame = append(frame, payload...)
	if random.IntN(3) == 0 {
		return frame[:1+random.IntN(len(frame))], len(frame)
	}
	return frame, len(frame)
}

// gopacketInfo describes a frame.
func gopacketInfo(data []byte, length int) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{CaptureLength: len(data), Length: length}
}

// newRandom returns a source of numbers that is the same every time.
func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// farOffsets returns places that a packet of so many bytes may ask for: within it,
// at its end, and where sums pass 2^31 and 2^32.
func farOffsets(length uint32) []uint32 {
	var offsets []uint32
	for _, near := range []uint32{0, length, 1 << 31, besideLowest + 0x7ffff000, 0} {
		for d := range uint32(9) {
			offsets = append(offsets, near+d-4)
		}
	}
	return append(offsets, 14, 0xfffff000, 0xfffff030, 0xfff00000)
}

// TestLoadsWherePacketsSay: a load at a place that the packet chooses finds what is
// there, or says no, as libpcap's interpreter does; also behind a header that is
// made up. Sums pass 2^32 as they do in the kernel.
func TestLoadsWherePacketsSay(t *testing.T) {
	const size = 40
	data, r := make([]byte, size), newSmallRing(t, leastRing, 4096)
	for i := 0; i < size; i += 3 {
		data[i] = 1 // so that other bytes than those that were meant show
	}
	for _, link := range []int{ethernet, linuxSLL2} {
		before := uint32(shapeOf(link).cooked)
		for _, width := range []uint16{0x00, 0x08, 0x10} { // a word, half of it, a byte
			for _, x := range farOffsets(size + before) {
				binary.BigEndian.PutUint32(data, x)
				for _, k := range append(farOffsets(size+before), before) {
					there := program{{Code: 0x20 | width, K: x + k}, {Code: 0x16}}
					chosen := program{{Code: 0x20, K: before}, {Code: 0x07}, {Code: 0x40 | width, K: k}, {Code: 0x16}}
					if x+k < besideLowest {
						checkAsLibpcap(t, r, there, there, data, link)
					}
					checkAsLibpcap(t, r, chosen, there, data, link)
				}
			}
		}
	}
	for _, filter := range []string{"ether[ether[0:4]:4] = 1", "ether[ether[0:4]:2] >= 0", "ether[ether[0:4] + 14:1] < 9",
		"ether[ether[0:4] - 8:4] != 0", "ether[ether[0:4] << 3:4] >= 0", "ether[ether[ether[0:4]:1]:4] >= 0"} {
		code := compileDead(t, filter)
		for _, x := range farOffsets(size) {
			binary.BigEndian.PutUint32(data, x)
			checkAsLibpcap(t, r, code, code, data, ethernet)
		}
	}
}

// checkAsLibpcap checks that a packet of a link type is judged by a program as
// libpcap judges it by another one. The packet goes through a ring.
func checkAsLibpcap(t *testing.T, r *ring, ours, theirs program, data []byte, link int) {
	t.Helper()
	reference, err := (*pcap.Handle)(nil).NewBPFInstructionFilter(theirs)
	if err != nil {
		t.Fatal(err)
	}
	all, some := r.newCursor(time.Unix(0, 0), false), r.newCursor(time.Unix(0, 0), false)
	r.put(time.Unix(1, 0), data, len(data), nil)
	room := make([]byte, 256)
	_, bytes, _ := all.take(&want{snap: MaxSnap, link: link}, room, 1, never)
	whole := room[recordHeader:bytes]
	packets, _, _ := some.take(&want{snap: MaxSnap, link: link, filter: ours}, make([]byte, 256), 1, never)
	if want := reference.Matches(gopacketInfo(whole, len(whole)), whole); want != (packets == 1) {
		t.Fatalf("%+v, %d bytes that begin with % x: want %v, got %v", ours, len(whole), data[:4], want, packets == 1)
	}
}
