package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A twin is a delivery to two remote destinations, which answer a capture file as
// they are told the first time, and take it whenever it comes again.
type twin struct {
	Delivery
	*testSpool
	sharks [2]*fakeShark
}

// newTwin returns a delivery to two destinations, each of which takes a while for its answer.
func newTwin(t *testing.T, answers [2]error, takes [2]time.Duration) *twin {
	w := &twin{}
	for i, title := range []string{"cloudshark", "store"} {
		w.sharks[i] = &fakeShark{title: title, takes: takes[i], answer: func(_ File, try int) error {
			if try == 1 {
				return answers[i]
			}
			return nil
		}}
	}
	w.testSpool = newTestSpool(t.TempDir(), w.sharks[0], w.sharks[1])
	w.Delivery = Delivery{remotes: w.remotes(), observer: w.seen}
	return w
}

// remotes returns the two destinations.
func (w *twin) remotes() []Remote { return w.testSpool.spool.remotes }

// pending returns which destinations are to get the capture file that is in the spool.
func (w *twin) pending() string {
	s := w.testSpool.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.entries {
		p.mu.Lock()
		defer p.mu.Unlock()
		return strings.Join(p.Pending, " ")
	}
	return ""
}

// TestDeliverToTwo: each of two destinations has its own fate, and what one of them does
// not have yet waits for that one alone.
func TestDeliverToTwo(t *testing.T) {
	answers := map[string]error{"takes it": nil, "is away": errors.New("away"), "refuses": Refusal{errors.New("refused")}}
	keepers := map[string]struct{ spool, directory bool }{
		"spool": {true, false}, "directory": {false, true}, "both": {true, true}, "neither": {false, false}}
	for first, one := range answers {
		for second, other := range answers {
			for keeper, keeps := range keepers {
				t.Run(strings.Join([]string{"cloudshark " + first, "store " + second, keeper}, ", "), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newTwin(t, [2]error{one, other}, [2]time.Duration{time.Second, 2 * time.Second})
						w.check(t, [2]error{one, other}, keeps.spool, keeps.directory)
					})
				})
			}
		}
	}
}

// check delivers a capture file, works the spool off and compares what comes of it with
// what the destinations have answered.
func (w *twin) check(t *testing.T, answers [2]error, spool, directory bool) {
	if spool {
		w.Delivery.spool = w.testSpool.spool
	}
	if directory {
		w.Delivery.local = &fakeDestination{title: "local"}
		w.testSpool.local = w.Delivery.local
	}
	r, content := newRecording(100)
	r.Name, r.Note = "x.pcap", []byte("note")
	away, refused := false, false
	var want, end Place
	var again []string // what is said of those that are tried again
	for i, err := range answers {
		if err != nil && !IsRefusal(err) {
			away = true
			again = append(again, w.sharks[i].title+": away")
		}
		refused = refused || IsRefusal(err)
		url := "http://" + w.sharks[i].title + r.Name
		if err == nil {
			want.add(url, i == 0)
		}
		if !IsRefusal(err) {
			end.add(url, i == 0)
		}
	}
	want.Kept = away && spool
	if directory && (refused || away && !spool) {
		want.File, end.File = "/x.pcap", "/x.pcap"
	}
	got, err := w.Deliver(t.Context(), nil, r)
	checkEqual(t, "says why it is kept", want.Kept, strings.Contains(got.Why, "away"))
	got.Why = ""
	checkEqual(t, "place", want, got)
	if !want.Kept {
		again = nil
	}
	checkEqual(t, "failures", fmt.Sprint(again), fmt.Sprint(w.seen.retries))
	checkEqual(t, "failed", refused || away && !spool, err != nil)
	if err != nil {
		checkEqual(t, "names the refusal", refused, strings.Contains(err.Error(), "refused"))
	}
	w.work(t, time.Minute)
	if !want.Kept {
		checkEqual(t, "ends", 0, len(w.ends))
		checkEqual(t, "spool", []string{}, files(t, w.path))
		return
	}
	settled := settlement{"note", end, ""}
	left := []string{}
	if refused {
		settled.err = "refused"
		if !directory {
			left = []string{"x.pcap", "x.pcap.refused"}
		}
	}
	checkEqual(t, "ends", []settlement{settled}, w.ends)
	checkEqual(t, "spool", left, files(t, w.path))
	for i, err := range answers {
		tries := map[bool]int{true: 2, false: 1}[err != nil && !IsRefusal(err)]
		checkEqual(t, "tries of "+w.sharks[i].title, tries, w.sharks[i].tries["x.pcap"])
		for _, upload := range w.sharks[i].got {
			checkEqual(t, "content", string(content), string(upload.content))
		}
	}
}

