package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// both is the fate of a capture file that two destinations are to get.
var both = fate{Pending: []string{"cloudshark", "store"}}

// TestSpoolOfTwo: a destination that hangs, or fails, holds up no other one.
func TestSpoolOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shark := &fakeShark{takes: time.Hour, answer: func(File, int) error { return errors.New("no answer") }}
		store := &fakeShark{title: "store"}
		s := newTestSpool(t.TempDir(), shark, store)
		for i := range 10 {
			r, _ := newRecording(100 + i)
			r.Name = fmt.Sprintf("%d.pcap", i)
			if err := s.insert(r, both); err != nil {
				t.Fatal(err)
			}
		}
		s.work(t, time.Minute)
		checkEqual(t, "at the store", 10, len(store.got))
		checkEqual(t, "ends", 0, len(s.ends))
		checkEqual(t, "failures", "[cloudshark: context canceled]", fmt.Sprint(s.seen.retries))
		for name, p := range s.entries {
			checkEqual(t, name+" waits for", []string{"cloudshark"}, p.Pending)
		}
		again := newTestSpool(s.path, &fakeShark{}, store)
		again.work(t, time.Minute)
		checkEqual(t, "at the store", 10, len(store.got))
		checkEqual(t, "ends", 10, len(again.ends))
		for _, end := range again.ends {
			checkEqual(t, "end", true, end.place.URL != "" && end.place.Stored != "")
		}
		checkEqual(t, "left", []string{}, files(t, s.path))
		_, size, _ := again.stats()
		checkEqual(t, "size", 0, size)
	})
}

// TestSpoolSettlesOnce: what is damaged, and cannot be set aside yet, is not brought to another destination.
func TestSpoolSettlesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{}, &fakeShark{title: "store"})
		r, _ := newRecording(100)
		if err := s.insert(r, both); err != nil {
			t.Fatal(err)
		}
		s.disk.fault = func(operation, _ string) error {
			if operation == "move" {
				return unix.EROFS
			}
			return nil
		}
		time.Sleep(longestWait)
		p, _, _ := s.due("cloudshark")
		s.unreadable(p, "cloudshark", errDamaged)
		if p, _, _ := s.due("store"); p != nil {
			t.Error("want it due nowhere")
		}
		if wait := s.release(p, "store", nil); wait != 0 { // a try that was under way
			t.Errorf("want no other try, got one in %v", wait)
		}
		checkEqual(t, "ends", []settlement{{err: "damaged"}}, s.ends)
	})
}

// TestSpoolOfOthers: what waits for a destination that is not configured any more is
// left where it is, and said; other destinations get it, and so does that one when it
// is configured again.
func TestSpoolOfOthers(t *testing.T) {
	for name, test := range map[string]struct {
		waits fate
		has   string // the destination that is left
		said  string
	}{
		"none is left":  {fate{Pending: []string{"store"}}, "cloudshark", "1 capture in %s: waiting for store, not"},
		"one is left":   {both, "store", "1 capture in %s: waiting for cloudshark, not"},
		"other is left": {both, "cloudshark", "1 capture in %s: waiting for store, not"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				r, _ := newRecording(100)
				r.Name, r.Note = "x.pcap", []byte("note")
				if err := newTestSpool(dir).insert(r, test.waits); err != nil {
					t.Fatal(err)
				}
				sharks := map[string]*fakeShark{"cloudshark": {title: "cloudshark"}, "store": {title: "store"}}
				for range 2 {
					s := newTestSpool(dir, sharks[test.has])
					s.work(t, time.Hour)
					want := fmt.Sprintf(test.said, dir)
					if said := fmt.Sprint(s.seen.troubles); len(s.seen.troubles) != 1 || !strings.Contains(said, want) {
						t.Errorf("want %q said once, got %s", want, said)
					}
					checkEqual(t, "remark", fmt.Sprint(s.seen.troubles), fmt.Sprint([]error{s.remark()}))
					captures, size, _ := s.stats()
					checkEqual(t, "statistics", "0 0", fmt.Sprint(captures, size))
					checkEqual(t, "ends", 0, len(s.ends))
					checkEqual(t, "spool", []string{"x.pcap", "x.pcap.waybill"}, files(t, dir))
				}
				s := newTestSpool(dir, sharks["cloudshark"], sharks["store"])
				s.work(t, time.Hour)
				want := Place{}
				for i, name := range []string{"cloudshark", "store"} {
					tries := 0
					if slices.Contains(test.waits.Pending, name) {
						want.add("http://"+name+"x.pcap", i == 0)
						tries = 1
					}
					checkEqual(t, "tries of "+name, tries, sharks[name].tries["x.pcap"])
				}
				if test.has == "store" {
					want.URL, want.Stored = "http://storex.pcap", "http://cloudsharkx.pcap"
				}
				checkEqual(t, "ends", []settlement{{"note", want, ""}}, s.ends)
				checkEqual(t, "left", []string{}, files(t, dir))
			})
		})
	}
}

