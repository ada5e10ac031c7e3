package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"
)

// anyNode is the node name that matches every host.
const anyNode = "any"

const (
	maxPattern = 1024 // characters of a nodere
	// maxEffort is how many steps a compiled pattern may have, about. The
	// names of a hundred hosts need a thousand.
	maxEffort = 2000
	// maxProperties is how many character properties (\pL) a pattern may hold:
	// parsing each one takes as long as a thousand ordinary characters.
	maxProperties = 8
	// maxFolding is how many characters the ranges of a pattern may hold, about, where
	// upper and lower case may be the same: the parser looks at each of them.
	maxFolding = 20_000
	// classSize is how many bounds of ranges in a class take as long as one step more.
	classSize = 32
)

var (
	// errOtherNode says that a request is for another host: not a word about it.
	errOtherNode = errors.New("request for another node")
	// errMalformed says that nobody can tell whom a message is for.
	errMalformed = errors.New("not a request")
	// errTwice refuses a pattern beside another one.
	errTwice = errors.New("given twice")
	// errEffort refuses a pattern that would cost every host more than all its other work.
	errEffort = errors.New("the expression repeats too much to be compiled")
)

// A matcher decides which messages are for this host. It is used from one goroutine.
type matcher struct {
	node string
	// implied makes a message that names no node one for this host.
	implied bool
	// pattern is the newest nodere, matched and broken are what came of it: most
	// messages of a busy channel bear the same one, and compiling it costs more
	// than all the rest.
	pattern string
	matched bool
	broken  error
}

// A claim is what a field says of this host, the stronger the higher.
type claim int

const (
	claimNone  claim = iota // missing or empty
	claimOther              // names another host
	claimWrong              // cannot be matched
	claimOurs               // names this one
)

// isForeign tells quickly, for most messages, that they are for another host:
// there, only their address is read. It may say no where judge knows better.
func (m *matcher) isForeign(message []byte) bool {
	if !bytes.Contains(message, []byte(`"node"`)) && !bytes.Contains(message, []byte(`"nodere"`)) {
		return false // json takes names in other letters, too
	}
	var head struct{ Node, NodeRE values }
	if json.NewDecoder(bytes.NewReader(message)).Decode(&head) != nil || len(head.Node)+len(head.NodeRE) != 1 {
		return false
	}
	byName, _ := strongest(head.Node, m.claimOfName)
	byPattern, _ := strongest(head.NodeRE, m.claimOfPattern)
	return max(byName, byPattern) == claimOther
}

// values are all that a field is given: json takes the last one of several,
// and one in other letters, without a word.
type values []json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (v *values) UnmarshalJSON(value []byte) error {
	*v = append(*v, bytes.Clone(value))
	return nil
}

// judge judges the address of a message; nil means this host.
func (m *matcher) judge(f fields) error {
	byName, nameErr := strongest(f.values("node"), m.claimOfName)
	patterns := f.values("nodere")
	byPattern, patternErr := claimWrong, errTwice
	if len(patterns) < 2 { // each of many would have to be compiled
		byPattern, patternErr = strongest(patterns, m.claimOfPattern)
	}
	const mine, other, both, noName, noPattern, nobody = 0, 1, 2, 3, 4, 5
	switch [...][4]int{
		// nodere:    none, other, wrong, ours
		claimNone:  {nobody, other, noPattern, mine},
		claimOther: {other, other, noPattern, both},
		claimWrong: {noName, noName, noName, both},
		claimOurs:  {mine, both, both, both},
	}[byName][byPattern] {
	case other:
		return errOtherNode
	case both:
		return errors.New("node and nodere: only one of them may be given")
	case noName:
		return fmt.Errorf("%w: node: %w", errMalformed, nameErr)
	case noPattern:
		return fmt.Errorf("%w: nodere: %w", errMalformed, patternErr)
	case nobody:
		if !m.implied {
			return fmt.Errorf("%w: neither node nor nodere is given", errMalformed)
		}
	}
	return nil
}

// strongest returns the strongest claim of several values, and why it cannot be matched if that is it.
func strongest(values []json.RawMessage, judge func(json.RawMessage) (claim, error)) (claim, error) {
	highest, why := claimNone, error(nil)
	for _, value := range values {
		if c, err := judge(value); c > highest {
			highest, why = c, err
		}
	}
	return highest, why
}

// claimOfName judges the field node; the error says why it cannot be matched.
func (m *matcher) claimOfName(value json.RawMessage) (claim, error) {
	name, err := decodeText(value)
	switch {
	case err != nil:
		return claimWrong, err
	case name == "":
		return claimNone, nil
	case name == m.node || name == anyNode:
		return claimOurs, nil
	}
	return claimOther, nil
}

// claimOfPattern judges the field nodere; the error says why it cannot be matched.
func (m *matcher) claimOfPattern(value json.RawMessage) (claim, error) {
	pattern, err := decodeText(value)
	switch {
	case err != nil:
		return claimWrong, err
	case pattern == "":
		return claimNone, nil
	case pattern != m.pattern:
		m.pattern = pattern
		var re *regexp.Regexp
		if re, m.broken = compilePattern(pattern); m.broken == nil {
			m.matched = re.MatchString(m.node)
		}
	}
	if m.broken != nil {
		return claimWrong, m.broken
	}
	if m.matched {
		return claimOurs, nil
	}
	return claimOther, nil
}

// compilePattern compiles a regular expression that anybody may have sent. Its
// repetitions are counted before: a{1000} written three thousand times would
// take seconds and hundreds of megabytes.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	if n := utf8.RuneCountInString(pattern); n > maxPattern {
		return nil, fmt.Errorf("%d characters are more than %d", n, maxPattern)
	}
	if strings.Count(pattern, `\p`)+strings.Count(pattern, `\P`) > maxProperties || folding(pattern) > maxFolding {
		return nil, errEffort
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if effort(tree) > maxEffort {
		return nil, errEffort
	}
	return regexp.Compile(pattern)
}

// folding returns how many characters the parser looks at for their other case, at most:
// those of each range beyond ASCII, from zero on, if there can be flags at all.
func folding(pattern string) (characters int) {
	if !strings.Contains(pattern, "(?") {
		return 0
	}
	for _, after := range strings.Split(pattern, "-")[1:] {
		end, size := utf8.DecodeRuneInString(after)
		if end == '\\' {
			end = unicode.MaxRune // as a number, perhaps
			if next, _ := utf8.DecodeRuneInString(after[size:]); next < utf8.RuneSelf && !isAlphanumeric(next) {
				end = next
			}
		}
		if end >= utf8.RuneSelf {
			characters += int(end)
		}
	}
	return characters
}

// isAlphanumeric reports whether an ASCII character is a letter or a digit.
func isAlphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// effort returns about how many steps an expression becomes when it is
// compiled: repetitions are written out.
func effort(tree *syntax.Regexp) int {
	steps := 1
	switch tree.Op {
	case syntax.OpLiteral:
		steps = len(tree.Rune)
	case syntax.OpCharClass:
		steps += len(tree.Rune) / classSize
	case syntax.OpRepeat:
		// The parser allows a thousand repetitions, nested ones multiplied.
		return max(tree.Min, tree.Max, 1) * effort(tree.Sub[0])
	}
	for _, part := range tree.Sub {
		steps += effort(part)
	}
	return steps
}
