package store

import (
	"testing"
	"time"
)

func TestFileName(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600))
	if want, got := "we_b-eth0.5_-20260102T020405.000000060Z.pcap", FileName("we/b", "eth0.5:", at, ".pcap"); want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}

// TestNumberedName: the number stands before all of the extension, that of encryption too.
func TestNumberedName(t *testing.T) {
	for name, want := range map[string]string{"x.pcap": "x-2.pcap", "x.pcapng": "x-2.pcapng", "x.pcap.age": "x-2.pcap.age",
		"a.b.pcapng.age": "a.b-2.pcapng.age", "y.age": "y-2.age", "z": "z-2"} {
		checkEqual(t, name, want, NumberedName(name, 2))
	}
}
