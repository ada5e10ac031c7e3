package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
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

// newSwitch returns a flag value for true or false; false is the default.
func newSwitch(to *bool) flag.Value {
	return toggle{limited[bool]{to, func(s string) (bool, bool) {
		b, err := strconv.ParseBool(s)
		return b, err == nil
	}, strconv.FormatBool, "true or false"}}
}

// newNumber returns a flag value for a whole number from low to high.
func newNumber(to *int64, initial, low, high int64) flag.Value {
	*to = initial
	return limited[int64]{to, func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && low <= n && n <= high
	}, func(n int64) string { return strconv.FormatInt(n, 10) }, fmt.Sprintf("a number from %d to %d", low, high)}
}

// newSize returns a flag value for a number of bytes from low to high.
func newSize(to *int64, initial, low, high int64) flag.Value {
	*to = initial
	takes := "bytes or a size such as 100MiB, at least " + formatSize(low)
	if high < math.MaxInt64 {
		takes += " and at most " + formatSize(high)
	}
	return limited[int64]{to, func(s string) (int64, bool) {
		n, err := parseSize(s)
		return n, err == nil && low <= n && n <= high
	}, formatSize, takes}
}

// newDuration returns a flag value for a duration from low to high.
func newDuration(to *time.Duration, initial, low, high time.Duration) flag.Value {
	*to = initial
	return limited[time.Duration]{to, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && low <= d && d <= high
	}, formatDuration, fmt.Sprintf("a duration such as 90s, from %s to %s", formatDuration(low), formatDuration(high))}
}

// newChoice returns a flag value for one of a few words; the first is the default.
func newChoice(to *string, words ...string) flag.Value {
	*to = words[0]
	return limited[string]{to, func(s string) (string, bool) {
		return s, slices.Contains(words, s)
	}, func(s string) string { return s }, strings.Join(words, " or ")}
}
