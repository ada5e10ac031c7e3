package client

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pcapdaemon/text"
)

// Fields are the names of the fields that a request may have.
var Fields = []string{"node", "nodere", "interface", "bpf", "timeout", "packets", "bytes", "snap", "lookback", "return",
	"live", "progress", "tags", "customer", "alertid", "by", "id", "stop", "rollcall"}

// UnknownField is what is said of a field that no request may have. The error names the one that may be meant.
type UnknownField string

// Error implements error. It is costly, and so not done for fields that no error names.
func (u UnknownField) Error() string {
	if meant := text.Nearest(string(u), Fields); meant != "" {
		return "unknown field; did you mean " + meant + "?"
	}
	return "unknown field"
}

// inWords reports whether a request is given in words, and not as JSON or by a
// dash for standard input.
func inWords(request string) bool {
	return request != "-" && !strings.HasPrefix(strings.TrimSpace(request), "{")
}

// Spell returns the request of a flag and of the words that follow the flags.
func Spell(request string, words []string) (string, error) {
	switch {
	case inWords(request):
		return spellWords(append([]string{request}, words...))
	case len(words) > 0:
		return "", fmt.Errorf("%s stands behind a request that is complete; flags stand before it", text.Quote(words[0]))
	}
	return request, nil
}

// spellWords returns the JSON of a request that is given in words: field=value each.
func spellWords(words []string) (string, error) {
	fields := map[string]any{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		_, twice := fields[name]
		switch {
		case text.Typographic(word) != "" || ok && text.Typographic(value) != "":
			return "", fmt.Errorf("%s: %s is a typographic quotation mark: a shell takes ' and \"", text.Quote(word),
				cmp.Or(text.Typographic(word), text.Typographic(value)))
		case strings.HasPrefix(word, "-"):
			return "", fmt.Errorf("%s: flags stand before the words", text.Quote(word))
		case !ok:
			return "", fmt.Errorf("%s: takes a JSON object, - for standard input, or words such as node=web1", text.Quote(word))
		case twice:
			return "", fmt.Errorf("%s: %s is given twice", text.Quote(word), name)
		}
		var err error
		if fields[name], err = spellValue(name, value); err != nil {
			return "", fmt.Errorf("%s: %w", text.Quote(word), err)
		}
	}
	if fields["node"] == nil && fields["nodere"] == nil && (fields["stop"] != nil || fields["rollcall"] == true) {
		fields["node"] = "any" // whoever it concerns
	}
	return string(text.JSON(fields)), nil
}

// spellValue returns the value of a field as JSON has it.
func spellValue(field, value string) (any, error) {
	switch field {
	case "node", "nodere", "tags", "bpf", "customer", "id", "by", "stop":
		return value, nil
	case "interface":
		if strings.Contains(value, ",") {
			return strings.Split(value, ","), nil
		}
		return value, nil
	case "snap", "packets", "alertid":
		return spellNumber(value, "a number")
	case "timeout", "lookback", "progress":
		return spellSeconds(value)
	case "bytes":
		if n, err := text.ParseSize(value); err == nil {
			return n, nil
		}
		return spellNumber(value, "bytes or a size such as 16MiB")
	case "return", "live", "rollcall":
		if value != "true" && value != "false" {
			return nil, errors.New("takes true or false")
		}
		return value == "true", nil
	}
	return nil, UnknownField(field)
}

// spellNumber returns a whole number. Whether it may be negative, or so large,
// is judged where the field is.
func spellNumber(value, takes string) (any, error) {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		return n, nil
	}
	return nil, errors.New("takes " + takes)
}

// spellSeconds returns the seconds of a number, or of a duration.
func spellSeconds(value string) (any, error) {
	d, err := time.ParseDuration(value)
	if err != nil {
		return spellNumber(value, "seconds or a duration such as 30s or 5m")
	}
	if d%time.Second != 0 {
		return nil, errors.New("takes whole seconds")
	}
	return int64(d / time.Second), nil
}
