package text

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"a ü":                    "a ü",
		"a\nb\x1b[31m\x00":       `a\nb\x1b[31m\x00`,
		"\xff":                   "�",
		strings.Repeat("ü", 200): strings.Repeat("ü", 200),
		strings.Repeat("ü", 201): strings.Repeat("ü", 200) + "…",
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q: want %s, got %s", text, want, got)
		}
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 24: "24", 1 << 10: "1KiB", 1500: "1500", 100 << 20: "100MiB", 3 << 30: "3GiB",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
	for d, want := range map[time.Duration]string{
		time.Second:      "1s",
		90 * time.Second: "1m30s",
		5 * time.Minute:  "5m",
		10 * time.Minute: "10m",
		time.Hour:        "1h",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d: want %s, got %s", d, want, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1500": 1500, "100MiB": 100 << 20, "100 MB": 100_000_000, "1.5gib": 3 << 29, "7B": 7, "2TiB": 2 << 40,
		"9223372036854775807": math.MaxInt64, "9223372036854775808": -1,
		"1,5GiB": -1, "16M": -1, "1,000": -1, "3XB": -1, "-1": -1, "1e3": -1, "": -1, "MiB": -1, "1.2.3KB": -1, "99999999999GiB": -1,
	} {
		if got, err := ParseSize(text); got != max(want, 0) || (err != nil) != (want < 0) {
			t.Errorf("%q: want %d, got %d, %v", text, want, got, err)
		}
	}
}
