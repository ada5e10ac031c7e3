package main

import (
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
		if got := printable(text); got != want {
			t.Errorf("%q: want %s, got %s", text, want, got)
		}
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 24: "24", 1 << 10: "1KiB", 1500: "1500", 100 << 20: "100MiB", 3 << 30: "3GiB",
	} {
		if got := formatSize(n); got != want {
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
		if got := formatDuration(d); got != want {
			t.Errorf("%d: want %s, got %s", d, want, got)
		}
	}
}