// TestSpoolOfNobody: what waits in the spool of a daemon that has no remote destinations any
// more is said in one line, and stays.
func TestSpoolOfNobody(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		r, _ := newRecording(100)
		r.Name = fmt.Sprintf("%d.pcap", i)
		if err := newTestSpool(dir).insert(r, both); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		seen := &countingObserver{}
		d := New(Options{Spool: dir, SpoolSize: 1 << 20, Observer: seen})
		checkEqual(t, "captures may wait", false, d.Spools())
		checkEqual(t, "before it has looked", nil, d.Remark())
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		d.Run(ctx, ctx)
		want := "20 captures in " + dir + ": waiting for cloudshark and store, not configured any more; " +
			"configure it again, or move the files away"
		checkEqual(t, "log", "["+want+"]", fmt.Sprint(seen.troubles))
		checkEqual(t, "remark", want, fmt.Sprint(d.Remark()))
		checkEqual(t, "files", 40, len(files(t, dir)))
		for i := range 20 {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%d.pcap.waybill", i))); err != nil {
				t.Fatal(err)
			}
		}
		d.spool.look()
		checkEqual(t, "remark when they were moved away", nil, d.Remark())
	})
}

// TestSpoolOfEarlierVersions: metadata that names no destination is for CloudShark.
func TestSpoolOfEarlierVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r, _ := newRecording(100)
		if err := newTestSpool(dir).insert(r, fate{File: "/a", Problem: "b"}); err != nil {
			t.Fatal(err)
		}
		shark, store := &fakeShark{}, &fakeShark{title: "store"}
		s := newTestSpool(dir, shark, store)
		s.work(t, time.Minute)
		checkEqual(t, "uploads", "[web1-eth0.pcap] []", fmt.Sprint(shark.names(), store.names()))
		checkEqual(t, "ends", []settlement{{"", Place{File: "/a", URL: "http://web1-eth0.pcap"}, "b"}}, s.ends)
	})
}

// TestSpoolOfTwoIsKilled ends the process at every moment of a capture's way to two
// destinations. Each gets it from the next process if it has not got it yet, or again
// only if the end came before its answer was noted.
func TestSpoolOfTwoIsKilled(t *testing.T) {
	refusal := Refusal{errors.New("refused")}
	for name, test := range map[string]struct {
		answers [2]error
		left    []string
	}{
		"both take it":       {[2]error{}, []string{}},
		"the first refuses":  {[2]error{refusal}, []string{"x.pcap", "x.pcap.refused"}},
		"the second refuses": {[2]error{nil, refusal}, []string{"x.pcap", "x.pcap.refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			killed := &killing{}
			for at := 0; at == 0 || killed.dead; at++ {
				killed = &killing{at: at}
				synctest.Test(t, func(t *testing.T) {
					dir := t.TempDir()
					var before, after [2]int
					kept, noted := twoLives(t, dir, killed, test.answers, &before, &after)
					for i := range 2 {
						tries := before[i] + after[i]
						if kept && tries == 0 || before[i] > 1 || after[i] > 1 {
							t.Errorf("want each to get it once by each process at most, got %v and %v", before, after)
						}
					}
					if noted && after[0] > 0 {
						t.Error("the first gets it again, though its answer was noted")
					}
					left := test.left
					if before[0]+after[0] == 0 {
						left = []string{}
					}
					checkEqual(t, "left", left, files(t, dir))
					if t.Failed() {
						t.Fatalf("killed at %d of %v", at, killed.operations)
					}
				})
			}
			if n := len(killed.operations); n < 16 {
				t.Errorf("want many moments, got %d", n)
			}
		})
	}
}

// twoLives keeps a capture for two destinations and works the spool off in a process
// that is killed, then in another one, and counts the answers that each has heard. It
// reports whether the capture was kept, and the first answer noted, by the first process.
func twoLives(t *testing.T, dir string, killed *killing, answers [2]error, before, after *[2]int) (kept, noted bool) {
	sharks := func(isDead func() bool, heard *[2]int) (one, two *fakeShark) {
		list := [2]*fakeShark{{title: "cloudshark", takes: time.Second}, {title: "store", takes: 10 * time.Second}}
		for i := range list {
			list[i].answer = func(File, int) error {
				if isDead() {
					return errKilled
				}
				heard[i]++
				return answers[i]
			}
		}
		return list[0], list[1]
	}
	one, two := sharks(killed.isDead, before)
	first := newTestSpool(dir, one, two)
	first.disk = &disk{fault: killed.fault}
	r, _ := newRecording(100)
	r.Name = "x.pcap"
	err := first.insert(r, both)
	kept = err == nil && !killed.isDead()
	if err == nil {
		first.work(t, time.Minute)
	}
	moved := slices.IndexFunc(killed.operations, func(o string) bool { return strings.HasPrefix(o, "move") })
	noted = moved >= 0 && (!killed.dead || moved < killed.at)
	one, two = sharks(func() bool { return false }, after)
	newTestSpool(dir, one, two).work(t, time.Hour)
	return kept, noted
}
