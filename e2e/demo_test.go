package e2e

import (
	"os"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// TestDemo makes the demonstration, which leaves nothing behind.
func TestDemo(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "redis-server", "redis-cli", "tcpdump", "go")
	s := newTree(t)
	s.make(t, "build")
	left := t.TempDir()
	t.Setenv("TMPDIR", left)
	t.Setenv("GOTMPDIR", t.TempDir())
	out := s.make(t, "demo")
	for _, want := range []string{
		`"state":"started"`, `"state":"done"`, // by Redis
		"CloudShark got ", ".pcap: 50 packets", "… 50 packets in all",
		"s before the request, and its last packet came ", "Nothing is left running.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q, got %s", want, out)
		}
	}
	files, err := os.ReadDir(left)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
	if strings.Contains(out, "level=warning") || strings.Contains(out, "level=error") {
		t.Errorf("want no trouble, got %s", out)
	}
}
