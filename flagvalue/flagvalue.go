// Package flagvalue has values for package flag that say what they take when they refuse
// something. Each writes to the variable that it is given, which it sets to the default at once.
// They are used from one goroutine. The package knows no flag of the program.
package flagvalue

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"pcapdaemon/text"
)

// A limited is a flag.Value that says in its errors what it takes.
type limited[T bool | int64 | string | time.Duration] struct {
	to     *T
	parse  func(string) (T, bool)
	format func(T) string
	takes  string
}

// Set implements flag.Value.
func (l limited[T]) Set(s string) error {
	v, ok := l.parse(s)
	if !ok {
		return errors.New("takes " + l.takes)
	}
	*l.to = v
	return nil
}

// String implements flag.Value.
func (l limited[T]) String() string {
	if l.to == nil { // the flag package asks the zero value
		return ""
	}
	return l.format(*l.to)
}

// A toggle is a limited that may stand without a value.
type toggle struct{ limited[bool] }

// IsBoolFlag tells the flag package that -upload is -upload=true.
func (toggle) IsBoolFlag() bool { return true }

// Switch returns a flag value for true or false; false is the default.
func Switch(to *bool) flag.Value {
	*to = false
	return toggle{limited[bool]{to, func(s string) (bool, bool) {
		b, err := strconv.ParseBool(s)
		return b, err == nil
	}, strconv.FormatBool, "true or false"}}
}

// Number returns a flag value for a whole number from low to high.
func Number(to *int64, initial, low, high int64) flag.Value {
	*to = initial
	return limited[int64]{to, func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && low <= n && n <= high
	}, func(n int64) string { return strconv.FormatInt(n, 10) }, fmt.Sprintf("a number from %d to %d", low, high)}
}

// Size returns a flag value for a number of bytes from low to high.
func Size(to *int64, initial, low, high int64) flag.Value {
	*to = initial
	takes := "bytes or a size such as 100MiB, at least " + text.FormatSize(low)
	if high < math.MaxInt64 {
		takes += " and at most " + text.FormatSize(high)
	}
	return limited[int64]{to, func(s string) (int64, bool) {
		n, err := text.ParseSize(s)
		return n, err == nil && low <= n && n <= high
	}, text.FormatSize, takes}
}

// Duration returns a flag value for a duration from low to high.
func Duration(to *time.Duration, initial, low, high time.Duration) flag.Value {
	*to = initial
	return limited[time.Duration]{to, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && low <= d && d <= high
	}, text.FormatDuration, fmt.Sprintf("a duration such as 90s, from %s to %s",
		text.FormatDuration(low), text.FormatDuration(high))}
}

// Choice returns a flag value for one of a few words; the first is the default.
func Choice(to *string, words ...string) flag.Value {
	*to = words[0]
	return limited[string]{to, func(s string) (string, bool) {
		return s, slices.Contains(words, s)
	}, func(s string) string { return s }, strings.Join(words, " or ")}
}
