package client

import (
	"strings"
	"testing"
)

func TestSpell(t *testing.T) {
	for words, want := range map[string]string{
		"node=web1|interface=eth0":           `{"interface":"eth0","node":"web1"}`,
		"nodere=^web|interface=eth0,lo":      `{"interface":["eth0","lo"],"nodere":"^web"}`,
		"nodere=web{1,2}":                    `{"nodere":"web{1,2}"}`,
		"bpf=udp port 53 and len = 5":        `{"bpf":"udp port 53 and len = 5"}`,
		"bpf=":                               `{"bpf":""}`,
		"timeout=30|lookback=5m|progress=2s": `{"lookback":300,"progress":2,"timeout":30}`,
		"timeout=0":                          `{"timeout":0}`,
		"bytes=16MiB":                        `{"bytes":16777216}`,
		"bytes=1500":                         `{"bytes":1500}`,
		"bytes=-1":                           `{"bytes":-1}`,
		"packets=-1|snap=96":                 `{"packets":-1,"snap":96}`,
		"alertid=18446744073709551615":       `{"alertid":18446744073709551615}`,
		"return=true|rollcall=false":         `{"return":true,"rollcall":false}`,
		"live=true":                          `{"live":true}`,
		"id=a|by=b|tags=1,2":                 `{"by":"b","id":"a","tags":"1,2"}`,
		"stop=c":                             `{"node":"any","stop":"c"}`,
		"stop=c|nodere=^web":                 `{"nodere":"^web","stop":"c"}`,
		"rollcall=true":                      `{"node":"any","rollcall":true}`,
		"rollcall=true|node=a":               `{"node":"a","rollcall":true}`,
	} {
		if got, err := spellWords(strings.Split(words, "|")); got != want || err != nil {
			t.Errorf("%s: want %s, got %s, %v", words, want, got, err)
		}
	}
}

func TestSpellRefuses(t *testing.T) {
	for words, want := range map[string]string{
		"node=a|-destdir":       `"-destdir": flags stand before the words`,
		"node=a|-timeout=5":     `"-timeout=5": flags stand before the words`,
		"capture":               `"capture": takes a JSON object`,
		"node=a|eth0":           `"eth0": takes`,
		"node=a|node=b":         `"node=b": node is given twice`,
		"interfaces=eth0":       `"interfaces=eth0": unknown field; did you mean interface?`,
		"“node=web1":            "\"“node=web1\": “ is a typographic quotation mark: a shell takes ' and \"",
		"node=web1|bpf=‘udp":    `"bpf=‘udp": ‘ is a typographic quotation mark`,
		"node=web1|53”":         `"53”": ” is a typographic quotation mark`,
		"Node=a":                `"Node=a": unknown field; did you mean node?`,
		"=a":                    `"=a": unknown field`,
		"timeout=soon":          `"timeout=soon": takes seconds or a duration such as 30s or 5m`,
		"timeout=1500ms":        `"timeout=1500ms": takes whole seconds`,
		"bytes=lots":            `"bytes=lots": takes bytes or a size such as 16MiB`,
		"packets=1k":            `"packets=1k": takes a number`,
		"packets=1e3":           `"packets=1e3": takes a number`,
		"return=yes":            `"return=yes": takes true or false`,
		"bpf=udp|a\u001b[2J=\n": `"a\x1b[2J=\n": unknown field`,
	} {
		if got, err := spellWords(strings.Split(words, "|")); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: want %s, got %s, %v", words, want, got, err)
		}
	}
}

func TestSpellRequest(t *testing.T) {
	for name, test := range map[string]struct {
		request, words string
		want, wrong    string
	}{
		"JSON":                {`{"node":"a"}`, "", `{"node":"a"}`, ""},
		"a dash":              {"-", "", "-", ""},
		"one word":            {"node=a", "", `{"node":"a"}`, ""},
		"words":               {"node=a", "timeout=5 interface=lo", `{"interface":"lo","node":"a","timeout":5}`, ""},
		"JSON and a word":     {`{"node":"a"}`, "timeout=5", "", `"timeout=5" stands behind`},
		"a dash and a word":   {"-", "timeout=5", "", `"timeout=5" stands behind`},
		"neither JSON nor so": {"capture", "", "", `"capture": takes`},
	} {
		got, err := Spell(test.request, strings.Fields(test.words))
		if got != test.want || (err == nil) != (test.wrong == "") {
			t.Errorf("%s: want %s%s, got %s, %v", name, test.want, test.wrong, got, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), test.wrong) {
			t.Errorf("%s: want %s, got %v", name, test.wrong, err)
		}
	}
}

func TestInWords(t *testing.T) {
	for request, want := range map[string]bool{
		"-":             false,
		` {"node":"a"}`: false,
		"node=a":        true,
		"capture":       true,
		"null":          true,
	} {
		if got := inWords(request); got != want {
			t.Errorf("%s: want %v, got %v", request, want, got)
		}
	}
}
