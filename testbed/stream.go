package testbed

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcapgo"
)

// A Packet of a capture file.
type Packet struct {
	gopacket.CaptureInfo
	Data []byte
}

// ReadPcap reads a capture file whole.
func ReadPcap(t testing.TB, file io.Reader) ([]Packet, *pcapgo.Reader) {
	t.Helper()
	r, err := pcapgo.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var packets []Packet
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			return packets, r
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, Packet{info, data})
	}
}

// A Stream sends numbered UDP packets to the loopback interface.
type Stream struct {
	Port int
	Stop func()
	conn net.Conn
	// padding makes a packet as long as it has to be.
	padding string
	sent    atomic.Int64

	mu    sync.Mutex
	began []int64 // when each packet began to be sent, in nanoseconds of the clock
}

// OpenSink returns the UDP port of a socket that nobody reads. Somebody has to listen: a refused packet makes
// the next one fail.
func OpenSink(t testing.TB) (port int) {
	t.Helper()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink.LocalAddr().(*net.UDPAddr).Port
}

// NewStream returns a Stream of packets of so many bytes at least, which sends when Send is called.
func NewStream(t testing.TB, size int) *Stream {
	t.Helper()
	port := OpenSink(t)
	return &Stream{Port: port, Stop: func() {}, conn: DialUDP(t, port),
		padding: strings.Repeat(" ", max(0, size-len("packet 00000000")))}
}

// Send sends the next packet. Only one goroutine may send.
func (s *Stream) Send() {
	s.mu.Lock()
	s.began = append(s.began, time.Now().UnixNano())
	s.mu.Unlock()
	fmt.Fprintf(s.conn, "packet %08d%s", s.sent.Load(), s.padding)
	s.sent.Add(1)
}

// StartStream sends a packet every interval until the test ends.
func StartStream(t testing.TB, interval time.Duration) *Stream {
	t.Helper()
	return StartStreamOf(t, 0, interval)
}

// StartStreamOf is StartStream with packets of so many bytes at least.
func StartStreamOf(t testing.TB, size int, interval time.Duration) *Stream {
	t.Helper()
	s := NewStream(t, size)
	done, ended := make(chan struct{}), make(chan struct{})
	s.Stop = sync.OnceFunc(func() { close(done); <-ended })
	go func() {
		defer close(ended)
		for began := time.Now(); ; s.Send() {
			select {
			case <-done:
				return
			case <-time.After(time.Until(began.Add(time.Duration(s.Sent()) * interval))):
			}
		}
	}()
	t.Cleanup(s.Stop)
	return s
}

// Sent returns how many packets have been sent so far: numbers from 0 on.
func (s *Stream) Sent() int { return int(s.sent.Load()) }

// SentAt returns when a packet began to be sent; it was after the one before had been. It is now if none has
// that number yet, and the beginning of time if none ever has.
func (s *Stream) SentAt(number int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case number < 0:
		return time.Time{}
	case number >= len(s.began):
		return time.Now()
	}
	return time.Unix(0, s.began[number])
}

// CheckWhole fails unless the numbers follow each other and are of all packets that were sent from start to end. It does
// not matter how fast they were sent.
func (s *Stream) CheckWhole(t testing.TB, found []int, start, end time.Time) {
	t.Helper()
	CheckNoGap(t, found)
	if before := found[0] - 1; s.SentAt(before).After(start) {
		t.Errorf("packet %d was sent %v after the start, and is missing", before, s.SentAt(before).Sub(start))
	}
	if after := found[len(found)-1] + 1; s.SentAt(after + 1).Before(end) {
		t.Errorf("packet %d was sent %v before the end, and is missing", after, end.Sub(s.SentAt(after+1)))
	}
}

// Await waits until so many more packets have been sent.
func (s *Stream) Await(t testing.TB, more int) {
	t.Helper()
	until := s.Sent() + more
	Eventually(t, time.Minute, "packets are sent", func() bool { return s.Sent() >= until })
}

// Filter matches the packets of the Stream.
func (s *Stream) Filter() string { return "udp dst port " + strconv.Itoa(s.Port) }

// Numbers returns the Numbers of a Stream's packets in a capture file.
func Numbers(t testing.TB, file io.Reader) []int {
	t.Helper()
	packets, _ := ReadPcap(t, file)
	var found []int
	for _, p := range packets {
		i := bytes.Index(p.Data, []byte("packet "))
		if i < 0 {
			continue
		}
		n, err := strconv.Atoi(string(p.Data[i+7 : i+15]))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, n)
	}
	return found
}

// CheckNoGap fails unless the Numbers follow each other.
func CheckNoGap(t testing.TB, found []int) {
	t.Helper()
	for i := 1; i < len(found); i++ {
		if found[i] != found[i-1]+1 {
			t.Fatalf("packet %d comes after %d", found[i], found[i-1])
		}
	}
}

// DialUDP returns a socket that sends to a port of the loopback interface.
func DialUDP(t testing.TB, port int) net.Conn {
	t.Helper()
	return DialUDPAt(t, "127.0.0.1:"+strconv.Itoa(port))
}

// DialUDPAt returns a socket that sends to an address.
func DialUDPAt(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
