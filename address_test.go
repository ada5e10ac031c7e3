package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDecodeKeepsQuiet(t *testing.T) {
	for name, test := range map[string]struct {
		message string
		want    error
	}{
		"other name":                       {`{"node":"web2","interface":"eth0"}`, errOtherNode},
		"other case":                       {`{"node":"WEB1"}`, errOtherNode},
		"expression for another":           {`{"nodere":"^web1.$"}`, errOtherNode},
		"other name, wrong fields":         {`{"node":"web2","bfp":1,"packets":"x"}`, errOtherNode},
		"other name, data after":           {`{"node":"web2"} {"node":"web1"}`, errOtherNode},
		"both for others":                  {`{"node":"web2","nodere":"web3"}`, errOtherNode},
		"other name, too long":             {`{"node":"web2","tags":"` + strings.Repeat("x", 64<<10) + `"}`, errOtherNode},
		"expression for another, too long": {`{"nodere":"^db","tags":"` + strings.Repeat("x", 1<<20) + `"}`, errOtherNode},
		"name after what is cut off":       {`{"tags":"` + strings.Repeat("x", 64<<10) + `","node":"web1"}`, errMalformed},
		"empty":                            {``, errMalformed},
		"no JSON":                          {`capture eth0`, errMalformed},
		"cut off":                          {`{"node":"web1","interface":"eth`, errMalformed},
		"a list":                           {`["web1"]`, errMalformed},
		"a string":                         {`"web1"`, errMalformed},
		"null":                             {`null`, errMalformed},
		"nobody named":                     {`{"interface":"eth0"}`, errMalformed},
		"empty names":                      {`{"node":"","nodere":""}`, errMalformed},
		"broken expression":                {`{"nodere":"we("}`, errMalformed},
		"look-ahead, which RE2 has not":    {`{"nodere":"(?=web1)"}`, errMalformed},
		"name is a number":                 {`{"node":1}`, errMalformed},
		"name is null":                     {`{"node":null}`, errMalformed},
		"expression is a list":             {`{"nodere":["web1"]}`, errMalformed},
		"field in capitals is no name":     {`{"Node":"web1"}`, errMalformed},
		"… nor another one":                {`{"Node":"web2"}`, errMalformed},
		"… nor a pattern":                  {`{"nodeRE":"web2"}`, errMalformed},
		"other name, given twice":          {`{"node":"web2","node":"web3"}`, errOtherNode},
		"other name, also in capitals":     {`{"node":"web2","NODE":"web1"}`, errOtherNode},
		"expression that repeats":          {`{"nodere":"` + strings.Repeat("a{1000}", 100) + `"}`, errMalformed},
		"expression too long":              {`{"nodere":"` + strings.Repeat("x", 1025) + `"}`, errMalformed},
		"expression of 22 KB":              {`{"nodere":"` + strings.Repeat("a{1000}", 3200) + `"}`, errMalformed},
		"broken expression, other name":    {`{"node":"web2","nodere":"("}`, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := (&matcher{node: "web1"}).decode(received(test.message)); !errors.Is(err, test.want) {
				t.Errorf("want %v, got %v", test.want, err)
			}
		})
	}
}

func TestDecodeRemembersPattern(t *testing.T) {
	a := &matcher{node: "web1"}
	for _, pattern := range []string{"web", "web", "wea", "web", "db", "db", "(", "web", "("} {
		_, err := a.decode(received(`{"nodere":"` + pattern + `"}`))
		want := map[string]error{"web": nil, "wea": errOtherNode, "db": errOtherNode, "(": errMalformed}[pattern]
		if !errors.Is(err, want) {
			t.Errorf("%q: want %v, got %v", pattern, want, err)
		}
	}
}

func TestDecodeImplied(t *testing.T) {
	a := &matcher{node: "web1", implied: true}
	if _, err := a.decode(received(`{"interface":"lo"}`)); err != nil {
		t.Error("no node: ", err)
	}
	if _, err := a.decode(received(`{"node":"web2","interface":"lo"}`)); !errors.Is(err, errOtherNode) {
		t.Errorf("other node: want %v, got %v", errOtherNode, err)
	}
}

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
