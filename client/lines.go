package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// jsonLines is a view for programs: what comes goes to out, the rest to err.
type jsonLines struct{ out, err io.Writer }

// heard implements view.
func (v jsonLines) heard(message []byte) {
	var line bytes.Buffer
	_ = json.Compact(&line, message) // has been decoded
	fmt.Fprintf(v.out, "%s\n", text.PlainJSON(line.Bytes()))
}

// fetched implements view.
func (v jsonLines) fetched(r result.Result, file string) {
	said := result.Result{ID: r.ID, Node: r.Node, Interface: r.Interface, State: result.Fetched, File: file}
	fmt.Fprintf(v.out, "%s\n", said.Encode())
}

// ended implements view.
func (jsonLines) ended(result.Result, string) {}

// say implements view.
func (v jsonLines) say(words string) { fmt.Fprintln(v.err, words) }

// draw implements view.
func (jsonLines) draw(*session, time.Time) {}

// close implements view.
func (jsonLines) close() {}
