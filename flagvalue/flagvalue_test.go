package flagvalue

import (
	"flag"
	"math"
	"testing"
	"time"
)

// values are one of each kind, and where they write.
type values struct {
	on      bool
	n, size int64
	d       time.Duration
	word    string
}

// flags returns the values as flags of their own names.
func (v *values) flags() map[string]flag.Value {
	return map[string]flag.Value{"switch": Switch(&v.on), "number": Number(&v.n, 5, 1, 10),
		"size": Size(&v.size, 1<<20, 1<<10, 1<<30), "unbounded": Size(new(int64), 0, 0, math.MaxInt64),
		"duration": Duration(&v.d, time.Minute, time.Second, time.Hour), "choice": Choice(&v.word, "info", "debug")}
}

// TestDefaults: a value holds its default from the start, and shows it.
func TestDefaults(t *testing.T) {
	v := values{on: true}
	for name, want := range map[string]string{"switch": "false", "number": "5", "size": "1MiB", "unbounded": "0",
		"duration": "1m", "choice": "info"} {
		if got := v.flags()[name].String(); got != want {
			t.Errorf("%s: want %s, got %s", name, want, got)
		}
	}
	if want := (values{false, 5, 1 << 20, time.Minute, "info"}); v != want {
		t.Errorf("want %v, got %v", want, v)
	}
}

// TestSet: what is taken is written to its place, and what is not is refused in words that say what is.
func TestSet(t *testing.T) {
	for _, test := range []struct{ name, text, want, refusal string }{
		{"switch", "true", "true", ""},
		{"switch", "yes", "", "takes true or false"},
		{"number", "10", "10", ""},
		{"number", "1", "1", ""},
		{"number", "0", "", "takes a number from 1 to 10"},
		{"number", "11", "", "takes a number from 1 to 10"},
		{"number", "1.5", "", "takes a number from 1 to 10"},
		{"size", "2KiB", "2KiB", ""},
		{"size", "1", "", "takes bytes or a size such as 100MiB, at least 1KiB and at most 1GiB"},
		{"size", "1KiB", "1KiB", ""},
		{"size", "1GiB", "1GiB", ""},
		{"size", "2GiB", "", "takes bytes or a size such as 100MiB, at least 1KiB and at most 1GiB"},
		{"unbounded", "-1", "", "takes bytes or a size such as 100MiB, at least 0"},
		{"duration", "90s", "1m30s", ""},
		{"duration", "1s", "1s", ""},
		{"duration", "1h", "1h", ""},
		{"duration", "2h", "", "takes a duration such as 90s, from 1s to 1h"},
		{"choice", "debug", "debug", ""},
		{"choice", "DEBUG", "", "takes info or debug"},
	} {
		value := new(values).flags()[test.name]
		before, refusal := value.String(), ""
		if err := value.Set(test.text); err != nil {
			refusal = err.Error()
		}
		if test.refusal != "" {
			test.want = before
		}
		if got := value.String(); got != test.want || refusal != test.refusal {
			t.Errorf("%s %s: want %q, %q, got %q, %q", test.name, test.text, test.want, test.refusal, got, refusal)
		}
	}
}

// TestSwitchStandsAlone: only a switch may stand without a value.
func TestSwitchStandsAlone(t *testing.T) {
	for name, value := range new(values).flags() {
		alone, ok := value.(interface{ IsBoolFlag() bool })
		if got := ok && alone.IsBoolFlag(); got != (name == "switch") {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
