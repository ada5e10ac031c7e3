package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

const (
	maxMessage = 64 << 10 // bytes of a request
	maxFilter  = 2048     // characters: compiling time grows with the square of the length
	maxID      = 128      // characters
	maxSnap    = 262144   // bytes, libpcap's own maximum
)

// A request asks for captures. Limits are 0 where the message names none.
type request struct {
	ID         string
	Interfaces []string
	Filter     string
	Packets    int64
	Bytes      int64
	Timeout    int64 // seconds
	Snap       int64 // bytes
	Tags       string
	Customer   string
	AlertID    *uint64 // nil: not given, which differs from 0
}

// decode reads a message. The error is errOtherNode, wraps errMalformed, or
// names the field that is wrong; only in the last case the request holds
// what could be read, for the refusal.
func (a *addressee) decode(message []byte) (request, error) {
	// Most messages are for others, so only their address is read at first.
	var head struct{ Node, NodeRE json.RawMessage }
	decoder := json.NewDecoder(bytes.NewReader(message))
	if err := decoder.Decode(&head); err != nil {
		return request{}, fmt.Errorf("%w: no JSON object: %w", errMalformed, err)
	}
	wrong := a.judge(head.Node, head.NodeRE)
	if errors.Is(wrong, errOtherNode) || errors.Is(wrong, errMalformed) {
		return request{}, wrong
	}
	object, rest := message[:decoder.InputOffset()], bytes.TrimLeft(message[decoder.InputOffset():], " \t\r\n")
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &fields); err != nil {
		return request{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	// Again, because a struct takes "Node" for "node".
	wrong = a.judge(fields["node"], fields["nodere"])
	if errors.Is(wrong, errOtherNode) || errors.Is(wrong, errMalformed) {
		return request{}, wrong
	}

	var r request
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := r.set(name, fields[name]); err != nil && wrong == nil {
			wrong = err
		}
	}
	switch {
	case len(message) > maxMessage:
		wrong = fmt.Errorf("message of %d bytes is longer than %d", len(message), maxMessage)
	case len(rest) > 0:
		wrong = fmt.Errorf("data after the object: %s", quote(string(rest)))
	}
	if r.ID == "" {
		r.ID = rand.Text()
	}
	return r, wrong
}

// set decodes one field into its place.
func (r *request) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "node", "nodere": // judged before
	case "interface":
		r.Interfaces, err = decodeInterfaces(value)
	case "tags":
		r.Tags, err = decodeText(value)
	case "customer":
		r.Customer, err = decodeText(value)
	case "bpf":
		r.Filter, err = decodeText(value)
		if n := utf8.RuneCountInString(r.Filter); n > maxFilter {
			r.Filter, err = "", fmt.Errorf("%d characters are more than %d", n, maxFilter)
		}
	case "id":
		r.ID, err = decodeText(value)
		if n := utf8.RuneCountInString(r.ID); n > maxID {
			r.ID, err = "", fmt.Errorf("%d characters are more than %d", n, maxID)
		}
	case "packets":
		r.Packets, err = decodeCount[int64](value)
	case "bytes":
		r.Bytes, err = decodeCount[int64](value)
	case "timeout":
		r.Timeout, err = decodeCount[int64](value)
	case "snap":
		r.Snap, err = decodeCount[int64](value)
	case "alertid":
		var id uint64
		if id, err = decodeCount[uint64](value); err == nil {
			r.AlertID = &id
		}
	default:
		return fmt.Errorf("%s: unknown field", quote(name))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// decodeText reads a string; a missing field is an empty one.
func decodeText(value json.RawMessage) (string, error) {
	if value == nil {
		return "", nil
	}
	var s *string // tells null from ""
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("takes a string, not %s", printable(string(value)))
	}
	return *s, nil
}

// decodeCount reads an integer that is not negative.
func decodeCount[T int64 | uint64](value json.RawMessage) (T, error) {
	if value[0] == '-' {
		return 0, fmt.Errorf("%s is negative", printable(string(value)))
	}
	var n *T // tells null from 0
	if err := json.Unmarshal(value, &n); err != nil || n == nil {
		return 0, fmt.Errorf("takes a 64-bit integer, not %s", printable(string(value)))
	}
	return *n, nil
}

// decodeInterfaces reads one name or a list of names, each taken once.
func decodeInterfaces(value json.RawMessage) ([]string, error) {
	if value[0] != '[' {
		name, err := decodeText(value)
		if err != nil || name == "" {
			return nil, err
		}
		return []string{name}, nil
	}
	var values []json.RawMessage
	if err := json.Unmarshal(value, &values); err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, v := range values {
		name, err := decodeText(v)
		if err == nil && name == "" {
			err = errors.New("the list holds an empty name")
		}
		if err != nil {
			return nil, err
		}
		if !seen[name] {
			names = append(names, name)
		}
		seen[name] = true
	}
	return names, nil
}
