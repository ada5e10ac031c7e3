package main

import (
	"context"
	"testing"
	"time"

	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// TestRecordFromRing: a capture from a recorder's memory obeys its bounds in
// the past, at the seam and in the live part, and no packet is missing in it.
func TestRecordFromRing(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	// Of the stream alone, for what others send through lo may be more than the ring holds.
	compiler := tap.NewCompiler()
	filter, err := compiler.Compile(t.Context(), "lo", tap.MaxSnap, stream.Filter())
	if err != nil {
		t.Fatal(err)
	}
	recorder, err := tap.NewRecorder(tap.Options{Interface: "lo", Filter: filter, Snap: tap.MaxSnap, BufferSize: 4 << 20},
		16<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		recorder.Run(ctx, func(err error) { up <- err })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	filter, err = compiler.CompileRecorded(t.Context(), recorder, stream.Filter())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2*tap.ReadTimeout + 500*time.Millisecond)
	const size = packetHeaderSize + 14 + 20 + 8 + 15 // of one packet in the file

	for name, test := range map[string]struct {
		bounds  bounds
		stop    string
		packets [2]int64 // least and most
	}{
		"packets in the past":   {bounds{100, 1 << 30, time.Second}, stopPackets, [2]int64{100, 100}},
		"packets at the seam":   {bounds{500, 1 << 30, time.Second}, stopPackets, [2]int64{500, 500}},
		"packets in what comes": {bounds{900, 1 << 30, time.Second}, stopPackets, [2]int64{900, 900}},
		"bytes in the past": {bounds{1 << 30, fileHeaderSize + 100*size, time.Second},
			stopBytes, [2]int64{100, 100}},
		"bytes in what comes": {bounds{1 << 30, fileHeaderSize + 900*size + 1, 2 * time.Second},
			stopBytes, [2]int64{900, 900}},
		"one packet":           {bounds{1, 1 << 30, time.Second}, stopPackets, [2]int64{1, 1}},
		"no room for a packet": {bounds{1 << 30, fileHeaderSize, time.Second}, stopBytes, [2]int64{0, 0}},
		"timeout": {bounds{1 << 30, 1 << 30, 300 * time.Millisecond},
			stopTimeout, [2]int64{600, 900}},
		"no time but for the past":         {bounds{1 << 30, 1 << 30, 0}, stopTimeout, [2]int64{300, 600}},
		"stopped while the past is copied": {bounds{1 << 30, 1 << 30, time.Minute}, stopShutdown, [2]int64{300, 600}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			reader, err := recorder.Read(tap.ReaderOptions{Filter: filter, Snap: tap.MaxSnap,
				From: now.Add(-500 * time.Millisecond), Past: true})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			buf := newBuffer(newPool(4 * chunkSize))
			defer buf.free()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.stop == stopShutdown {
				cancel()
			}
			out := record(ctx, reader, now, test.bounds, buf)
			if out.stop != test.stop || out.err != nil {
				t.Errorf("want stop %s, got %+v", test.stop, out)
			}
			if out.Packets < test.packets[0] || out.Packets > test.packets[1] {
				t.Errorf("want %d to %d packets, got %d", test.packets[0], test.packets[1], out.Packets)
			}
			if out.Dropped != 0 || out.Received < out.Packets || out.Received > out.Packets+1 {
				t.Errorf("want as many received and none dropped, got %+v", out.counts)
			}
			testbed.CheckNoGap(t, testbed.Numbers(t, pcapOf(reader, buf)))
		})
	}
}
