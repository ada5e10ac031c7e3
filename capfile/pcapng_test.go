package capfile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"pcapdaemon/tap"
	"pcapdaemon/testbed"
	"pcapdaemon/text"
)

var (
	// began is a time whose nanoseconds matter.
	began = time.Unix(1700000000, 123456789).UTC()
	// ended is another one, whose lower half is below that of began.
	ended = began.Add(10 * time.Second)
)

// someFormat is pcapng as it would be on some machine.
var someFormat = pcapngFormat{application: "pcapdaemon devel", hardware: "x86_64, Processor", system: "Linux 6.1"}

// readPcapng reads a file whole, as another program would.
func readPcapng(t testing.TB, file io.Reader) ([]testbed.Packet, *pcapgo.NgReader) {
	t.Helper()
	r, err := pcapgo.NewNgReader(file, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	var packets []testbed.Packet
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			return packets, r
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, testbed.Packet{CaptureInfo: info, Data: data})
	}
}

// saveFile writes a capture file for other programs and returns its name.
func saveFile(t testing.TB, open func() io.Reader) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.pcapng")
	if err := os.WriteFile(name, readFile(t, open), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// sayOf returns what a program says about a capture file.
func sayOf(t testing.TB, program string, args ...string) string {
	t.Helper()
	testbed.NeedTools(t, program)
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestPcapngBytes(t *testing.T) {
	h := Header{Node: "web1", Interface: "eth0", Filter: "udp", Comment: "é", Snap: 96,
		LinkType: int(layers.LinkTypeEthernet)}
	c := Statistics{began, ended, 1, tap.Stats{Received: 7, Dropped: 3, IfDropped: 2}}
	record, _ := hex.DecodeString("00f15365" + "15cd5b07" + "05000000" + "dc050000" + "0102030405")
	const want = "" +
		// section header block: length, byte order, version 1.0, section of any length
		"0a0d0d0a" + "64000000" + "4d3c2b1a" + "01000000" + "ffffffffffffffff" +
		"01000200" + "c3a90000" + // opt_comment
		"02001100" + "7838365f" + "36342c20" + "50726f63" + "6573736f" + "72000000" + // shb_hardware
		"03000900" + "4c696e75" + "7820362e" + "31000000" + // shb_os
		"04001000" + "70636170" + "6461656d" + "6f6e2064" + "6576656c" + // shb_userappl
		"00000000" + "64000000" +
		// interface description block: length, Ethernet, snapshot length
		"01000000" + "38000000" + "01000000" + "60000000" +
		"02000400" + "65746830" + // if_name
		"03000400" + "77656231" + // if_description
		"09000100" + "09000000" + // if_tsresol
		"0b000400" + "00756470" + // if_filter
		"00000000" + "38000000" +
		// enhanced packet block: length, interface, time, 5 of 1500 bytes
		"06000000" + "28000000" + "00000000" + "fe9c9717" + "15cd853d" + "05000000" + "dc050000" +
		"01020304" + "05000000" + "28000000" +
		// interface statistics block: length, interface, time
		"05000000" + "64000000" + "00000000" + "009d9717" + "15b19191" +
		"02000800" + "fe9c9717" + "15cd853d" + // isb_starttime
		"03000800" + "009d9717" + "15b19191" + // isb_endtime
		"04000800" + "07000000" + "00000000" + // isb_ifrecv
		"05000800" + "02000000" + "00000000" + // isb_ifdrop
		"07000800" + "03000000" + "00000000" + // isb_osdrop
		"08000800" + "01000000" + "00000000" + // isb_usrdeliv
		"00000000" + "64000000"
	if got := hex.EncodeToString(readFile(t, someFormat.Content(h, c, [][]byte{record}))); got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
}

func TestPcapngReadBack(t *testing.T) {
	h := Header{Node: "web1", Interface: "eth0", Filter: "(not port 22) and (udp)", Snap: 4242, LinkType: 113,
		Comment: Comment("web1", "a", []byte(`{"node":"any"}`))}
	c := Statistics{began, ended, 4, tap.Stats{Received: 7, Dropped: 3, IfDropped: 2}}
	sizes := []int{0, 60, 61, 4242}
	packets, r := readPcapng(t, someFormat.Content(h, c, cut(newRecords(t, began, sizes...), 100))())
	for i, p := range packets {
		want := fmt.Sprint(began.Add(time.Duration(i)), sizes[i], sizes[i]+1)
		if got := fmt.Sprint(p.Timestamp, p.CaptureLength, p.Length); got != want {
			t.Errorf("packet %d: want %s, got %s", i, want, got)
		}
		if want := string(testbed.RandomBytes(sizes[i])); string(p.Data) != want {
			t.Errorf("packet %d holds something else", i)
		}
	}
	if len(packets) != len(sizes) {
		t.Errorf("want %d packets, got %d", len(sizes), len(packets))
	}
	wantSection := pcapgo.NgSectionInfo{Hardware: someFormat.hardware, OS: someFormat.system,
		Application: "pcapdaemon devel", Comment: h.Comment}
	if got := r.SectionInfo(); got != wantSection {
		t.Errorf("want %+v, got %+v", wantSection, got)
	}
	iface, err := r.Interface(0)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(h.Interface, h.Node, h.Filter, layers.LinkType(h.LinkType), h.Snap, 9)
	got := fmt.Sprint(iface.Name, iface.Description, iface.Filter, iface.LinkType, iface.SnapLength,
		iface.TimestampResolution)
	if got != want {
		t.Errorf("want %s, got %s", want, got)
	}
	wantStatistics := pcapgo.NgInterfaceStatistics{LastUpdate: ended, StartTime: began, EndTime: ended,
		PacketsReceived: 7, PacketsDropped: 2}
	if iface.Statistics != wantStatistics {
		t.Errorf("want %+v, got %+v", wantStatistics, iface.Statistics)
	}
}

// TestPcapngRecordsInPieces cuts records at each of their bytes, and reads in steps of all kinds.
func TestPcapngRecordsInPieces(t *testing.T) {
	records := newRecords(t, began, 3, 0, 41, 4)
	want := readFile(t, someFormat.Content(Header{}, Statistics{}, [][]byte{records}))
	for at := range len(records) + 1 {
		open := someFormat.Content(Header{}, Statistics{}, [][]byte{records[:at], nil, records[at:]})
		if err := iotest.TestReader(open(), want); err != nil {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	for size := 1; size < 40; size++ {
		if err := iotest.TestReader(someFormat.Content(Header{}, Statistics{}, cut(records, size))(), want); err != nil {
			t.Errorf("pieces of %d bytes: %v", size, err)
		}
	}
	for step := 1; step < 200; step++ {
		var got []byte
		room := make([]byte, step)
		for r := someFormat.Content(Header{}, Statistics{}, cut(records, 23))(); ; {
			n, err := r.Read(room)
			got = append(got, room[:n]...)
			if err == io.EOF {
				break
			}
			if n == 0 {
				t.Fatalf("reads of %d bytes: no byte and %v", step, err)
			}
		}
		if string(got) != string(want) {
			t.Errorf("reads of %d bytes: want\n%x\ngot\n%x", step, want, got)
		}
	}
}

// TestPcapngPadsWithZeros: memory that held something before does not show.
func TestPcapngPadsWithZeros(t *testing.T) {
	records := newRecords(t, began, 1, 2, 3, 5)
	open := someFormat.Content(Header{}, Statistics{}, [][]byte{records})
	want := readFile(t, open)
	room := make([]byte, len(want))
	for i := range room {
		room[i] = 0xee
	}
	if _, err := io.ReadFull(open(), room); err != nil || string(room) != string(want) {
		t.Errorf("want\n%x\ngot\n%x (%v)", want, room, err)
	}
}

func TestPcapngDamagedRecords(t *testing.T) {
	records := newRecords(t, began, 60, 60)
	for name, damaged := range map[string][]byte{
		"ends in a header": records[:80],
		"ends in a packet": records[:len(records)-1],
		"length too large": append(records[:76:76], 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0),
	} {
		for _, step := range []int{1, 100, 1 << 16} {
			t.Run(fmt.Sprint(name, ", read by ", step), func(t *testing.T) {
				r := someFormat.Content(Header{}, Statistics{}, cut(damaged, 50))()
				_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, make([]byte, step))
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("want %v, got %v", io.ErrUnexpectedEOF, err)
				}
				if _, again := r.Read(make([]byte, 1)); again != err {
					t.Errorf("want %v again, got %v", err, again)
				}
			})
		}
	}
}

func TestPcapngSnapshotLength(t *testing.T) {
	for snap, want := range map[int]uint32{-1: 1, 0: 1, 1: 1, 96: 96, 262144: 262144, 262145: 262144, 0xffffffff: 262144} {
		_, r := readPcapng(t, someFormat.Content(Header{Snap: snap}, Statistics{}, nil)())
		if iface, err := r.Interface(0); err != nil || iface.SnapLength != want {
			t.Errorf("%d: want %d, got %d (%v)", snap, want, iface.SnapLength, err)
		}
	}
}

func TestLegible(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"plain":                   {"tcp[13] & 2 > 0", "tcp[13] & 2 > 0"},
		"other scripts":           {"größer 東京 👩‍💻", "größer 東京 👩‍💻"},
		"end of a C string":       {"a\x00b", "a\ufffdb"},
		"control characters":      {"\x1b[2J\r\n\t\x7f\u009b", "\ufffd[2J\ufffd\ufffd\ufffd\ufffd\ufffd"},
		"no UTF-8":                {"a\xff\xc3", "a\ufffd\ufffd"},
		"as long as can be":       {strings.Repeat("x", 65532), strings.Repeat("x", 65532)},
		"longer by one":           {strings.Repeat("x", 65533), strings.Repeat("x", 65532)},
		"much longer":             {strings.Repeat("x", 70000), strings.Repeat("x", 65532)},
		"cut in a character":      {"a" + strings.Repeat("é", 35000), "a" + strings.Repeat("é", 32765)},
		"longer when replaced":    {strings.Repeat("\x00", 70000), strings.Repeat("\ufffd", 21844)},
		"cut in a long character": {"ab" + strings.Repeat("👩", 17500), "ab" + strings.Repeat("👩", 16382)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := legible(test.text, maxOption); got != test.want || !utf8.ValidString(got) {
				t.Errorf("want %d bytes, got %d: %s", len(test.want), len(got), text.Printable(got))
			}
		})
	}
}

