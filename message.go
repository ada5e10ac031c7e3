package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/text"
)

const (
	maxMessage = pubsub.MaxMessage // bytes of a request
	maxFilter  = 2048              // characters: compiling time grows with the square of the length
	maxID      = 128               // characters
	maxText    = 1024              // characters of tags, customer and by: each result repeats them
	maxNames   = 64                // interfaces in one request
	maxName    = 128               // characters of a node or an interface
	// maxLookback is a day, in seconds.
	maxLookback = 24 * 60 * 60
)

// A request asks for captures. Limits are 0 where the message names none.
type request struct {
	ID         string
	Interfaces []string
	Filter     string
	Packets    int64
	Bytes      int64
	Timeout    int64 // seconds
	Lookback   int64 // seconds before the request
	Snap       int64 // bytes
	Tags       string
	Customer   string
	By         string  // who asks
	Progress   int64   // seconds between results on the way; 0: none
	Return     bool    // to the requester, through Redis, when it has ended
	Live       bool    // the same, while it is made
	Stop       string  // id of captures to be ended; nothing is captured
	RollCall   bool    // who is there? nothing is captured
	raw        []byte  // as it came: one JSON object
	AlertID    *uint64 // nil: not given, which differs from 0
}

// result returns a result that echoes the request.
func (r request) result(node, iface, state string) result.Result {
	return result.Result{ID: r.ID, Node: node, Interface: iface, State: state,
		Tags: r.Tags, Customer: r.Customer, AlertID: r.AlertID, Filter: r.Filter, By: r.By}
}

// isForRequester reports whether the capture goes to whoever asked for it, and so is bounded
// by -maxreturn and shared with nobody.
func (r request) isForRequester() bool { return r.Return || r.Live }

// A field is one name and its value in a message, as they stand there.
type field struct {
	name  string
	value json.RawMessage
}

// fields are those of a message, ordered by name.
type fields []field

// readFields returns the fields of the first object in a message, and what follows it.
// With an error, the fields are those before it.
func readFields(message []byte) (found fields, rest []byte, err error) {
	decoder := json.NewDecoder(bytes.NewReader(message))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, nil, fmt.Errorf("%w: no JSON object", errMalformed)
	}
	defer func() {
		slices.SortStableFunc(found, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	}()
	for decoder.More() {
		var f field
		name, err := decoder.Token()
		if err == nil {
			f.name, err = name.(string), decoder.Decode(&f.value) // names are strings
		}
		if err != nil {
			return found, nil, explainJSON(message, err)
		}
		found = append(found, f)
	}
	if _, err := decoder.Token(); err != nil {
		return found, nil, explainJSON(message, err)
	}
	return found, bytes.TrimLeft(message[decoder.InputOffset():], " \t\r\n"), nil
}

// explainJSON says why a message that begins as a JSON object is none.
func explainJSON(message []byte, err error) error {
	if mark := text.TypographicJSON(string(message)); mark != "" {
		return fmt.Errorf("%w: no JSON object: %s is a typographic quotation mark, JSON takes \"", errMalformed, mark)
	}
	return fmt.Errorf("%w: no JSON object: %w", errMalformed, err)
}

// values returns the values of a name: one, unless it is missing or given twice.
func (f fields) values(name string) []json.RawMessage {
	var found []json.RawMessage
	for _, field := range f {
		if field.name == name {
			found = append(found, field.value)
		}
	}
	return found
}

// decode reads a message. The error is errOtherNode, wraps errMalformed, or
// names the field that is wrong; only in the last case the request holds
// what could be read, for the refusal. Of a message that was cut off, the address
// is the one that stands before the cut.
func (m *matcher) decode(message pubsub.Message) (request, error) {
	if m.isForeign(message.Data) {
		return request{}, errOtherNode
	}
	fields, rest, err := readFields(message.Data)
	if err != nil && message.Rest == 0 {
		return request{}, err
	}
	wrong := m.judge(fields)
	switch {
	case errors.Is(wrong, errMalformed) && message.Rest > 0:
		return request{}, fmt.Errorf("%w, %d bytes long", wrong, message.Len())
	case errors.Is(wrong, errOtherNode) || errors.Is(wrong, errMalformed):
		return request{}, wrong
	}
	r, err := fields.request(message.Len(), rest, wrong)
	r.raw = bytes.TrimSpace(message.Data)
	return r, err
}

// checkRequest judges a message as the hosts that it names will, as far as
// that can be known without being one of them. It returns what its fields say, and the fields.
func checkRequest(message []byte) (request, fields, error) {
	found, rest, err := readFields(message)
	if err != nil {
		return request{}, nil, err
	}
	var host matcher
	if names := found.values("node"); len(names) > 0 {
		host.node, _ = decodeText(names[0]) // judged next
	}
	wrong := host.judge(found)
	switch {
	case errors.Is(wrong, errMalformed):
		return request{}, nil, wrong
	case errors.Is(wrong, errOtherNode):
		wrong = nil // for the hosts of a pattern
	}
	r, err := found.request(int64(len(message)), rest, wrong)
	return r, found, err
}

