package text

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"node", "nodere", "interface", "bpf", "timeout", "by", "packets", "id", "pattern",
		strings.Repeat("long", 8)}
	for word, want := range map[string]string{
		"interfaces": "interface", "Interface": "interface", "intreface": "interface", "iterfac": "interface",
		"bfp": "bpf", "BPF": "bpf", "timout": "timeout", "timeouts": "timeout", "noder": "node", "nod": "node",
		"packet": "packets", "": "", "filter": "", "x": "", "bpp": "bpf", "ie": "id", "host": "",
		"attren": "pattern", "ptern": "pattern", strings.Repeat("long", 8)[1:]: strings.Repeat("long", 8),
		strings.Repeat("long", 8): strings.Repeat("long", 8), strings.Repeat("long", 8) + "x": "",
		strings.Repeat("interface", 10): "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q: want %q, got %q", word, want, got)
		}
	}
}

func TestTypographic(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "udp": "", `"udp"`: "", "“udp": "“", "53”": "”", "«x»": "«", "Joe’s": "", "’": "’", "\xff": "",
	} {
		if got := Typographic(s); got != want {
			t.Errorf("%q: want %q, got %q", s, want, got)
		}
	}
	for s, want := range map[string]string{
		`{“node”:"x"}`: "“", `{"node":“x”}`: "“", `{"node": ‘x’}`: "‘", `{"tags":"“x”","a":"\"“x"}`: "", `{"tags":["x",“y”]}`: "“",
		`{"a":"x\":“y"}`: "",
		"":               "", "“": "“", `{"node":x“}`: "",
	} {
		if got := TypographicJSON(s); got != want {
			t.Errorf("%s: want %q, got %q", s, want, got)
		}
	}
}
