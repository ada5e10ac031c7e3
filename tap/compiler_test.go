package tap

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/testbed"
)

func TestCompileRefuses(t *testing.T) {
	testbed.NeedRoot(t)
	for name, test := range map[string]struct{ iface, filter, culprit string }{
		"unknown interface":            {"eth9", "udp", `interface: "eth9"`},
		"libpcap's other devices":      {"nflog", "", "interface"},
		"an address as interface":      {"rpcap://127.0.0.1/lo", "", "interface"},
		"filter that does not compile": {"lo", "udp porrt 53", "bpf: compile filter"},
		"filter for another link type": {"lo", "type mgt", "bpf"},
		"no VLANs there":               {AnyInterface, "vlan 5", "bpf"},
		"filter with a name":           {"lo", "host no-such-host.invalid", "no-such-host.invalid"},
		"a NUL":                        {"lo", "udp\x00 and port 53", "bpf: filter"},
		"a line":                       {"lo", "udp\nand port 53", "bpf: filter"},
	} {
		filter, err := NewCompiler().Compile(t.Context(), test.iface, MaxSnap, test.filter)
		if filter != nil || err == nil || !strings.Contains(err.Error(), test.culprit) {
			t.Errorf("%s: want %q in the error, got %v", name, test.culprit, err)
		}
	}
}

const (
	plainFilter = "udp port 53"
	namedFilter = "host slow.example"
)

// longFilter takes the processor for long.
var longFilter = "port 1" + strings.Repeat(" || 2", shortFilter/4)

// newSlowCompiler returns a compiler for which each filter but the plain one takes a minute.
func newSlowCompiler() *Compiler {
	c := NewCompiler()
	c.ask = func(q question, answers chan<- answer) {
		if q.expression != plainFilter {
			time.Sleep(time.Minute)
		}
		answers <- answer{filter: &Filter{expression: q.expression}}
	}
	return c
}

// compileAll compiles a filter so many times at once, and returns the errors when the last one is there.
func compileAll(ctx context.Context, c *Compiler, times int, filter string) []error {
	found := make(chan error)
	for range times {
		go func() {
			_, err := c.Compile(ctx, AnyInterface, MaxSnap, filter)
			found <- err
		}()
	}
	var all []error
	for range times {
		all = append(all, <-found)
	}
	return all
}

// count returns how many errors have a text in them.
func count(all []error, text string) (n int) {
	for _, err := range all {
		if err != nil && strings.Contains(err.Error(), text) {
			n++
		}
	}
	return n
}

// TestSlowFilters: they are given up, refused when there are too many, and
// whatever there is of them, plain filters neither wait nor are refused.
func TestSlowFilters(t *testing.T) {
	for name, test := range map[string]struct {
		filter         string
		times          int
		given, refused int
	}{
		"a name":                  {namedFilter, 1, 1, 0},
		"as many names as may be": {namedFilter, namedPlaces, namedPlaces, 0},
		"more names":              {namedFilter, namedPlaces + 3, namedPlaces, 3},
		"a long one":              {longFilter, 1, 1, 0},
		"many long ones":          {longFilter, 10 * longPlaces, 10 * longPlaces, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, start := newSlowCompiler(), time.Now()
				time.AfterFunc(time.Second, func() {
					if all := compileAll(t.Context(), c, 100, plainFilter); count(all, "") != 0 || time.Since(start) != time.Second {
						t.Errorf("want plain filters at once, took %v: %v", time.Since(start)-time.Second, errors.Join(all...))
					}
				})
				all := compileAll(t.Context(), c, test.times, test.filter)
				if given := count(all, "given up after 5s"); given != test.given || time.Since(start) != compileTime {
					t.Errorf("want %d given up after %v, got %d after %v: %v", test.given, compileTime, given, time.Since(start), all)
				}
				if refused := count(all, "16 other filters"); refused != test.refused {
					t.Errorf("want %d refused, got %d: %v", test.refused, refused, all)
				}
				time.Sleep(time.Minute) // the places are free again when libpcap is done
				if len(c.named)+len(c.short) != 0 || len(c.long) > longPlaces {
					t.Errorf("want the places free, %d, %d and %d are taken", len(c.named), len(c.short), len(c.long))
				}
			})
		})
	}
}

// TestSlowFilterAtStop: nobody waits for a filter when the context has ended.
func TestSlowFilterAtStop(t *testing.T) {
	for name, filter := range map[string]string{"a name": namedFilter, "long ones that wait": longFilter} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cause := errors.New("asked to stop")
				ctx, stop := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { stop(cause) })
				start := time.Now()
				for _, err := range compileAll(ctx, newSlowCompiler(), 4, filter) {
					if !errors.Is(err, cause) {
						t.Errorf("want %v, got %v", cause, err)
					}
				}
				if took := time.Since(start); took != time.Second {
					t.Errorf("want the end at once, took %v", took-time.Second)
				}
				time.Sleep(time.Minute) // until libpcap is done
			})
		})
	}
}