// TestDeliverToTwoAtStop: what has ended when the stop comes counts, and what ends
// after it is noted. The stop comes after 10 s, the end of all uploads after 40 s.
func TestDeliverToTwoAtStop(t *testing.T) {
	const url, stored = "http://cloudsharkx.pcap", "http://storex.pcap"
	refusal := Refusal{errors.New("refused")}
	stopped := context.Canceled.Error()
	for name, test := range map[string]struct {
		answers [2]error
		takes   [2]time.Duration
		waits   string // for them, from the stop on
		want    Place
		err     string
		end     []settlement
	}{
		"one before, one never": {[2]error{}, [2]time.Duration{5, 90}, "store",
			Place{URL: url, Kept: true, Why: stopped}, "", []settlement{{"note", Place{URL: url, Stored: stored}, ""}}},
		"one after, one never": {[2]error{}, [2]time.Duration{90, 20}, "cloudshark store",
			Place{Stored: stored, Kept: true, Why: stopped}, "", []settlement{{"note", Place{URL: url, Stored: stored}, ""}}},
		"one refuses after, one never": {[2]error{refusal}, [2]time.Duration{20, 90}, "cloudshark store",
			Place{File: "/x.pcap", Kept: true, Why: stopped}, "refused",
			[]settlement{{"note", Place{File: "/x.pcap", Stored: stored}, "refused"}}},
		"one refuses before, one after": {[2]error{refusal}, [2]time.Duration{5, 20}, "store",
			Place{File: "/x.pcap", Stored: stored}, "refused", nil},
		"both after":  {[2]error{}, [2]time.Duration{20, 30}, "cloudshark store", Place{URL: url, Stored: stored}, "", nil},
		"both before": {[2]error{}, [2]time.Duration{5, 6}, "", Place{URL: url, Stored: stored}, "", nil},
		"both never": {[2]error{}, [2]time.Duration{90, 90}, "cloudshark store",
			Place{Kept: true, Why: stopped + "\n" + stopped}, "",
			[]settlement{{"note", Place{URL: url, Stored: stored}, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwin(t, test.answers, [2]time.Duration{test.takes[0] * time.Second, test.takes[1] * time.Second})
				w.Delivery.spool = w.testSpool.spool
				w.Delivery.local = &fakeDestination{title: "local"}
				w.testSpool.local = w.Delivery.local
				stop := make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(40*time.Second, cancel)
				waits := make(chan string, 1)
				time.AfterFunc(10*time.Second, func() {
					close(stop)
					time.Sleep(time.Second)
					waits <- w.pending()
				})
				r, _ := newRecording(100)
				r.Name, r.Note = "x.pcap", []byte("note")
				got, err := w.Deliver(ctx, stop, r)
				checkEqual(t, "place", test.want, got)
				if said := errorText(err); said != test.err {
					t.Errorf("want %q, got %q", test.err, said)
				}
				time.Sleep(time.Minute)
				checkEqual(t, "waits for", test.waits, <-waits)
				checkEqual(t, "waits", test.want.Kept, len(w.entries) == 1)
				for _, shark := range w.sharks {
					shark.takes = 0
				}
				w.work(t, time.Minute)
				checkEqual(t, "ends", test.end, w.ends)
				checkEqual(t, "spool", []string{}, files(t, w.path))
			})
		})
	}
}

// TestAnswerBeforeStop: what has ended when a stop comes needs no copy because of it.
func TestAnswerBeforeStop(t *testing.T) {
	ended, stop := make(chan answer, 2), make(chan struct{})
	close(stop)
	for range 100 { // select takes either
		c := &copies{Delivery: &Delivery{remotes: make([]Remote, 3)}}
		ended <- answer{name: "a"}
		ended <- answer{name: "b"}
		c.await(ended, stop)
		if len(c.answers) != 2 {
			t.Fatalf("want both answers, got %v", c.answers)
		}
	}
}

// errorText returns the text of an error that may be nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
