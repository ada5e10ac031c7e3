// Package result holds what hosts answer to requests: states, fields, their JSON,
// and how people are shown them. It knows neither captures nor Redis: whoever
// publishes a result encodes it, whoever hears one decodes it.
package result

import (
	"encoding/json"
	"slices"
	"time"

	"pcapdaemon/text"
)

// Duration returns the timeout. What a host says may be anything.
func (g Limits) Duration() time.Duration { return Seconds(g.Timeout) }

// Seconds returns a duration that makes sense: at most a year.
func Seconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), MaxSeconds) * float64(time.Second))
}

// Over reports whether a capture is off its host's hands, for now at least.
// Only states that are known are: others may come with newer hosts.
func (r Result) Over() bool {
	return slices.Contains([]string{Kept, Done, Failed}, r.State)
}

// MaxSeconds is the longest timeout that any host can be set to grant: a year.
const MaxSeconds = 365 * 24 * 60 * 60

// States of a result.
const (
	Started = "started"
	Running = "running" // on the way, if progress was asked for
	Kept    = "kept"    // the upload has to wait, the capture is in the spool
	Done    = "done"
	Failed  = "failed"
	Refused = "refused"
	Present = "present" // the answer to a roll call
	Fetched = "fetched" // said by -publish: the asker has the file
)

// A Result tells whoever asked how one capture stands.
type Result struct {
	ID        string  `json:"id"`
	Node      string  `json:"node"`
	Interface string  `json:"interface,omitempty"`
	Device    string  `json:"device,omitempty"` // the interface of that name, if it has another one
	State     string  `json:"state"`
	Shared    string  `json:"shared,omitempty"` // id of the first request for the same capture
	Stop      string  `json:"stop,omitempty"`
	StoppedBy string  `json:"stoppedby,omitempty"`
	*Counts           // of running, kept, done and failed only
	*Losses           // of kept, done and failed only
	Started   Stamp   `json:"started,omitzero"`
	Ended     Stamp   `json:"ended,omitzero"`
	Since     Stamp   `json:"since,omitzero"` // from when on a capture with a lookback is whole
	Limits    *Limits `json:"limits,omitempty"`
	File      string  `json:"file,omitempty"`
	URL       string  `json:"url,omitempty"`
	Stored    string  `json:"stored,omitempty"` // address at the store, if url is CloudShark's
	Key       string  `json:"key,omitempty"`    // in Redis
	Name      string  `json:"name,omitempty"`   // of the file that is there
	Error     string  `json:"error,omitempty"`
	Tags      string  `json:"tags,omitempty"`
	Customer  string  `json:"customer,omitempty"`
	AlertID   *uint64 `json:"alertid,omitempty"`
	Filter    string  `json:"bpf,omitempty"`
	By        string  `json:"by,omitempty"`
	*Presence         // of present only
}

// Counts say how much a capture holds.
type Counts struct {
	Packets int64 `json:"packets"` // written
	Bytes   int64 `json:"bytes"`   // of the file
}

// Losses say what a capture's source received and what of it was lost.
type Losses struct {
	Received  int64 `json:"received"`  // by the filter, as libpcap counts
	Dropped   int64 `json:"dropped"`   // by the kernel, for want of buffer
	IfDropped int64 `json:"ifdropped"` // by the interface or its driver
}

// Limits are the limits that hold: for one capture, or for all of a host.
type Limits struct {
	Packets  int64   `json:"packets"`
	Bytes    int64   `json:"bytes"`
	Timeout  float64 `json:"timeout"`            // seconds
	Delivery int64   `json:"delivery,omitempty"` // seconds from the end of a capture to its last result, at most
	Snap     int64   `json:"snap,omitempty"`
	Captures int64   `json:"captures,omitempty"`
	Return   *int64  `json:"return,omitempty"` // bytes; 0: nothing is returned
}

// A Presence is what a host says of itself.
type Presence struct {
	Version    string      `json:"version"`
	Format     string      `json:"format"`
	Running    int         `json:"running"` // captures
	Interfaces []Interface `json:"interfaces"`
	Trouble    string      `json:"trouble,omitempty"` // why nothing can be captured; empty: something can
}

// An Interface interface may be captured on.
type Interface struct {
	Name     string   `json:"name"`
	Alias    string   `json:"alias,omitempty"` // its second name
	Up       bool     `json:"up"`
	Recorded *float64 `json:"recorded,omitempty"` // seconds that its ring reaches back; nil: not recorded
}

// Encode returns the result as one line of JSON.
func (r Result) Encode() []byte { return text.JSON(r) }

// Decode reads a result that another program has published.
func Decode(message []byte) (Result, error) {
	r := Result{Counts: &Counts{}, Losses: &Losses{}, Presence: &Presence{}} // json makes none for embedded pointers
	err := json.Unmarshal(message, &r)
	return r, err
}

// A Stamp is a time in UTC that JSON shows with all nine digits of its nanoseconds.
type Stamp time.Time

// MarshalText implements encoding.TextMarshaler.
func (s Stamp) MarshalText() ([]byte, error) {
	return time.Time(s).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000000000Z07:00"), nil
}

// IsZero lets omitzero leave the stamp out.
func (s Stamp) IsZero() bool { return time.Time(s).IsZero() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Stamp) UnmarshalText(text []byte) error { return (*time.Time)(s).UnmarshalText(text) }
