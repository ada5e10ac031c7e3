package main

import (
	"strings"
	"testing"
	"time"
)

func TestCompilePattern(t *testing.T) {
	for name, test := range map[string]struct{ pattern, culprit string }{
		"an ordinary one":             {`^web[0-9]{1,3}\.(fra|ams)$`, ""},
		"a hundred hosts":             {strings.Repeat("web1234|", 100), ""},
		"longest":                     {strings.Repeat("ü", 1024), ""},
		"a few properties":            {strings.Repeat(`\pL`, 8), ""},
		"repeated a little":           {`(ab?c){100}`, ""},
		"too long":                    {strings.Repeat("ü", 1025), "1025 characters"},
		"repeated side by side":       {strings.Repeat("a{1000}", 100), "repeats"},
		"repeated within repetitions": {`((a{10}){10}){10}`, ""},
		"repeated far too often":      {`((a{10}b{10}){10}c?){10}`, "repeats"},
		"open repetition":             {strings.Repeat("(abc){900,}", 2), "repeats"},
		"more than the parser allows": {`((a{100}){100}){100}`, "invalid repeat count"},
		"many properties":             {strings.Repeat(`\PL`, 9), "repeats"},
		"broken":                      {`(`, "missing closing"},
	} {
		began := time.Now()
		_, err := compilePattern(test.pattern)
		if mentions(err, test.culprit) != (test.culprit != "") {
			t.Errorf("%s: want %q in the error, got %v", name, test.culprit, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}
