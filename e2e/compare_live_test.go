//go:build compare

package e2e

import (
	bits "encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

const (
	// liveRounds is odd, as compareRounds is.
	liveRounds = 5
	// liveSpan is how long one capture is sent packets.
	liveSpan = 4 * time.Second
)

// TestCompareLive measures captures that are sent to the asker while they are made: what they cost beside
// those that are returned at their end, whether 200 Mbit/s are kept up with, and how late packets are.
func TestCompareLive(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	p := startDaemon(t, r, "-maxreturn", "512MiB", "-maxbytes", "512MiB", "-maxpackets", "100000000", "-buffersize", "16MiB")
	l := listen(t, r)
	var table comparisonTable
	var live, returned, behind []time.Duration
	for round := range liveRounds {
		note("live, round %d of %d", round+1, liveRounds)
		cpu, _ := measureLive(t, r, l, p, "return", 1358, 18)
		returned = append(returned, cpu)
		cpu, took := measureLive(t, r, l, p, "live", 1358, 18)
		live, behind = append(live, cpu), append(behind, took)
	}
	table.ratio("live (beside: return), 200 Mbit/s: CPU per 1400-byte packet", median(live), median(returned), 1.5)
	table.within("… end of capture to end of the last piece", median(behind), 0, 500*time.Millisecond)
	delays := measureDelays(t, r, l)
	table.within("live, 2,000 packets/s: wire to the reader's connection, median", delays[len(delays)/2], 0, 250*time.Millisecond)
	table.within("… 99 %", delays[len(delays)*99/100], 0, 500*time.Millisecond)
	fmt.Println(describeMachine(t))
	fmt.Print(table.String())
}

// measureLive makes a capture of so many packets each millisecond, and returns the CPU that the daemon used for each until its
// last result, and how long after the end of the capture all of it had been read.
func measureLive(t *testing.T, r *testbed.Redis, l *listener, p *testbed.Process, how string, size, each int) (
	cpu, behind time.Duration) {
	t.Helper()
	send, filter := startSender(t, size, each)
	before := cpuTime(t, p)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","id":"x","%s":true,"bpf":%q,"timeout":60}`, how, filter))
	started := l.await(t, 5*time.Second, "started")
	var read *liveReader
	if how == "live" {
		read = readLive(t, r, fmt.Sprint(started.said["key"]))
	}
	send(liveSpan)
	r.Publish(t, `{"node":"any","stop":"x"}`)
	done := l.final(t, 30*time.Second)
	cpu = (cpuTime(t, p) - before) / time.Duration(max(1, done.Packets))
	if least := int64(each) * liveSpan.Milliseconds() / 2; done.State != "done" || done.Packets < least {
		t.Fatalf("want %d packets at least, got %s", least, done.text)
	}
	if read == nil {
		r.Do(t, "DEL", fmt.Sprint(done.said["key"]))
		return cpu, 0
	}
	if got := read.wait(t); int64(len(got)) != done.Bytes {
		t.Fatalf("want %d bytes, got %d", done.Bytes, len(got))
	}
	return cpu, read.ended.Sub(done.Ended)
}

// startSender returns what sends so many packets of a size each millisecond for a while, and their filter.
func startSender(t *testing.T, size, each int) (send func(time.Duration), filter string) {
	t.Helper()
	port := testbed.OpenSink(t)
	conn := testbed.DialUDP(t, port)
	packet := testbed.RandomBytes(size)
	return func(span time.Duration) {
		for began, n := time.Now(), 0; time.Since(began) < span; n++ {
			for range each {
				_, _ = conn.Write(packet) // counted where they arrive
			}
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
		}
	}, "udp dst port " + strconv.Itoa(port)
}

// measureDelays returns how long after their stamps packets were read, in order.
func measureDelays(t *testing.T, r *testbed.Redis, l *listener) []time.Duration {
	t.Helper()
	send, filter := startSender(t, 200, 2)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","id":"x","live":true,"bpf":%q,"timeout":60}`, filter))
	key := l.await(t, 5*time.Second, "started").said["key"]
	conn, err := redis.Dial("tcp", r.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send(liveSpan)
		r.Publish(t, `{"node":"any","stop":"x"}`)
	}()
	var delays []time.Duration
	var rest []byte
	for header := 24; ; {
		answer, err := redis.ByteSlices(conn.Do("BLPOP", key, 20))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if len(answer[1]) == 0 {
			break
		}
		rest = append(rest, answer[1]...)
		rest, header = rest[min(header, len(rest)):], 0
		for len(rest) >= 16 {
			stored := 16 + int(bits.LittleEndian.Uint32(rest[8:]))
			if len(rest) < stored {
				break
			}
			stamp := time.Unix(int64(bits.LittleEndian.Uint32(rest)), int64(bits.LittleEndian.Uint32(rest[4:]))*1000)
			delays = append(delays, now.Sub(stamp))
			rest = rest[stored:]
		}
	}
	<-sent
	l.final(t, 10*time.Second)
	slices.Sort(delays)
	return delays
}