// TestPcapngHostileTexts: whatever is in a text, all programs read the file, and the text to its end.
func TestPcapngHostileTexts(t *testing.T) {
	records := newRecords(t, began, 60, 61, 62)
	var sections []byte
	lengths := ""
	for name, word := range map[string]string{
		"too long":           strings.Repeat("x", 70000),
		"too long for ASCII": strings.Repeat("é", 70000),
		"end of a C string":  "a\x00b",
		"control characters": "a\x1b[2J\r\nb",
		"no UTF-8":           "a\xff\xfeb",
		"nothing":            "",
		"a byte":             "x",
	} {
		t.Run(name, func(t *testing.T) {
			f := pcapngFormat{hardware: word, system: word}
			h := Header{Node: word, Interface: word, Filter: word, Comment: word, Snap: tap.MaxSnap,
				LinkType: int(layers.LinkTypeEthernet)}
			open := f.Content(h, Statistics{Started: began, Ended: ended}, cut(records, 100))
			packets, r := readPcapng(t, open())
			iface, err := r.Interface(0)
			if len(packets) != 3 || err != nil {
				t.Fatalf("want 3 packets, got %d (%v)", len(packets), err)
			}
			want := legible(word, maxOption)
			s := r.SectionInfo()
			for place, got := range map[string]string{"comment": s.Comment, "hardware": s.Hardware, "system": s.OS,
				"interface": iface.Name, "node": iface.Description} {
				if got != want {
					t.Errorf("%s: want %d bytes, got %d: %s", place, len(want), len(got), text.Printable(got))
				}
			}
			if want := legible(word, maxOption-1); iface.Filter != want {
				t.Errorf("filter: want %d bytes, got %d: %s", len(want), len(iface.Filter), text.Printable(iface.Filter))
			}

			file := saveFile(t, open)
			if got := sayOf(t, "tcpdump", "--count", "-r", file); got != "3 packets\n" {
				t.Errorf("tcpdump: want 3 packets, got %s", got)
			}
			sections, lengths = append(sections, readFile(t, open)...), lengths+"61\n62\n63\n"
			if got := sayOf(t, "capinfos", "-k", file); word != "" && !strings.Contains(got, "    "+want+"\n") {
				t.Errorf("capinfos: want the comment, got %s", text.Printable(got))
			}
		})
	}
	// All in one file, since tshark takes long to start.
	file := saveFile(t, func() io.Reader { return bytes.NewReader(sections) })
	if got := sayOf(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.len"); got != lengths {
		t.Errorf("tshark: want lengths 61 to 63 of each file, got %q", got)
	}
}

