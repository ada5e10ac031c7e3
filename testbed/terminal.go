package testbed

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"
)

// A Terminal is a pseudo-terminal and what would be seen on it.
type Terminal struct {
	// File is the side that a program writes to.
	File    *os.File
	Columns int
	Lines   int

	keyboard *os.File // the other side
	mu       sync.Mutex
	rows     [][]rune // from the first line that was ever written
	top      int      // row that is the first one on the screen
	row      int      // of the cursor
	column   int
	strange  []string // sequences that this terminal does not know
}

// OpenTerminal opens a terminal of a size.
func OpenTerminal(t testing.TB, columns, lines int) *Terminal {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetUint32(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	screen := &Terminal{File: file, keyboard: keyboard, rows: [][]rune{nil}}
	screen.Resize(t, columns, lines)
	done := make(chan struct{})
	go func() {
		defer close(done)
		screen.run()
	}()
	t.Cleanup(func() {
		file.Close() // and with the last one of that side, reading ends
		<-done
		keyboard.Close()
	})
	return screen
}

// Resize gives the terminal another size. What was written stays as it is.
func (s *Terminal) Resize(t testing.TB, columns, lines int) {
	t.Helper()
	size := &unix.Winsize{Col: uint16(columns), Row: uint16(lines)}
	if err := unix.IoctlSetWinsize(int(s.keyboard.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Columns, s.Lines = columns, lines
}

// Type presses keys: \x03 is Ctrl-C.
func (s *Terminal) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := s.keyboard.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// Screen returns the lines that are to be seen now, without blanks at their ends.
func (s *Terminal) Screen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text(s.top)
}

// All returns all lines, those that have scrolled away included.
func (s *Terminal) All() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text(0)
}

// Strange returns the control sequences that were sent and mean nothing here.
func (s *Terminal) Strange() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.strange
}

// text returns lines from one on. The caller holds the lock.
func (s *Terminal) text(from int) []string {
	var lines []string
	for _, row := range s.rows[from:] {
		lines = append(lines, strings.TrimRight(string(row), " "))
	}
	return lines
}

// run shows what is written until the other side is closed.
func (s *Terminal) run() {
	reader := bufio.NewReader(s.keyboard)
	for {
		r, _, err := reader.ReadRune()
		if err != nil {
			return
		}
		if r == '\x1b' {
			s.control(readSequence(reader))
			continue
		}
		s.put(r)
	}
}

// readSequence reads what follows an escape.
func readSequence(reader *bufio.Reader) string {
	var sequence []rune
	for {
		r, _, err := reader.ReadRune()
		if err != nil {
			return string(sequence)
		}
		if sequence = append(sequence, r); unicode.IsLetter(r) {
			return string(sequence)
		}
	}
}

// put shows a character.
func (s *Terminal) put(r rune) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r {
	case '\r':
		s.column = 0
		return
	case '\n':
		s.down()
		return
	}
	if s.column >= s.Columns { // the cursor waits at the margin for one more character
		s.column = 0
		s.down()
	}
	row := s.rows[s.row]
	for len(row) <= s.column {
		row = append(row, ' ')
	}
	row[s.column] = r
	s.rows[s.row] = row
	s.column++
}

// down moves the cursor to the next line, and makes one if there is none: then
// the screen may have to scroll.
func (s *Terminal) down() {
	if s.row++; s.row == len(s.rows) {
		s.rows = append(s.rows, nil)
	}
	s.top = max(s.top, s.row-s.Lines+1)
}

// control obeys a control sequence: up, and erase to the end of line or screen.
func (s *Terminal) control(sequence string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 1
	_, _ = fmt.Sscanf(sequence, "[%d", &n)
	switch sequence[len(sequence)-1] {
	case 'A':
		s.row = max(s.row-n, s.top)
		return
	case 'J':
		s.rows = s.rows[:s.row+1]
	case 'K':
	default:
		s.strange = append(s.strange, sequence)
		return
	}
	s.rows[s.row] = s.rows[s.row][:min(s.column, len(s.rows[s.row]))]
}
