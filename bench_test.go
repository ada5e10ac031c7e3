package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/tap"
)

// benchmarkMemory is the pool of a benchmark, in bytes: more than a cache
// holds, so that what is written goes where a capture goes.
const benchmarkMemory = 64 * chunkSize

// benchmarkPackets is how many packets of a size fit into benchmarkMemory.
func benchmarkPackets(size int) int {
	return (benchmarkMemory - fileHeaderSize) / (packetHeaderSize + size)
}

// newWarmPool returns a pool whose pages are there already, as they are after a first capture.
func newWarmPool(b *testing.B) *pool {
	p := newPool(benchmarkMemory)
	buf := newBuffer(p)
	if !buf.reserve(benchmarkMemory) {
		b.Fatal("no memory")
	}
	buf.free()
	b.Cleanup(p.release)
	return p
}

// forSizes runs a benchmark with packets of 200 and of 1400 bytes.
func forSizes(b *testing.B, f func(b *testing.B, size int)) {
	for _, size := range []int{200, 1400} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(packetHeaderSize + size))
			f(b, size)
		})
	}
}

// BenchmarkBufferWrite writes packets as pcapgo does, the header and then the data.
func BenchmarkBufferWrite(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		header, data := make([]byte, packetHeaderSize), make([]byte, size)
		buf := newBuffer(p)
		for b.Loop() {
			if buf.size+int64(len(header)+len(data)) > benchmarkMemory {
				buf.free()
				buf = newBuffer(p)
			}
			_, _ = buf.Write(header)
			_, _ = buf.Write(data)
		}
		buf.free()
	})
}

// BenchmarkRecord is the capture loop without libpcap.
func BenchmarkRecord(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		src := endless(size)
		b.ResetTimer()
		for left := b.N; left > 0; left -= benchmarkPackets(size) {
			recordOnce(b, p, src, min(left, benchmarkPackets(size)))
		}
	})
}

// BenchmarkRecordFile is the capture loop on a file that libpcap replays.
func BenchmarkRecordFile(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		name := writeCapture(b, size, benchmarkPackets(size))
		b.ResetTimer()
		for left := b.N; left > 0; left -= benchmarkPackets(size) {
			handle, err := tap.OpenFile(name)
			if err != nil {
				b.Fatal(err)
			}
			recordOnce(b, p, handle, min(left, benchmarkPackets(size)))
			handle.Close()
		}
	})
}

// BenchmarkDecode judges and decodes requests, in the way of how often they
// occur: most are for others.
func BenchmarkDecode(b *testing.B) {
	const rest = `"interface":"eth0","bpf":"host 192.0.2.7 and tcp port 443","tags":"login,slow","customer":"example",` +
		`"packets":1000,"timeout":60,"alertid":4711}`
	for _, bench := range []struct {
		name     string
		messages []string // in turn
		want     error
	}{
		{"another node", []string{`{"node":"db1",` + rest}, errOtherNode},
		{"another node by the same expression", []string{`{"nodere":"^db[0-9]+$",` + rest}, errOtherNode},
		{"another node by changing expressions",
			[]string{`{"nodere":"^db[0-9]+$",` + rest, `{"nodere":"^mail[0-9]+$",` + rest}, errOtherNode},
		{"this node", []string{`{"node":"web1",` + rest}, nil},
		{"this node by expression", []string{`{"nodere":"^web[0-9]+$",` + rest}, nil},
		{"no request", []string{`{"node":"db1",`}, errMalformed},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			a := matcher{node: "web1"}
			for n := 0; b.Loop(); n++ {
				if _, err := a.decode(received(bench.messages[n%len(bench.messages)])); !errors.Is(err, bench.want) {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRecordAllocatesNothingPerPacket compares a capture with one of twice as
// many packets: what each capture allocates, timers and the like, is in both.
// Both fit into one chunk, which is there already.
func TestRecordAllocatesNothingPerPacket(t *testing.T) {
	const packets = 1000
	for _, size := range []int{60, 400} {
		p := newPool(chunkSize)
		src := endless(size)
		allocations := func(packets int) float64 {
			return testing.AllocsPerRun(50, func() { recordOnce(t, p, src, packets) })
		}
		once, twice := allocations(packets), allocations(2*packets)
		// One more is the runtime's, which works on the side.
		if twice > once+1 {
			t.Errorf("%d packets of %d bytes: %v allocations, %d packets: %v", packets, size, once, 2*packets, twice)
		}
		p.release()
	}
}

// recordOnce makes a capture of so many packets and throws it away.
func recordOnce(t testing.TB, p *pool, src source, packets int) {
	buf := newBuffer(p)
	if buf == nil {
		t.Fatal("no memory")
	}
	defer buf.free()
	b := bounds{packets: int64(packets), bytes: benchmarkMemory, timeout: time.Hour}
	out := record(t.Context(), src, time.Now(), b, buf)
	if out.Packets != int64(packets) {
		t.Fatalf("want %d packets, got %d, stopped by %s", packets, out.Packets, out.stop)
	}
}

// endless returns a source that never runs out of packets of a size in bytes.
func endless(size int) source {
	p := at(time.Now(), size)
	return &fakeSource{read: func() (tap.Packet, error) { return p, nil }}
}

// writeCapture writes a capture file of equal packets and returns its name.
func writeCapture(t testing.TB, size, packets int) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "replay.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := pcapgo.NewWriter(file)
	err = w.WriteFileHeader(maxSnap, layers.LinkTypeEthernet)
	for p := at(time.Now(), size); packets > 0 && err == nil; packets-- {
		err = w.WritePacket(p.CaptureInfo, p.Data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Name()
}
