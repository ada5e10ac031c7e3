package tap

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestHostileRing: a writer fills the kernel's ring with garbage while a reader
// follows it, under the address and undefined behaviour sanitizers.
func TestHostileRing(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hostile")
	build := exec.Command("gcc", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize=alignment",
		"-fno-sanitize-recover=all", "-I.", "-o", program, "testdata/hostile.c", "ring.c", "cursor.c", "-lpthread")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("the sanitizers are missing: %v: %s", err, out)
	}
	run := exec.Command(program)
	run.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0")
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	} else {
		t.Logf("%s", out)
	}
}