// TestPcapngSaysAll reads the options with Wireshark's own programs.
func TestPcapngSaysAll(t *testing.T) {
	f := newPcapngFormat("pcapdaemon devel")
	h := Header{Node: "web1", Interface: "eth0", Filter: "(not port 22) and (tcp[13] & 2 > 0)", Snap: 96,
		LinkType: int(layers.LinkTypeEthernet),
		Comment:  Comment("web1", "a", []byte(`{"node":"any","bpf":"tcp[13] & 2 > 0"}`))}
	c := Statistics{began, ended, 2, tap.Stats{Received: 7, Dropped: 3, IfDropped: 5}}
	file := saveFile(t, f.Content(h, c, [][]byte{newRecords(t, began, 60, 61)}))

	got := squeeze(sayOf(t, "capinfos", file))
	for _, want := range []string{
		"File type: Wireshark/... - pcapng",
		"File timestamp precision: nanoseconds (9)",
		"Number of packets: 2",
		"First packet time: 2023-11-14 22:13:20.123456789",
		"Capture hardware: " + f.hardware,
		"Capture oper-sys: " + f.system,
		"Capture application: pcapdaemon devel",
		"Capture comment: " + h.Comment,
		"Name = eth0",
		"Description = web1",
		"Encapsulation = Ethernet (1 - ether)",
		"Capture length = 96",
		"Time resolution = 0x09",
		"Filter string = " + h.Filter,
		"Number of stat entries = 1",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("capinfos: want %q, got\n%s", want, got)
		}
	}

	got = squeeze(sayOf(t, "tshark", "-X", "read_format:MIME Files Format", "-V", "-r", file))
	for _, want := range []string{
		"Comment: " + h.Comment,
		"User Application: pcapdaemon devel",
		"Filter type: libpcap string (0)",
		"Filter string: " + h.Filter,
		"[Timestamp: Nov 14, 2023 22:13:30.123456789 UTC]",
		"Number of Received Packets: 7",
		"Number of Dropped Packets: 5",
		"Number of Dropped Packets by OS: 3",
		"Number of Delivered to the User Packets: 2",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("tshark: want %q, got\n%s", want, got)
		}
	}
	if strings.Contains(got, "Expert Info") {
		t.Errorf("tshark complains:\n%s", got)
	}
	if !strings.HasPrefix(f.system, "Linux ") || f.hardware == "" {
		t.Errorf("want a machine with Linux, got %+v", f)
	}
}

