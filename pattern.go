package main

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

const (
	maxPattern = 1024 // characters of a nodere
	// maxEffort is how many steps a compiled pattern may have, about. The
	// names of a hundred hosts need a thousand.
	maxEffort = 2000
	// maxProperties is how many character properties (\pL) a pattern may hold:
	// parsing each one takes as long as a thousand ordinary characters.
	maxProperties = 8
)

// errEffort refuses a pattern that would cost every host more than all its other work.
var errEffort = errors.New("the expression repeats too much to be compiled")

// compilePattern compiles a regular expression that anybody may have sent. Its
// repetitions are counted before: a{1000} written three thousand times would
// take seconds and hundreds of megabytes.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	if n := utf8.RuneCountInString(pattern); n > maxPattern {
		return nil, fmt.Errorf("%d characters are more than %d", n, maxPattern)
	}
	if strings.Count(pattern, `\p`)+strings.Count(pattern, `\P`) > maxProperties {
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

// effort returns about how many steps an expression becomes when it is
// compiled: repetitions are written out.
func effort(tree *syntax.Regexp) int {
	steps := 1
	switch tree.Op {
	case syntax.OpLiteral:
		steps = len(tree.Rune)
	case syntax.OpRepeat:
		// The parser allows a thousand repetitions, nested ones multiplied.
		return max(tree.Min, tree.Max, 1) * effort(tree.Sub[0])
	}
	for _, part := range tree.Sub {
		steps += effort(part)
	}
	return steps
}
