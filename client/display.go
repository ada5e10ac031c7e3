package client

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-runewidth"
	"golang.org/x/sys/unix"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// A terminal is what people look at.
type terminal struct{ *os.File }

// openTerminal returns the terminal that w is, or nil for anything else.
func openTerminal(w io.Writer) *terminal {
	file, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err != nil {
		return nil
	}
	return &terminal{file}
}

// IsTerminal reports whether people look at what is written to w.
func IsTerminal(w io.Writer) bool { return openTerminal(w) != nil }

// size returns columns and lines.
func (t *terminal) size() (columns, lines int) {
	size, err := unix.IoctlGetWinsize(int(t.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 { // a serial line does not know
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}

// A display is a view for people: a line for each capture that is under way is
// drawn again and again below the lines that stay.
type display struct {
	terminal *terminal
	err      io.Writer
	drawn    []string // lines that will be drawn again
	staying  []string // lines that are still to be shown, above them
}

// heard implements view: people are told by draw and by ended.
func (*display) heard([]byte) {}

// fetched implements view: ended follows it.
func (*display) fetched(result.Result, string) {}

// ended implements view.
func (d *display) ended(r result.Result, file string) {
	d.staying = append(d.staying, r.Describe(file))
}

// say implements view.
func (d *display) say(text string) {
	d.close()
	fmt.Fprintln(d.err, text)
}

// close implements view.
func (d *display) close() { d.show(nil) }

// draw implements view.
func (d *display) draw(s *session, now time.Time) {
	columns, lines := d.terminal.size()
	if rows := drawRows(s, now, columns-1, lines-1); len(d.staying) > 0 || !slices.Equal(rows, d.drawn) {
		d.show(rows)
	}
}

// show puts the lines that stay, and below them others, where the last ones
// were drawn. All in one write, so that nothing flickers.
func (d *display) show(rows []string) {
	var text strings.Builder
	if len(d.drawn) > 0 {
		columns, _ := d.terminal.size()
		height := 0 // a terminal that became narrower has wrapped them
		for _, row := range d.drawn {
			height += max(1, (width(row)+columns-1)/columns)
		}
		if height > 1 {
			fmt.Fprintf(&text, "\x1b[%dA", height-1)
		}
		text.WriteString("\r\x1b[J")
	}
	for _, line := range d.staying {
		text.WriteString(line + "\n")
	}
	// The cursor rests at the beginning of the last line: there ^C does no harm.
	text.WriteString(strings.Join(rows, "\n"))
	if len(rows) > 0 {
		text.WriteString("\r")
	}
	d.drawn, d.staying = rows, nil
	_, _ = io.WriteString(d.terminal, text.String())
}

// drawRows returns a line for each capture that is under way, none wider than
// columns and no more than lines.
func drawRows(s *session, now time.Time, columns, lines int) []string {
	var rows []row
	for _, t := range s.captures {
		if t.fetching || !t.Over() {
			rows = append(rows, s.row(t, now))
		}
	}
	if len(rows) == 0 {
		if s.over(now) {
			return nil
		}
		return []string{clip(fmt.Sprintf("waiting for answers: %d of %d hosts", s.hosts(), s.listeners), columns)}
	}
	var rest []row
	if lines = max(lines, 2); len(rows) > lines {
		rows, rest = rows[:lines-1], rows[lines-1:]
	}
	g := newGrid(rows, columns)
	var drawn []string
	for _, r := range rows {
		drawn = append(drawn, clip(g.draw(r), columns))
	}
	if len(rest) > 0 {
		drawn = append(drawn, clip(countRows(rest), columns))
	}
	return drawn
}

// countRows says in a line how captures stand for which there is no room.
func countRows(rows []row) string {
	counts := map[string]int{}
	for _, r := range rows {
		counts[r.state]++
	}
	var words []string
	for _, state := range []string{"started", "running", "silent", "ending", "fetch"} {
		if counts[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[state], state))
			delete(counts, state)
		}
	}
	for _, n := range counts {
		words = append(words, fmt.Sprintf("%d other", n))
	}
	return fmt.Sprintf("and %d more: %s", len(rows), strings.Join(words, ", "))
}

// A row is what is shown of one capture.
type row struct {
	node, iface    string // no interface: there is only one
	state          string
	packets, bytes int64
	part           float64       // of the nearest limit that is reached
	left           time.Duration // until the timeout
}

// row returns what is shown of a capture. What a host says is foreign text.
func (s *session) row(t *progress, now time.Time) row {
	var limits result.Limits
	if t.Limits != nil {
		limits = *t.Limits
	}
	lasting, _ := s.spans.believe(t.Limits)
	r := row{node: text.Printable(t.Node), state: text.Printable(t.State),
		packets: t.Packets, bytes: t.Bytes, left: max(lasting-now.Sub(t.heard), 0)}
	if len(s.request.asked.Interfaces) != 1 {
		r.iface = " " + text.Printable(t.Interface)
	}
	switch {
	case t.fetching:
		r.state, r.part, r.left = "fetch", 1, 0
		return r
	case t.silent:
		r.state = "silent"
	case !s.stopped.IsZero():
		r.state = "ending"
	}
	for _, limit := range [][2]float64{
		{float64(t.Packets), float64(limits.Packets)},
		{float64(t.Bytes), float64(limits.Bytes)},
		{now.Sub(t.heard).Seconds(), lasting.Seconds()},
	} {
		if limit[1] > 0 {
			r.part = max(r.part, min(limit[0]/limit[1], 1))
		}
	}
	return r
}

// A grid is how the columns of rows share a line.
type grid struct {
	name, bar int
	units     bool // what numbers count is said
}

// Columns that a line takes beside names and bar, with short numbers and with
// full ones, and those of the bar: the fewest, the fewest to read well, the most.
const (
	narrowColumns = len(" started 9.9k 999 MB  59s")
	wideColumns   = len(" started 12,345,678 packets 999 MB  59s left")
	leastBar      = len("[##]")
	readableBar   = len("[##########]")
	mostBar       = 42
)

// newGrid divides columns so that names are whole if they can be.
func newGrid(rows []row, columns int) grid {
	longest := 0
	for _, r := range rows {
		longest = max(longest, width(r.node+r.iface))
	}
	g := grid{units: columns >= wideColumns+readableBar+1+min(longest, 20)}
	room, least := columns-narrowColumns-1, leastBar
	if g.units {
		room, least = columns-wideColumns-1, readableBar
	}
	g.bar = min(max(room-longest, least), mostBar)
	g.name = min(longest, max(room-g.bar, 1))
	return g
}

// draw returns a row as a line.
func (g grid) draw(r row) string {
	packets, left := fmt.Sprintf("%4s", shortCount(r.packets)), fmt.Sprintf("%4s", shortTime(r.left))
	if g.units {
		packets, left = fmt.Sprintf("%10s packets", humanize.Comma(r.packets)), left+" left"
	}
	filled := int(r.part * float64(g.bar-2))
	bar := "[" + strings.Repeat("#", filled) + strings.Repeat(".", g.bar-2-filled) + "]"
	name := clip(r.node, max(g.name-width(r.iface), 1)) + r.iface // what tells captures of one host apart stays
	return strings.Join([]string{fit(name, g.name), fit(r.state, 7), packets,
		fmt.Sprintf("%6s", shortSize(r.bytes)), bar, left}, " ")
}

// shortCount returns a number in four characters: 9999, 12k, 1.2M.
func shortCount(n int64) string {
	if n < 10_000 {
		return strconv.FormatInt(n, 10)
	}
	return shorten(humanize.ComputeSI(float64(n)))
}

// shortSize returns a number of bytes in six characters: 999B, 1.2KiB, 0.9MiB.
func shortSize(n int64) string {
	v, units := float64(max(n, 0)), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for v >= 1000 { // not 1024, which would take four characters
		v, units = v/1024, units[1:]
	}
	return shorten(v, units[0])
}

// shorten returns a number with its unit, in three characters. It is rounded
// down: rounded up, 999,999 would take four.
func shorten(v float64, unit string) string {
	if v < 10 && unit != "" && unit != "B" {
		return strconv.FormatFloat(math.Floor(v*10)/10, 'f', 1, 64) + unit
	}
	return strconv.Itoa(int(v)) + unit
}

// shortTime returns a duration in four characters: 99s, 99m, 99h, 364d.
func shortTime(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 100*time.Second:
		return strconv.Itoa(int((d+time.Second-1)/time.Second)) + "s"
	case d < 100*time.Minute:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 4*day:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/day)) + "d"
}

// fit cuts or pads a text to a width, in columns.
func fit(s string, columns int) string { return runewidth.FillRight(clip(s, columns), columns) }

// clip shortens a text that is too wide.
func clip(s string, columns int) string { return runewidth.Truncate(s, columns, "…") }

// width returns how many columns a text takes.
func width(s string) int { return runewidth.StringWidth(s) }