// squeeze takes indents and aligning spaces out of a text.
func squeeze(text string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return lines.String()
}

// TestPcapngMerges: files of several hosts and link types become one, in the order of time.
func TestPcapngMerges(t *testing.T) {
	args := []string{"-w", filepath.Join(t.TempDir(), "all.pcapng")}
	for i, h := range []Header{
		{Node: "web1", Interface: "eth0", Snap: 96, LinkType: int(layers.LinkTypeEthernet), Comment: "first"},
		{Node: "web2", Interface: "any", Snap: tap.MaxSnap, LinkType: int(layers.LinkTypeLinuxSLL), Comment: "second", Filter: "udp"},
		{Node: "db1", Interface: "tun0", Snap: 1500, LinkType: 101, Comment: "third"},
	} {
		c := Statistics{began, ended, 3, tap.Stats{Received: int64(10 + i)}}
		records := newRecords(t, began.Add(time.Duration(i)*time.Second), 60, 61, 62)
		args = append(args, saveFile(t, someFormat.Content(h, c, [][]byte{records})))
	}
	sayOf(t, "mergecap", args...)
	merged := args[1]

	info := squeeze(sayOf(t, "capinfos", merged))
	for _, want := range []string{"Number of packets: 9", "Number of interfaces in file: 3", "Strict time order: True",
		"Encapsulation = Ethernet (1 - ether)", "Encapsulation = Linux cooked-mode capture v1 (25 - linux-sll)",
		"Encapsulation = Raw IP (7 - rawip)", "Filter string = udp"} {
		if !strings.Contains(info, want+"\n") {
			t.Errorf("capinfos: want %q, got\n%s", want, info)
		}
	}
	want := strings.Repeat("web1\teth0\n", 3) + strings.Repeat("web2\tany\n", 3) + strings.Repeat("db1\ttun0\n", 3)
	got := sayOf(t, "tshark", "-r", merged, "-T", "fields",
		"-e", "frame.interface_description", "-e", "frame.interface_name")
	if got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
}