// request decodes the fields of a message of length bytes: rest is what follows the object,
// wrong is what is known to be wrong already. The error names the first thing that is wrong.
func (f fields) request(length int64, rest []byte, wrong error) (request, error) {
	switch {
	case length > maxMessage:
		wrong = fmt.Errorf("message of %d bytes is longer than %d", length, maxMessage)
	case len(rest) > 0:
		wrong = fmt.Errorf("data after the object: %s", text.Quote(string(rest)))
	}
	var r request
	for i, field := range f {
		err := r.set(field.name, field.value)
		if i > 0 && f[i-1].name == field.name {
			err = fmt.Errorf("%s: given twice", text.Quote(field.name))
		}
		if unknown, ok := err.(client.UnknownField); ok && wrong == nil { // put into words once: that takes long
			err = fmt.Errorf("%s: %w", text.Quote(field.name), unknown)
		}
		if wrong == nil {
			wrong = err
		}
	}
	if r.ID == "" {
		r.ID = rand.Text()
	}
	if wrong == nil {
		wrong = f.checkCommand(r)
	}
	return r, wrong
}

// checkCommand refuses fields beside those that a request has which captures
// nothing: whoever gives them means something else.
func (f fields) checkCommand(r request) error {
	var command string
	allowed := []string{"node", "nodere", "by"}
	switch {
	case r.Stop != "":
		command = "stop"
	case r.RollCall:
		command = "rollcall"
		allowed = append(allowed, "id")
	default:
		return nil
	}
	for _, field := range f {
		if field.name != command && !slices.Contains(allowed, field.name) {
			return fmt.Errorf("%s: not allowed with %s", field.name, command)
		}
	}
	return nil
}

// set decodes one field into its place.
func (r *request) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "node", "nodere": // judged before
	case "interface":
		r.Interfaces, err = decodeInterfaces(value)
	case "tags":
		r.Tags, err = decodeShortText(value, maxText)
	case "customer":
		r.Customer, err = decodeShortText(value, maxText)
	case "by":
		r.By, err = decodeShortText(value, maxText)
	case "lookback":
		r.Lookback, err = decodeCount[int64](value)
		if err == nil && r.Lookback > maxLookback {
			err = fmt.Errorf("%d s are more than %d", r.Lookback, maxLookback)
		}
	case "progress":
		r.Progress, err = decodeCount[int64](value)
	case "return":
		r.Return, err = decodeSwitch(value)
	case "live":
		r.Live, err = decodeSwitch(value)
	case "stop":
		r.Stop, err = decodeName(value, maxID)
	case "rollcall":
		r.RollCall, err = decodeSwitch(value)
	case "bpf":
		r.Filter, err = decodeName(value, maxFilter)
	case "id":
		r.ID, err = decodeName(value, maxID)
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
		return client.UnknownField(name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// decodeText reads a string.
func decodeText(value json.RawMessage) (string, error) {
	var s *string // tells null from ""
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("takes a string, not %s", text.Printable(string(value)))
	}
	return *s, nil
}

// decodeShortText reads a string of at most so many characters.
func decodeShortText(value json.RawMessage, most int) (string, error) {
	s, err := decodeText(value)
	if n := utf8.RuneCountInString(s); n > most {
		return "", fmt.Errorf("%d characters are more than %d", n, most)
	}
	return s, err
}

// decodeName reads a string without control characters: libpcap, for one,
// takes a NUL for the end of a filter.
func decodeName(value json.RawMessage, most int) (string, error) {
	s, err := decodeShortText(value, most)
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return "", fmt.Errorf("holds a control character: %s", text.Quote(s))
	}
	return s, err
}

// decodeCount reads an integer that is not negative.
func decodeCount[T int64 | uint64](value json.RawMessage) (T, error) {
	if value[0] == '-' {
		return 0, fmt.Errorf("%s is negative", text.Printable(string(value)))
	}
	var n *T // tells null from 0
	if err := json.Unmarshal(value, &n); err != nil || n == nil {
		return 0, fmt.Errorf("takes a 64-bit integer, not %s", text.Printable(string(value)))
	}
	return *n, nil
}

// decodeSwitch reads true or false.
func decodeSwitch(value json.RawMessage) (bool, error) {
	var on *bool // tells null from false
	if err := json.Unmarshal(value, &on); err != nil || on == nil {
		return false, fmt.Errorf("takes true or false, not %s", text.Printable(string(value)))
	}
	return *on, nil
}

// decodeInterfaces reads one name or a list of names, each taken once.
func decodeInterfaces(value json.RawMessage) ([]string, error) {
	if value[0] != '[' {
		name, err := decodeName(value, maxName)
		if err != nil || name == "" {
			return nil, err
		}
		return []string{name}, nil
	}
	var values []json.RawMessage
	if err := json.Unmarshal(value, &values); err != nil {
		return nil, err
	}
	if len(values) > maxNames {
		return nil, fmt.Errorf("%d names are more than %d", len(values), maxNames)
	}
	var names []string
	for _, v := range values {
		name, err := decodeName(v, maxName)
		switch {
		case err != nil:
			return nil, err
		case name == "":
			return nil, errors.New("the list holds an empty name")
		case !slices.Contains(names, name):
			names = append(names, name)
		}
	}
	return names, nil
}

// tags returns the request's own tags.
func (r request) tags() []string {
	var tags []string
	for tag := range strings.SplitSeq(r.Tags, ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// marks returns what else of a request becomes a tag.
func (r request) marks() []string {
	var marks []string
	if r.Customer != "" {
		marks = append(marks, "customer:"+flat(r.Customer))
	}
	if r.AlertID != nil {
		marks = append(marks, "alertid:"+strconv.FormatUint(*r.AlertID, 10))
	}
	return marks
}

// flat returns a text as a part of one tag, which commas would end.
func flat(text string) string { return strings.ReplaceAll(text, ",", "_") }
