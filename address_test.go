package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
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
		"expression given twice":           {`{"nodere":"web","nodere":"web"}`, errMalformed},
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
		"folded":                      {`(?i)^web-[0-9a-z\-]+\.[à-ÿа-я]$`, ""},
		"hosts, folded":               {"(?i)" + strings.Repeat("web-1|", 170), ""},
		"wide range, folded":          {"(?i)[" + strings.Repeat("B-\U0001E942", 337) + "]x", "repeats"},
		"… once":                      {"(?i)[B-\U0001E942]", "repeats"},
		"… as a number":               {`(?i)[B-\x{1E942}]`, "repeats"},
		"… in octal digits":           {`(?i)[B-\777]`, "repeats"},
		"… in a group":                {`x(?mi:[B-\x{1E942}])`, "repeats"},
		"… of all":                    {`(?i)[\x00-\x{10FFFF}]`, "repeats"},
		"… not folded":                {strings.Repeat("[B-\U0001E942]", 100), ""},
		"property that is repeated":   {`\pL{1000}`, "repeats"},
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

// slowest is ten times what judging a message may take on a slow machine.
const slowest = 500 * time.Millisecond

// checkQuick expects that a message is judged in time. Who was held up by others is asked again.
func checkQuick(t *testing.T, message string) {
	t.Helper()
	took := time.Hour
	for try := 0; try < 5 && took > slowest; try++ {
		m := matcher{node: "web1." + strings.Repeat("x", 59)}
		began := time.Now()
		_, _ = m.decode(received(message))
		took = min(took, time.Since(began))
	}
	if took > slowest {
		t.Errorf("want %d bytes judged within %v, took %v: %.200s", len(message), slowest, took, message)
	}
}

// slowMessages are those that take longest.
func slowMessages() map[string]string {
	endings, differing := "", ""
	for n := range 1000 {
		differing += fmt.Sprintf(`,"nodere":"(?i)%s{2}%d"`, strings.Repeat(`\\pL`, 8), n)
	}
	for n := range 30 {
		endings += fmt.Sprintf(`,"nodere":"(?i)[%s]x%d"`, strings.Repeat("B-\U0001E942", 337), n)
	}
	pattern := func(text string) string { return `{"nodere":"` + text + `"}` }
	return map[string]string{
		"wide ranges, folded":      pattern("(?i)[" + strings.Repeat("B-\U0001E942", 337) + "]x"),
		"… thirty of them":         "{" + endings[1:] + "}",
		"as many as may be folded": pattern("(?i)[" + strings.Repeat("B-\u0401", 19) + "]x"),
		"ASCII ranges, folded":     pattern("(?i)[" + strings.Repeat("!-~", 339) + "]"),
		"properties, folded":       pattern("(?i)" + strings.Repeat(`\\pL`, 8) + "{2}"),
		"properties, anchored":     pattern("^(?i:(" + strings.Repeat(`\\pLa|`, 8) + "x){8})$"),
		"negated classes":          pattern("(?i)" + strings.Repeat(`[^k]`, 250)),
		"alternatives":             pattern("^(" + strings.Repeat("ab|cd|", 168) + "x)$"),
		"nested repetitions":       pattern(`(((x{0,10}){0,10}){0,10})*y`),
		"stars":                    pattern(strings.Repeat("x*", 500) + "y"),
		"options":                  pattern(strings.Repeat("x?", 500) + "y"),
		"groups":                   pattern(strings.Repeat("(", 300) + "x" + strings.Repeat(")*", 300)),
		"named groups":             pattern(strings.Repeat("(?P<a>x)", 120)),
		"many fields":              `{"node":"any"` + strings.Repeat(`,"":0`, 13_000) + `}`,
		"many names":               `{` + strings.Repeat(`"node":"a",`, 5_900) + `"x":1}`,
		"many patterns":            `{` + strings.Repeat(`"nodere":"a",`, 5_000) + `"x":1}`,
		"patterns that differ":     `{"node":"a"` + differing + `}`,
		"many lists":               `{"node":"any"` + strings.Repeat(`,"interface":["a","b"]`, 2_900) + `}`,
		"one list":                 `{"node":"any","interface":[` + strings.Repeat(`"",`, 21_000) + `""]}`,
		"lists within each other":  `{"node":"any","x":` + strings.Repeat(`[`, 9_000) + strings.Repeat(`]`, 9_000) + `}`,
		"an open one":              `{"node":"any","x":` + strings.Repeat(`[`, 60_000),
		"a long number":            `{"node":"any","packets":` + strings.Repeat(`9`, 65_000) + `}`,
		"a long name":              `{"node":"any","` + strings.Repeat(`\u0000`, 10_000) + `":1}`,
		"a long text":              `{"node":"any","tags":"` + strings.Repeat(`\u0000`, 10_000) + `"}`,
		"more than is kept":        `{"node":"any"` + strings.Repeat(`,"x":0`, 100_000) + `}`,
	}
}

// TestDecodeIsQuick: the receive loop judges every message, and the watchdog waits for it.
func TestDecodeIsQuick(t *testing.T) {
	for name, message := range slowMessages() {
		t.Run(name, func(t *testing.T) { checkQuick(t, message) })
	}
}

// FuzzDecodeIsQuick looks for messages that take long.
func FuzzDecodeIsQuick(f *testing.F) {
	for _, message := range slowMessages() {
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, message string) { checkQuick(t, message) })
}

// FuzzPatternIsQuick looks for patterns that take long.
func FuzzPatternIsQuick(f *testing.F) {
	for _, message := range slowMessages() {
		var r struct{ NodeRE string }
		if json.Unmarshal([]byte(message), &r) == nil && r.NodeRE != "" {
			f.Add(r.NodeRE)
		}
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		text, _ := json.Marshal(map[string]string{"nodere": pattern})
		checkQuick(t, string(text))
	})
}

// TestFolding: what a range may cost is told from its end, where there can be flags.
func TestFolding(t *testing.T) {
	for pattern, want := range map[string]int{
		`[a-é]`: 0, `(?i)[a-z]`: 0, `(?i)[!-\]]`: 0, `(?i)[a-é]`: 'é',
		`(?i)[a-éx-ü]`: 'é' + 'ü', `(?i)[a-` + "\x7f]": 0, `(?i)[a-` + "\u0080]": 0x80,
		`(?i)[a-\x{e9}]`: unicode.MaxRune, `(?i)[\t-\n]`: unicode.MaxRune, `(?i)[a-\é]`: unicode.MaxRune,
	} {
		if got := folding(pattern); got != want {
			t.Errorf("%s: want %d, got %d", pattern, want, got)
		}
	}
}
