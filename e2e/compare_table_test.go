//go:build compare

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// describeMachine returns a line that names what all figures depend on.
func describeMachine(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	model := runtime.GOARCH // not every architecture has a name there
	for _, line := range testbed.ReadLines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	version, err := exec.Command(binary, "-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, libraries, _ := strings.Cut(strings.TrimSpace(string(version)), ", ")
	libraries, _, _ = strings.Cut(libraries, " (")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s",
		model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), libraries)
}

// A comparisonTable is what has been measured: a line for each figure.
type comparisonTable struct{ rows [][]string }

// add appends a row; figures that do not exist are empty.
func (c *comparisonTable) add(what, ours, theirs, ratio, target string, met bool) {
	if !met {
		target += "  MISSED"
	}
	row := []string{what, ours, theirs, ratio, target}
	for i, cell := range row {
		row[i] = cmp.Or(cell, "–")
	}
	c.rows = append(c.rows, row)
}

// ratio appends a row for which the target is a ratio; 0: there is no target.
func (c *comparisonTable) ratio(what string, ours, theirs time.Duration, limit float64) {
	ratio := float64(ours) / float64(max(theirs, 1))
	target := ""
	if limit > 0 {
		target = fmt.Sprintf("≤ %.2f×", limit)
	}
	c.add(what, roundTime(ours), roundTime(theirs), fmt.Sprintf("%.2f×", ratio), target, limit == 0 || ratio <= limit)
}

// within appends a row for which the target is a time; theirs may be 0 for none.
func (c *comparisonTable) within(what string, ours, theirs, limit time.Duration) {
	other, ratio := "", ""
	if theirs > 0 {
		other, ratio = roundTime(theirs), fmt.Sprintf("%.2f×", float64(ours)/float64(theirs))
	}
	c.add(what, roundTime(ours), other, ratio, "≤ "+limit.String(), ours <= limit)
}

// loss appends a row about lost packets.
func (c *comparisonTable) loss(what string, ours, theirs []flight) {
	our, their := medianOf(ours, flight.lost), medianOf(theirs, flight.lost)
	c.add(what, fmt.Sprintf("%.2f %%", our), fmt.Sprintf("%.2f %%", their), "", "≤ tcpdump + 0.1 %", our <= their+0.1)
}

// memory appends a row for which the target is a number of bytes.
func (c *comparisonTable) memory(what string, bytes, limit int64) {
	c.value(what, mebibytes(bytes), "≤ "+mebibytes(limit), bytes <= limit)
}

// value appends a row about the daemon alone.
func (c *comparisonTable) value(what, ours, target string, met bool) {
	c.add(what, ours, "", "", target, met)
}

// String returns the aligned table.
func (c *comparisonTable) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tpcapdaemon\ttcpdump\tratio\ttarget")
	for _, row := range c.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	return text.String()
}

// median returns the middle one of an odd number of values.
func median[T cmp.Ordered](values []T) T { return slices.Sorted(slices.Values(values))[len(values)/2] }

// percent returns the share of a time in percent.
func percent(part, whole time.Duration) float64 { return 100 * float64(part) / float64(whole) }

// roundTime writes a time with three or four digits.
func roundTime(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d >= time.Microsecond:
		return d.Round(10 * time.Nanosecond).String()
	}
	return d.String()
}

// mebibytes writes a number of bytes.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/humanize.MiByte) }
