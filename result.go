package main

import (
	"bytes"
	"encoding/json"
	"time"
)

// States of a result.
const (
	stateStarted = "started"
	stateDone    = "done"
	stateFailed  = "failed"
	stateRefused = "refused"
)

// A result tells whoever asked how one capture stands.
type result struct {
	ID        string  `json:"id"`
	Node      string  `json:"node"`
	Interface string  `json:"interface,omitempty"`
	State     string  `json:"state"`
	Stop      string  `json:"stop,omitempty"`
	*counts           // of done and failed only
	Started   stamp   `json:"started,omitzero"`
	Ended     stamp   `json:"ended,omitzero"`
	File      string  `json:"file,omitempty"`
	URL       string  `json:"url,omitempty"`
	Error     string  `json:"error,omitempty"`
	Tags      string  `json:"tags,omitempty"`
	Customer  string  `json:"customer,omitempty"`
	AlertID   *uint64 `json:"alertid,omitempty"`
	Filter    string  `json:"bpf,omitempty"`
	By        string  `json:"by,omitempty"`
}

// counts are the figures of a capture.
type counts struct {
	Packets   int64 `json:"packets"`   // written
	Bytes     int64 `json:"bytes"`     // of the file
	Received  int64 `json:"received"`  // by the filter, as libpcap counts
	Dropped   int64 `json:"dropped"`   // by the kernel, for want of buffer
	IfDropped int64 `json:"ifdropped"` // by the interface or its driver
}

// newResult returns a result that echoes what was asked.
func newResult(r request, node, iface, state string) result {
	return result{ID: r.ID, Node: node, Interface: iface, State: state,
		Tags: r.Tags, Customer: r.Customer, AlertID: r.AlertID, Filter: r.Filter, By: r.By}
}

// encode returns the result as one line of JSON.
func (r result) encode() []byte {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false) // people read "tcp[13] & 2 > 0"
	if err := encoder.Encode(r); err != nil {
		panic(err) // no field of a result can fail to encode
	}
	return bytes.TrimSuffix(line.Bytes(), []byte("\n"))
}

// decodeResult reads a result that another program has published.
func decodeResult(message []byte) (result, error) {
	r := result{counts: &counts{}} // json makes none for an embedded pointer
	err := json.Unmarshal(message, &r)
	return r, err
}

// A stamp is a time in UTC that JSON shows with all nine digits of its nanoseconds.
type stamp time.Time

// MarshalText implements encoding.TextMarshaler.
func (s stamp) MarshalText() ([]byte, error) {
	return time.Time(s).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000000000Z07:00"), nil
}

// IsZero lets omitzero leave the stamp out.
func (s stamp) IsZero() bool { return time.Time(s).IsZero() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *stamp) UnmarshalText(text []byte) error { return (*time.Time)(s).UnmarshalText(text) }
