package tap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// newCompiler returns a compiler whose places all have to be free again soon after the test.
func newCompiler(t testing.TB) *Compiler {
	t.Helper()
	c := NewCompiler()
	t.Cleanup(func() {
		testbed.Eventually(t, 5*time.Second, "all places for filters are free", func() bool { return c.Compiling() == 0 })
	})
	return c
}

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
		filter, err := newCompiler(t).Compile(t.Context(), test.iface, MaxSnap, test.filter)
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
func newSlowCompiler(t *testing.T) *Compiler {
	t.Helper()
	c := newCompiler(t)
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
			_, err := c.Compile(ctx, "lo", MaxSnap, filter)
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
		"many long ones of names": {namedFilter + " or " + longFilter, 10 * longPlaces, 10 * longPlaces, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, start := newSlowCompiler(t), time.Now()
				time.AfterFunc(time.Second, func() {
					if all := compileAll(t.Context(), c, 100, plainFilter); count(all, "") != 0 || time.Since(start) != time.Second {
						t.Errorf("want plain filters at once, took %v: %v", time.Since(start)-time.Second, errors.Join(all...))
					}
				})
				all := compileAll(t.Context(), c, test.times, test.filter)
				if given := count(all, "given up after 5s"); given != test.given || time.Since(start) != compileTime {
					t.Errorf("want %d given up after %v, got %d after %v: %v", test.given, compileTime, given, time.Since(start), all)
				}
				if given := errors.Join(all...); errors.Is(given, ErrGivenUp) != (test.given > 0) {
					t.Errorf("want %v, got %v", ErrGivenUp, given)
				}
				if refused := count(all, "16 other filters"); refused != test.refused {
					t.Errorf("want %d refused, got %d: %v", test.refused, refused, all)
				}
				taken := test.given
				if isLong(test.filter) {
					taken = min(taken, longPlaces)
				}
				if got := c.Compiling(); got != taken {
					t.Errorf("want %d places taken until libpcap is done, got %d", taken, got)
				}
				time.Sleep(time.Minute) // libpcap is done
			})
		})
	}
}

// TestNamesHoldUpNoLongFilter: long filters whose names are looked up do not take the
// places of those that have none.
func TestNamesHoldUpNoLongFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, start := newCompiler(t), time.Now()
		c.ask = func(q question, answers chan<- answer) {
			if mayHoldName(q.expression) {
				time.Sleep(time.Minute)
			}
			answers <- answer{filter: &Filter{}}
		}
		go compileAll(t.Context(), c, longPlaces, namedFilter+" or "+longFilter)
		synctest.Wait()
		if all := compileAll(t.Context(), c, longPlaces, longFilter); count(all, "") != 0 || time.Since(start) != 0 {
			t.Errorf("want long filters at once, took %v: %v", time.Since(start), all)
		}
		time.Sleep(time.Minute) // libpcap is done
	})
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
				for _, err := range compileAll(ctx, newSlowCompiler(t), 4, filter) {
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

// A deafServer is a name server that swallows all questions and counts them, until it
// is to answer.
type deafServer struct {
	conn  net.PacketConn
	asked atomic.Int64

	mu      sync.Mutex
	answers bool
	unheard []func() // each answers a question
}

// startDeafServer starts one where resolv.conf says.
func startDeafServer(t *testing.T) *deafServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &deafServer{conn: conn}
	go func() {
		for ; ; s.asked.Add(1) {
			question := make([]byte, 512)
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			s.hear(question[:n], from)
		}
	}()
	return s
}

// hear takes a question, and answers it if it is to.
func (s *deafServer) hear(question []byte, from net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question[2], question[3] = question[2]|0x80, 3 // there is no such name, RFC 1035
	s.unheard = append(s.unheard, func() { _, _ = s.conn.WriteTo(question, from) })
	if s.answers {
		s.answerAll()
	}
}

// answer answers all questions, those that were swallowed and those that come.
func (s *deafServer) answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = true
	s.answerAll()
}

// answerAll answers what has come so far.
func (s *deafServer) answerAll() {
	for _, answer := range s.unheard {
		answer()
	}
	s.unheard = nil
}

