package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"pcapdaemon/result"
)

// jsonLines is a view for programs: what comes goes to out, the rest to err.
type jsonLines struct{ out, err io.Writer }

// heard implements view.
func (v jsonLines) heard(message []byte) {
	var line bytes.Buffer
	_ = json.Compact(&line, message) // has been decoded
	fmt.Fprintf(v.out, "%s\n", plainJSON(line.Bytes()))
}

// plainJSON returns JSON without what would control a terminal or is no UTF-8:
// both can stand only in strings, where escapes say the same.
func plainJSON(line []byte) []byte {
	plain := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			plain = append(plain, `\ufffd`...)
		case unicode.IsControl(r):
			plain = fmt.Appendf(plain, `\u%04x`, r)
		default:
			plain = append(plain, line[:size]...)
		}
		line = line[size:]
	}
	return plain
}

// fetched implements view.
func (v jsonLines) fetched(r result.Result, file string) {
	said := result.Result{ID: r.ID, Node: r.Node, Interface: r.Interface, State: result.Fetched, File: file}
	fmt.Fprintf(v.out, "%s\n", said.Encode())
}

// ended implements view.
func (jsonLines) ended(result.Result, string) {}

// say implements view.
func (v jsonLines) say(text string) { fmt.Fprintln(v.err, text) }

// draw implements view.
func (jsonLines) draw(*session, time.Time) {}

// close implements view.
func (jsonLines) close() {}
