package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// jsonLines is a view for programs: what comes goes to out, the rest to err.
type jsonLines struct{ out, err io.Writer }

// heard implements view.
func (v jsonLines) heard(message []byte) {
	var line bytes.Buffer
	_ = json.Compact(&line, message) // has been decoded
	fmt.Fprintf(v.out, "%s\n", line.Bytes())
}

// fetched implements view.
func (v jsonLines) fetched(r result, file string) {
	said := result{ID: r.ID, Node: r.Node, Interface: r.Interface, State: stateFetched, File: file}
	fmt.Fprintf(v.out, "%s\n", said.encode())
}

// ended implements view.
func (jsonLines) ended(result, string) {}

// say implements view.
func (v jsonLines) say(text string) { fmt.Fprintln(v.err, text) }

// draw implements view.
func (jsonLines) draw(*following, time.Time) {}

// close implements view.
func (jsonLines) close() {}
