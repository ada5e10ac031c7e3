package tap

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	// compileTime is how long anyone waits for a filter.
	compileTime = 5 * time.Second
	// shortFilter is up to how many bytes a filter without names compiles
	// within milliseconds. The effort grows with the third power of the
	// length: 250 ports take 50 ms, 500 take 10 s.
	shortFilter = 128
	// So many filters of a kind are compiled at a time.
	shortPlaces, longPlaces, namedPlaces = 8, 2, 16
	// MostCompiled is how many filters are compiled at a time, of all kinds.
	MostCompiled = shortPlaces + 2*longPlaces + namedPlaces
	// compileNice is the nice value of threads that compile long filters.
	compileNice = 10
)

// ErrGivenUp is the error of a filter that takes too long.
var ErrGivenUp = errors.New("given up")

// A Compiler compiles filters, and bounds what that may take. Names in filters
// are looked up, which can take minutes and cannot be ended, so filters that
// may hold some have places of their own. Long ones have, too, as they may take
// the processor for seconds, and all of them together get one processor at most:
// what is given up keeps its place until libpcap is done, as it cannot be ended.
// Nothing holds up a filter that is short and plain.
type Compiler struct {
	// Policy is a pcap-filter(7) expression that packets have to pass beside any
	// filter that Compile is given; empty: there is none. It is set before use.
	// What a recorder holds has passed it: CompileRecorded leaves it out.
	Policy string

	// They hold one for each place that is taken; the last is for long ones with names.
	short, long, named, longNamed chan struct{}

	ask func(question, chan<- answer) // a test stands in for libpcap here
}

// NewCompiler returns a compiler. A process needs one, as it is what bounds them all.
func NewCompiler() *Compiler {
	return &Compiler{short: make(chan struct{}, shortPlaces), long: make(chan struct{}, longPlaces),
		named: make(chan struct{}, namedPlaces), longNamed: make(chan struct{}, longPlaces), ask: ask}
}

// Compile compiles a pcap-filter(7) expression for packets of an interface
// that are cut at a snapshot length in bytes. An empty expression takes
// everything. It gives up when the context ends, which then is the cause, or
// after five seconds (ErrGivenUp). Errors begin with "interface", "open" or "bpf", whichever
// is to blame.
func (c *Compiler) Compile(ctx context.Context, iface string, snap int, expression string) (*Filter, error) {
	l, err := findDevice(iface)
	if err != nil {
		return nil, err
	}
	return c.compile(ctx, question{iface: l.name, snap: snap, policy: policy(c.Policy), expression: expression})
}

// Compiling returns how many filters are being compiled at the moment, for whomever: each
// has a place until libpcap is done, those that were given up too. Anyone may call it at any time.
func (c *Compiler) Compiling() int {
	return len(c.short) + len(c.long) + len(c.named) + len(c.longNamed)
}

// compile has a question answered within the bounds.
func (c *Compiler) compile(ctx context.Context, q question) (*Filter, error) {
	expression := q.expression
	if strings.ContainsFunc(q.text(), unicode.IsControl) { // at a NUL, libpcap would end
		return nil, fmt.Errorf("bpf: filter %q holds control characters", expression)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, compileTime, fmt.Errorf("%w after %v", ErrGivenUp, compileTime))
	defer cancel()
	answers, err := c.begin(ctx, q)
	if err == nil {
		select {
		case a := <-answers:
			return a.filter, a.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return nil, compileError(expression, err)
}

// begin begins to compile a filter as soon as there is a place for it. The
// goroutine ends when libpcap has: there is no way to end a look-up.
func (c *Compiler) begin(ctx context.Context, q question) (<-chan answer, error) {
	place, err := c.take(ctx, q.text())
	if err != nil {
		return nil, err
	}
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-place }()
		if isLong(q.text()) {
			slowDown()
		}
		c.ask(q, answers)
	}()
	return answers, nil
}

// slowDown gives what the calling goroutine does from now on one processor,
// together with all others that have called it, and less of that than others get.
// The goroutine keeps its thread, which ends with it. What the kernel does not
// allow is left as it is: the places still bound how many there are.
func slowDown() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), compileNice)
	var allowed, one unix.CPUSet
	if unix.SchedGetaffinity(0, &allowed) != nil {
		return
	}
	for cpu := range len(allowed) * bits.UintSize {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			_ = unix.SchedSetaffinity(0, &one)
			return
		}
	}
}

// isLong reports whether a filter may take the processor for long.
func isLong(expression string) bool { return len(expression) > shortFilter }

// take takes a place for a filter. A short one does not wait for one where names
// are looked up, for that may take minutes.
func (c *Compiler) take(ctx context.Context, expression string) (place chan struct{}, err error) {
	named := mayHoldName(expression)
	switch {
	case named && isLong(expression):
		place = c.longNamed
	case named:
		select {
		case c.named <- struct{}{}:
			return c.named, nil
		default:
			return nil, fmt.Errorf("the names in %d other filters are being looked up", namedPlaces)
		}
	case isLong(expression):
		place = c.long
	default:
		place = c.short
	}
	select {
	case place <- struct{}{}:
		return place, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// compileError says that a filter was not compiled.
func compileError(expression string, cause error) error {
	return fmt.Errorf("bpf: compile filter %q: %w", expression, cause)
}
