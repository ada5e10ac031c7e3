package testbed

import (
	"slices"
	"testing"
	"time"
)

func TestTerminal(t *testing.T) {
	for name, test := range map[string]struct {
		written string
		screen  []string
	}{
		"lines":               {"one\ntwo", []string{"one", "two"}},
		"written over":        {"one\rtwo", []string{"two"}},
		"wrapped":             {"123456789", []string{"12345678", "9"}},
		"not wrapped yet":     {"12345678\nx", []string{"12345678", "x"}},
		"scrolled":            {"1\n2\n3\n4", []string{"2", "3", "4"}},
		"up and erased":       {"1\n2\n3\x1b[1A\r\x1b[Jx", []string{"1", "x"}},
		"up no further":       {"1\n2\n3\n4\x1b[9A\rx", []string{"x", "3", "4"}},
		"erased to the right": {"1234\r\x1b[K5", []string{"5"}},
	} {
		screen := OpenTerminal(t, 8, 3)
		if _, err := screen.File.WriteString(test.written); err != nil {
			t.Fatal(err)
		}
		Eventually(t, time.Second, name, func() bool { return slices.Equal(screen.Screen(), test.screen) })
	}
}