// TestDeafNameServer: names that are looked up for ever hold up no other
// filter, whatever that one needs, and no stop.
func TestDeafNameServer(t *testing.T) {
	if !testbed.Inside(t, "deaf", "nameserver 127.0.0.1\n") {
		return
	}
	server, c := startDeafServer(t), newCompiler(t)
	ctx, stop := context.WithCancel(t.Context())
	slow := make(chan []error)
	go func() { slow <- compileAll(ctx, c, namedPlaces, "vlan and host slow.example") }()
	testbed.Eventually(t, 5*time.Second, "all names are being looked up", func() bool {
		return server.asked.Load() >= namedPlaces
	})

	start := time.Now()
	for filter, want := range map[string]bool{"udp port 53": true, "ip broadcast": true, "vlan 7": true, "": true,
		"udp porrt 53": false, "type mgt": false, namedFilter: false} {
		if _, err := c.Compile(t.Context(), "lo", MaxSnap, filter); (err == nil) != want {
			t.Errorf("%q: want it compiled %v, got %v", filter, want, err)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("want all others at once, took %v", took)
	}
	start = time.Now()
	stop()
	if all := <-slow; count(all, "context canceled") != namedPlaces || time.Since(start) > time.Second {
		t.Errorf("want all ended at once, took %v: %v", time.Since(start), all)
	}
	testbed.Eventually(t, 5*time.Second, "no places are taken but those of the names", func() bool {
		return c.Compiling() <= namedPlaces
	})
	if got := c.Compiling(); got != namedPlaces {
		t.Errorf("want %d places taken as long as libpcap waits, got %d", namedPlaces, got)
	}
	server.answer()
}

// TestPlainWordsAreNotLookedUp holds what counts as no name against libpcap.
func TestPlainWordsAreNotLookedUp(t *testing.T) {
	t.Parallel()
	if !testbed.Inside(t, "plain", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n") {
		return
	}
	server := startDeafServer(t)
	words := append(strings.Fields(keywords), "10", "0x1f", "10.1", "10.1.2", "10.1.2.3", "1-2", "1:2", "0:", ":",
		"1::", "::", "::1.2.3.4", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "fe80::ab:cd", "a:b:c:d:e:f", "a-b-c-d-e-f",
		"aabb.ccdd.eeff", "-", "--1", "1-")
	for _, form := range []string{"%s", "host %s", "net %s", "port %s", "portrange %s",
		"portrange 1-1||3-3||%s", "portrange 1-1 and 5-%s", "portrange 1-1 or (3-3 or %s)", "gateway %s", "ether host %s",
		"ether gateway %s and host 1.2.3.4", "host 1::%s", "tcp[%s]=1", "proto %s", "ip proto %s", "ether proto %s"} {
		for _, word := range words {
			filter := fmt.Sprintf(form, word)
			if mayHoldName(filter) {
				continue
			}
			ask(question{iface: "lo", snap: MaxSnap, expression: filter}, make(chan answer, 1))
			if server.asked.Load() > 0 {
				t.Fatalf("%q: a name was looked up", filter)
			}
		}
	}
	if ask(question{iface: "lo", snap: MaxSnap, expression: namedFilter}, make(chan answer, 1)); server.asked.Load() == 0 {
		t.Error("want the name server asked for a name at least")
	}
}

// TestSlowFiltersShareOneProcessor: also when they are given up, and however
// many there are.
func TestSlowFiltersShareOneProcessor(t *testing.T) {
	testbed.NeedRoot(t)
	c := newCompiler(t)
	filter := "host localhost or portrange 1-1" + strings.Repeat("||3-3", 20)
	working := make(chan [2]int)
	c.ask = func(q question, answers chan<- answer) {
		var allowed unix.CPUSet
		if err := unix.SchedGetaffinity(0, &allowed); err != nil {
			t.Error(err)
		}
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Error(err)
		}
		working <- [2]int{allowed.Count(), 20 - nice} // the kernel's own form, getpriority(2)
		answers <- answer{}
	}
	for _, test := range []struct{ policy, filter string }{{"", filter}, {"", longFilter}, {longFilter, plainFilter}} {
		c.Policy = test.policy
		go func() { _, _ = c.Compile(t.Context(), "lo", MaxSnap, test.filter) }()
		if got, want := <-working, [2]int{1, compileNice}; got != want {
			t.Errorf("%q, %q: want processors and nice value %v, got %v", test.policy, test.filter, want, got)
		}
	}
}
