//go:build soak

package e2e

import "testing"

// TestSoakKill is TestKill for long enough that moments are met which are rare.
func TestSoakKill(t *testing.T) { kill(t, 200) }
