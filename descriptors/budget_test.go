package descriptors

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestCaptures: what has begun has what it needs, and a small limit leaves most of it to captures.
func TestCaptures(t *testing.T) {
	b := Budget{Always: 20, Passing: 200, Capture: 10}
	for limit, want := range map[int64]int64{8192: 797, 1024: 87, 256: 20, 64: 3, 35: 1, 33: 0, 20: 0, 3: 0, 0: 0} {
		if got := b.Captures(limit); got != want {
			t.Errorf("%d: want %d, got %d", limit, want, got)
		}
	}
}

// TestLimit: it is the one that the process has now.
func TestLimit(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	lower := unix.Rlimit{Cur: min(500, before.Max), Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	if want, got := int64(lower.Cur), Limit(); want != got {
		t.Errorf("want %d, got %d", want, got)
	}
}
