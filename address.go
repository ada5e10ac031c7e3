package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// anyNode is the node name that matches every host.
const anyNode = "any"

var (
	// errOtherNode says that a request is for another host: not a word about it.
	errOtherNode = errors.New("request for another node")
	// errMalformed says that nobody can tell whom a message is for.
	errMalformed = errors.New("not a request")
	// errBothNames says that a request names its host twice.
	errBothNames = errors.New("node and nodere: only one of them may be given")
)

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

// A claim is what one of the two fields says of this host.
type claim int

const (
	claimNone  claim = iota // missing or empty
	claimOurs               // names this host
	claimOther              // names another one
	claimWrong              // cannot be matched
)

// judge judges the address of a message, given by its two fields; nil means this host.
func (a *addressee) judge(node, nodeRE json.RawMessage) error {
	byName, nameErr := a.claimOfName(node)
	byPattern, patternErr := a.claimOfPattern(nodeRE)
	const mine, other, both, noName, noPattern, nobody = 0, 1, 2, 3, 4, 5
	switch [...][4]int{
		// nodere:    none, ours, other, wrong
		claimNone:  {nobody, mine, other, noPattern},
		claimOurs:  {mine, both, both, both},
		claimOther: {other, both, other, noPattern},
		claimWrong: {noName, both, noName, noName},
	}[byName][byPattern] {
	case other:
		return errOtherNode
	case both:
		return errBothNames
	case noName:
		return fmt.Errorf("%w: node: %w", errMalformed, nameErr)
	case noPattern:
		return fmt.Errorf("%w: nodere: %w", errMalformed, patternErr)
	case nobody:
		if !a.implied {
			return fmt.Errorf("%w: neither node nor nodere is given", errMalformed)
		}
	}
	return nil
}

// claimOfName judges the field node; the error says why it cannot be matched.
func (a *addressee) claimOfName(value json.RawMessage) (claim, error) {
	name, err := decodeText(value)
	switch {
	case err != nil:
		return claimWrong, err
	case name == "":
		return claimNone, nil
	case name == a.node || name == anyNode:
		return claimOurs, nil
	}
	return claimOther, nil
}

// claimOfPattern judges the field nodere; the error says why it cannot be matched.
func (a *addressee) claimOfPattern(value json.RawMessage) (claim, error) {
	pattern, err := decodeText(value)
	switch {
	case err != nil:
		return claimWrong, err
	case pattern == "":
		return claimNone, nil
	case pattern != a.pattern:
		re, err := regexp.Compile(pattern)
		if err != nil {
			return claimWrong, err
		}
		a.pattern, a.matched = pattern, re.MatchString(a.node)
	}
	if a.matched {
		return claimOurs, nil
	}
	return claimOther, nil
}
