package descriptors

import "testing"

// TestCaptures: what has begun has what it needs, and a small limit leaves most of it to captures.
func TestCaptures(t *testing.T) {
	b := Budget{Always: 20, Passing: 200, Capture: 10}
	for limit, want := range map[int64]int64{8192: 797, 1024: 87, 256: 20, 64: 3, 35: 1, 33: 0, 20: 0, 3: 0, 0: 0} {
		if got := b.Captures(limit); got != want {
			t.Errorf("%d: want %d, got %d", limit, want, got)
		}
	}
}

// TestLimit: there is one, of more than any test has open.
func TestLimit(t *testing.T) {
	if got := Limit(); got < 16 {
		t.Errorf("got %d", got)
	}
}