// FuzzPcapngSizes: blocks follow each other without a gap, none is larger than
// its layout says, and all is read back, however records and texts are.
func FuzzPcapngSizes(f *testing.F) {
	f.Add([]byte{}, "", uint16(0), uint16(0))
	f.Add([]byte{0, 1, 2, 3, 4, 255}, "udp", uint16(15), uint16(31))
	f.Add([]byte{200, 200}, "\x00\xff\u009b", uint16(1<<16-1), uint16(1))
	f.Fuzz(func(t *testing.T, lengths []byte, text string, piece, step uint16) {
		h := Header{Node: text, Interface: text, Filter: text, Comment: strings.Repeat(text, 10), Snap: tap.MaxSnap, LinkType: 1}
		sizes := make([]int, len(lengths))
		layout := someFormat.Layout(h)
		want := layout.Fixed
		for i, length := range lengths {
			sizes[i] = int(length) * int(length) // up to 65025
			want += layout.Packet.Size(sizes[i])
		}
		chunks := cut(newRecords(t, began, sizes...), int(piece)+1)
		open := someFormat.Content(h, Statistics{Started: began, Ended: ended}, chunks)
		var file strings.Builder
		if _, err := io.CopyBuffer(&file, struct{ io.Reader }{open()}, make([]byte, int(step)+1)); err != nil {
			t.Fatal(err)
		}
		if int64(file.Len()) != want {
			t.Fatalf("want %d bytes, got %d", want, file.Len())
		}
		for rest := []byte(file.String()); len(rest) > 0; {
			size := binary.LittleEndian.Uint32(rest[4:])
			if size%4 != 0 || size < 12 || int(size) > len(rest) || binary.LittleEndian.Uint32(rest[size-4:]) != size {
				t.Fatalf("a block of %d bytes, %d before the end", size, len(rest))
			}
			rest = rest[size:]
		}
		packets, _ := readPcapng(t, strings.NewReader(file.String()))
		if len(packets) != len(sizes) {
			t.Fatalf("want %d packets, got %d", len(sizes), len(packets))
		}
		for i, p := range packets {
			if string(p.Data) != string(testbed.RandomBytes(sizes[i])) || !p.Timestamp.Equal(began.Add(time.Duration(i))) {
				t.Fatalf("packet %d differs", i)
			}
		}
	})
}

// benchmarkRecords returns records of packets of a size as a capture holds
// them, and how many: more than a cache holds.
func benchmarkRecords(t testing.TB, size, bytes int) (pieces [][]byte, packets int) {
	record := newRecords(t, began, size)
	packets = bytes / len(record)
	all := make([]byte, 0, bytes)
	for range packets {
		all = append(all, record...)
	}
	return cut(all, 1<<20), packets
}

// BenchmarkFormats reads files as io.Copy does, from memory that no cache holds. One operation is one packet.
func BenchmarkFormats(b *testing.B) {
	for _, name := range []string{"pcap", "pcapng"} {
		for _, size := range []int{200, 1400} {
			b.Run(fmt.Sprintf("%s/%dB", name, size), func(b *testing.B) {
				pieces, packets := benchmarkRecords(b, size, 64<<20)
				open := bothFormats[name].Content(Header{}, Statistics{}, pieces)
				room := make([]byte, 32<<10)
				b.ReportAllocs()
				b.ResetTimer()
				for left := b.N; left > 0; left -= packets {
					n := int64(min(left, packets)) * bothFormats[name].Layout(Header{}).Packet.Size(size)
					_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{io.LimitReader(open(), n)}, room)
				}
			})
		}
	}
}

func TestPcapngAllocatesNothingPerPacket(t *testing.T) {
	room := make([]byte, 32<<10)
	allocations := func(size int) float64 {
		pieces, _ := benchmarkRecords(t, 200, size)
		open := someFormat.Content(Header{}, Statistics{}, pieces)
		return testing.AllocsPerRun(20, func() {
			for r, err := open(), error(nil); err == nil; {
				_, err = r.Read(room)
			}
		})
	}
	if once, fourfold := allocations(1<<20), allocations(4<<20); fourfold > once+1 {
		t.Errorf("want as many allocations for 4 MiB as for 1 MiB, %v, got %v", once, fourfold)
	}
}

// TestPcapngNamesTheMachine: a file says on what it was made.
func TestPcapngNamesTheMachine(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	model := ""
	if found := regexp.MustCompile(`(?m)^model name\s*: *(.*)$`).FindStringSubmatch(string(info)); found != nil {
		model = found[1]
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	want := unix.ByteSliceToString(name.Machine[:])
	if model != "" {
		want += ", " + model
	}
	if got := newPcapngFormat("x").hardware; got != want {
		t.Errorf("want %q, got %q", want, got)
	}
}
