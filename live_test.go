package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcap"
	"github.com/google/gopacket/pcapgo"
)

// writeStream writes a pcap file of packets that are a millisecond apart, of
// sizes that end chunks at every offset, and returns its path and content.
func writeStream(t *testing.T, start time.Time, packets int) (string, []byte) {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(65536, layers.LinkTypeEthernet)
	for n := range packets {
		p := at(start.Add(time.Duration(n)*time.Millisecond), 60+n*37%9000)
		copy(p.data, randomBytes(len(p.data)))
		_ = w.WritePacket(p.CaptureInfo, p.data)
	}
	path := filepath.Join(t.TempDir(), "in.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, file.Bytes()
}

// TestBulkIsTheSame: copied in bulk or packet by packet, a recording ends for
// the same reason with the same bytes, whatever ends it.
func TestBulkIsTheSame(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	path, content := writeStream(t, start, 1500)
	for name, test := range map[string]struct {
		bounds  bounds
		chunks  int64
		stop    string
		packets int64
	}{
		"end of the file":      {bounds{1 << 40, 1 << 40, time.Hour}, 16, stopTimeout, 1500},
		"timeout":              {bounds{1 << 40, 1 << 40, time.Second}, 16, stopTimeout, 1000},
		"timeout at once":      {bounds{1 << 40, 1 << 40, 0}, 16, stopTimeout, 0},
		"packets":              {bounds{777, 1 << 40, time.Hour}, 16, stopPackets, 777},
		"one packet":           {bounds{1, 1 << 40, time.Hour}, 16, stopPackets, 1},
		"bytes":                {bounds{1 << 40, 3_000_001, time.Hour}, 16, stopBytes, -1},
		"bytes, exactly":       {bounds{1 << 40, 24 + 16 + 60, time.Hour}, 16, stopBytes, 1},
		"bytes, one too few":   {bounds{1 << 40, 24 + 16 + 59, time.Hour}, 16, stopBytes, 0},
		"bytes for the header": {bounds{1 << 40, 24, time.Hour}, 16, stopBytes, 0},
		"memory":               {bounds{1 << 40, 1 << 40, time.Hour}, 3, stopMemory, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var outcomes [2]outcome
			var recordings [2][]byte
			for i := range outcomes {
				handle, err := pcap.OpenOffline(path)
				if err != nil {
					t.Fatal(err)
				}
				defer handle.Close()
				var src source = handle
				if i == 1 {
					src = newLiveSource(handle)
					if _, ok := src.(bulkSource); !ok {
						t.Fatal("no access to libpcap's handle: gopacket has changed")
					}
				}
				buf := newBuffer(newPool(test.chunks * chunkSize))
				outcomes[i] = record(t.Context(), src, start, test.bounds, buf)
				recordings[i], _ = io.ReadAll(buf.reader())
			}
			single, bulk := outcomes[0], outcomes[1]
			if bulk.stop != test.stop || test.packets >= 0 && bulk.Packets != test.packets {
				t.Errorf("want %d packets and stop %s, got %+v", test.packets, test.stop, bulk)
			}
			if bulk.stop != single.stop || bulk.counts != single.counts {
				t.Errorf("packet by packet: %+v, in bulk: %+v", single, bulk)
			}
			if !bytes.Equal(recordings[0], recordings[1]) || !bytes.Equal(content[:len(recordings[1])], recordings[1]) {
				t.Error("the recordings differ from each other or from the beginning of the file")
			}
		})
	}
}
