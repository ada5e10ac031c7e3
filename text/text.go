// Package text writes and reads what people see: foreign text that has to be
// quoted, sizes, durations, and JSON that a person can read. It knows nothing of
// what the text is about, and imports no other package of the program.
package text

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// maxQuoted is how many characters of foreign text an error quotes.
const maxQuoted = 200

// Quote returns foreign text for an error: cut short and made printable.
func Quote(s string) string { return `"` + Printable(s) + `"` }

// Printable returns the first 200 characters of s with control characters escaped.
func Printable(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxQuoted {
			return Escape(s[:i]) + "…"
		}
	}
	return Escape(s)
}

// Escape returns all of s with control characters escaped.
func Escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// JSON returns the JSON of a value that has one, as people can read it:
// "tcp[13] & 2 > 0" stays what it is, and what would control a terminal is escaped.
func JSON(value any) []byte {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false) // an escape takes six times the room
	if err := encoder.Encode(value); err != nil {
		panic(err) // of the program
	}
	return PlainJSON(bytes.TrimSuffix(line.Bytes(), []byte("\n")))
}

// PlainJSON returns JSON without what would control a terminal or is no UTF-8:
// both can stand only in strings, where escapes say the same.
func PlainJSON(line []byte) []byte {
	plain := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			plain = append(plain, `\ufffd`...)
		case unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp):
			plain = fmt.Appendf(plain, `\u%04x`, r)
		default:
			plain = append(plain, line[:size]...)
		}
		line = line[size:]
	}
	return plain
}

// FormatSize writes bytes in the largest unit that needs no fraction: 100MiB, 1500.
func FormatSize(n int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GiB", humanize.GiByte}, {"MiB", humanize.MiByte}, {"KiB", humanize.KiByte}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// ParseSize reads bytes: plain ones, or in KB, MB, GB, KiB, MiB, GiB and so on. For
// humanize, 1,5 is 15, and M a million; others take that for a MiB.
func ParseSize(s string) (int64, error) {
	unit := strings.ToUpper(strings.TrimLeft(s, "0123456789."))
	known := unit == "" || strings.HasSuffix(unit, "B") && !strings.HasPrefix(unit, ",")
	if n, err := humanize.ParseBytes(s); known && err == nil && n <= math.MaxInt64 {
		return int64(n), nil
	}
	return 0, fmt.Errorf("no size: %s", Quote(s))
}

// FormatDuration writes a duration without its zero units: 1h, 5m, 90s is 1m30s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
