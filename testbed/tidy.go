package testbed

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// RunTidy runs the tests of a package, as its TestMain, and returns the exit code: 1 also
// if they leave a descriptor open. What is closed on the side has five seconds. A file that
// nobody holds any more is closed with the memory: a recorder keeps its ring for ever.
func RunTidy(m *testing.M) int {
	before := descriptors()
	code := m.Run()
	if os.Getenv(insideVariable) != "" { // a look-up of a name may go on until the process ends
		return code
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := descriptors()
		for name := range before {
			delete(left, name)
		}
		if len(left) == 0 {
			return code
		}
		if time.Now().After(deadline) {
			for name := range left {
				fmt.Fprintln(os.Stderr, "left open:", name)
			}
			return 1
		}
		runtime.GC()
		time.Sleep(50 * time.Millisecond)
	}
}

// descriptors returns the descriptors of this process, with what they are open to. Those
// of the runtime are left out, which it opens when they are needed first.
func descriptors() map[string]bool {
	open := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") {
			open[entry.Name()+" "+target] = true
		}
	}
	return open
}
