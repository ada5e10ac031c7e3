package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	maxMessage = 64 << 10 // bytes of a request
	maxFilter  = 2048     // characters: compiling time grows with the square of the length
	maxID      = 128      // characters
	maxSnap    = 262144   // bytes, libpcap's own maximum
	anyNode    = "any"    // the node name that matches every host
	maxQuoted  = 200      // characters of foreign text that an error quotes
)

var (
	// errOtherNode says that a request is for another host: not a word about it.
	errOtherNode = errors.New("request for another node")
	// errMalformed says that nobody can tell whom a message is for.
	errMalformed = errors.New("not a request")
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

// An addressee decides which messages are for this host. It is used from one goroutine.
type addressee struct {
	node string
	// implied makes a message that names no node one for this host.
	implied bool
	// pattern is the newest nodere and matched what came of it: most
	// messages of a busy channel bear the same one, and compiling it costs more
	// than all the rest.
	pattern string
	matched bool
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
	wrong := a.match(head.Node, head.NodeRE)
	if errors.Is(wrong, errOtherNode) || errors.Is(wrong, errMalformed) {
		return request{}, wrong
	}
	object, rest := message[:decoder.InputOffset()], bytes.TrimLeft(message[decoder.InputOffset():], " \t\r\n")
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &fields); err != nil {
		return request{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	// Again, because a struct takes "Node" for "node".
	wrong = a.match(fields["node"], fields["nodere"])
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

// match judges the addressee of a message; nil means this host.
func (a *addressee) match(node, nodeRE json.RawMessage) error {
	name, nameErr := decodeText(node)
	expression, expressionErr := decodeText(nodeRE)
	named := nameErr == nil && (name == a.node || name == anyNode)
	matched := false
	if expressionErr == nil && expression != "" {
		matched, expressionErr = a.matchPattern(expression)
	}
	switch {
	case named && (expression != "" || expressionErr != nil), matched && (name != "" || nameErr != nil):
		return errors.New("node and nodere: only one of them may be given")
	case named || matched:
		return nil
	case nameErr != nil:
		return fmt.Errorf("%w: node: %w", errMalformed, nameErr)
	case expressionErr != nil:
		return fmt.Errorf("%w: nodere: %w", errMalformed, expressionErr)
	case name != "" || expression != "":
		return errOtherNode
	case a.implied:
		return nil
	}
	return fmt.Errorf("%w: neither node nor nodere is given", errMalformed)
}

// matchPattern matches this host's name against a regular expression.
func (a *addressee) matchPattern(pattern string) (bool, error) {
	if pattern != a.pattern {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return false, err
		}
		a.pattern, a.matched = pattern, re.MatchString(a.node)
	}
	return a.matched, nil
}

// set decodes one field into its place.
func (r *request) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "node", "nodere": // judged by match
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

// Limits are what a host grants: the most that a request may ask for, and what
// it gets where it asks for nothing.
type limits struct {
	packets, bytes          int64
	timeout, defaultTimeout time.Duration
	interfaces              []string // nil: all
}

// bounds returns the ends of the request's captures. The error names the
// field, and the flag if that is what stands in the way.
func (l limits) bounds(r request) (bounds, error) {
	maxSeconds := int64(l.timeout / time.Second)
	switch {
	case len(r.Interfaces) == 0:
		return bounds{}, errors.New("interface: required")
	case r.Packets > l.packets:
		return bounds{}, fmt.Errorf("packets: %d is above -maxpackets %d", r.Packets, l.packets)
	case r.Bytes > l.bytes:
		return bounds{}, fmt.Errorf("bytes: %d is above -maxbytes %d", r.Bytes, l.bytes)
	case r.Bytes != 0 && r.Bytes < fileHeaderSize:
		return bounds{}, fmt.Errorf("bytes: %d is less than the %d of a file header", r.Bytes, fileHeaderSize)
	case r.Timeout > maxSeconds:
		return bounds{}, fmt.Errorf("timeout: %d s is above -maxtimeout %s", r.Timeout, formatDuration(l.timeout))
	case r.Snap > maxSnap:
		return bounds{}, fmt.Errorf("snap: %d is above %d", r.Snap, maxSnap)
	}
	return bounds{
		packets: cmp.Or(r.Packets, l.packets),
		bytes:   cmp.Or(r.Bytes, l.bytes),
		timeout: cmp.Or(time.Duration(r.Timeout)*time.Second, l.defaultTimeout),
	}, nil
}

// allow says why an interface may not be captured on, or nil.
func (l limits) allow(name string) error {
	if l.interfaces != nil && !slices.Contains(l.interfaces, name) {
		return fmt.Errorf("interface: %s is not in -interfaces", quote(name))
	}
	return nil
}
