package main

import (
	"encoding/json"
	"time"
)

// States of a result.
const (
	stateStarted = "started"
	stateRunning = "running" // on the way, if progress was asked for
	stateKept    = "kept"    // the upload has to wait, the capture is in the spool
	stateDone    = "done"
	stateFailed  = "failed"
	stateRefused = "refused"
	statePresent = "present" // the answer to a roll call
	stateFetched = "fetched" // said by -publish: the asker has the file
)

// A result tells whoever asked how one capture stands.
type result struct {
	ID        string   `json:"id"`
	Node      string   `json:"node"`
	Interface string   `json:"interface,omitempty"`
	Device    string   `json:"device,omitempty"` // the interface of that name, if it has another one
	State     string   `json:"state"`
	Shared    string   `json:"shared,omitempty"` // id of the first request for the same capture
	Stop      string   `json:"stop,omitempty"`
	StoppedBy string   `json:"stoppedby,omitempty"`
	*counts            // of running, kept, done and failed only
	*losses            // of kept, done and failed only
	Started   stamp    `json:"started,omitzero"`
	Ended     stamp    `json:"ended,omitzero"`
	Since     stamp    `json:"since,omitzero"` // from when on a capture with a lookback is whole
	Limits    *granted `json:"limits,omitempty"`
	File      string   `json:"file,omitempty"`
	URL       string   `json:"url,omitempty"`
	Key       string   `json:"key,omitempty"`  // in Redis
	Name      string   `json:"name,omitempty"` // of the file that is there
	Error     string   `json:"error,omitempty"`
	Tags      string   `json:"tags,omitempty"`
	Customer  string   `json:"customer,omitempty"`
	AlertID   *uint64  `json:"alertid,omitempty"`
	Filter    string   `json:"bpf,omitempty"`
	By        string   `json:"by,omitempty"`
	*presence          // of present only
}

// counts say how much a capture holds.
type counts struct {
	Packets int64 `json:"packets"` // written
	Bytes   int64 `json:"bytes"`   // of the file
}

// losses say what a capture's source received and what of it was lost.
type losses struct {
	Received  int64 `json:"received"`  // by the filter, as libpcap counts
	Dropped   int64 `json:"dropped"`   // by the kernel, for want of buffer
	IfDropped int64 `json:"ifdropped"` // by the interface or its driver
}

// granted are the limits that hold: for one capture, or for all of a host.
type granted struct {
	Packets  int64   `json:"packets"`
	Bytes    int64   `json:"bytes"`
	Timeout  float64 `json:"timeout"` // seconds
	Snap     int64   `json:"snap,omitempty"`
	Captures int64   `json:"captures,omitempty"`
	Return   *int64  `json:"return,omitempty"` // bytes; 0: nothing is returned
}

// A presence is what a host says of itself.
type presence struct {
	Version    string      `json:"version"`
	Format     string      `json:"format"`
	Running    int         `json:"running"` // captures
	Interfaces []presented `json:"interfaces"`
}

// A presented interface may be captured on.
type presented struct {
	Name     string   `json:"name"`
	Alias    string   `json:"alias,omitempty"` // its second name
	Up       bool     `json:"up"`
	Recorded *float64 `json:"recorded,omitempty"` // seconds that its ring reaches back; nil: not recorded
}

// encode returns the result as one line of JSON.
func (r result) encode() []byte { return encodeLine(r) }

// decodeResult reads a result that another program has published.
func decodeResult(message []byte) (result, error) {
	r := result{counts: &counts{}, losses: &losses{}, presence: &presence{}} // json makes none for embedded pointers
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
