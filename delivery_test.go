package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"pcapdaemon/testbed"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newRecording returns a recording of size bytes, and them.
func newRecording(size int) (recording, []byte) {
	content := testbed.RandomBytes(size)
	copy(content, "\xd4\xc3\xb2\xa1\x02\x00\x04\x00") // a pcap file, with one packet
	binary.LittleEndian.PutUint32(content[24+8:], uint32(size-24-16))
	return recording{
		id: "r1", name: "web1-eth0.pcap", size: int64(size), tags: []string{"a", "node:web1"}, comments: "filter: none",
		content: func() io.Reader { return bytes.NewReader(content) },
	}, content
}

// A fakeDestination stores or fails as it is told, after a while.
type fakeDestination struct {
	title string
	err   error
	takes time.Duration
	mu    sync.Mutex
	names []string
	began time.Time // of the newest recording
}

// name implements destination.
func (f *fakeDestination) name() string { return f.title }

// unused implements archive.
func (f *fakeDestination) unused(name string) string { return name }

// store implements destination.
func (f *fakeDestination) store(ctx context.Context, r recording) (receipt, error) {
	f.mu.Lock()
	f.names, f.began = append(f.names, r.name), time.Now()
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return receipt{}, ctx.Err()
	}
	if f.err != nil {
		return receipt{}, f.err
	}
	if f.title == "local" {
		return receipt{file: "/" + r.name}, nil
	}
	return receipt{url: "http://" + r.name}, nil
}

// stored returns how often something was to be stored; nil stores nothing.
func (f *fakeDestination) stored() int {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.names)
}

// A countingObserver counts what it is told.
type countingObserver struct {
	mu         sync.Mutex
	deliveries int
	retries    []error
	waits      []time.Duration // before retries
	gone       []string        // captures that made room
	troubles   []error
}

// delivered implements observer.
func (o *countingObserver) delivered(string, time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deliveries++
}

// retried implements observer.
func (o *countingObserver) retried(_ recording, err error, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retries, o.waits = append(o.retries, err), append(o.waits, wait)
}

// removed implements observer.
func (o *countingObserver) removed(names []string, _ int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = append(o.gone, names...)
}

// room returns the captures that have made room until now.
func (o *countingObserver) room() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.gone)
}

// troubled implements observer.
func (o *countingObserver) troubled(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.troubles = append(o.troubles, err)
}

func TestDeliver(t *testing.T) {
	broken := errors.New("broken")
	good := func() *fakeDestination { return &fakeDestination{} }
	bad := func() *fakeDestination { return &fakeDestination{err: broken} }
	disk := func() *fakeDestination { return &fakeDestination{title: "local"} }
	badDisk := func() *fakeDestination { return &fakeDestination{title: "local", err: broken} }
	for name, test := range map[string]struct {
		upload, local *fakeDestination
		always        bool
		want          receipt
		failure       bool
	}{
		"both":                       {good(), disk(), true, receipt{file: "/x.pcap", url: "http://x.pcap"}, false},
		"upload only":                {good(), nil, false, receipt{file: "", url: "http://x.pcap"}, false},
		"upload, spare directory":    {good(), disk(), false, receipt{file: "", url: "http://x.pcap"}, false},
		"local only":                 {nil, disk(), true, receipt{file: "/x.pcap", url: ""}, false},
		"upload fails":               {bad(), disk(), true, receipt{file: "/x.pcap", url: ""}, true},
		"upload fails, kept":         {bad(), disk(), false, receipt{file: "/x.pcap", url: ""}, true},
		"upload fails, kept nowhere": {bad(), nil, false, receipt{}, true},
		"local fails":                {good(), badDisk(), true, receipt{file: "", url: "http://x.pcap"}, true},
		"both fail":                  {bad(), badDisk(), true, receipt{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &countingObserver{}
			d := delivery{always: test.always, observer: seen}
			if test.upload != nil {
				d.upload = test.upload
			}
			if test.local != nil {
				d.local = test.local
			}
			got, err := d.deliver(t.Context(), nil, recording{name: "x.pcap"})
			if got != test.want || (err != nil) != test.failure {
				t.Errorf("want %+v, got %+v, %v", test.want, got, err)
			}
			if want := test.upload.stored() + test.local.stored(); want == 0 || seen.deliveries != want {
				t.Errorf("want %d deliveries counted, got %d", want, seen.deliveries)
			}
		})
	}
}

// TestDeliverAtOnce: a file is there while the upload still hangs.
func TestDeliverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newTestDirectory(t)
		d := delivery{upload: &fakeDestination{takes: time.Hour}, local: dir, always: true, observer: &countingObserver{}}
		r, _ := newRecording(100)
		var delivering sync.WaitGroup
		delivering.Go(func() { _, _ = d.deliver(t.Context(), nil, r) })
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(dir.path, r.name)); err != nil {
			t.Error(err)
		}
		delivering.Wait()
	})
}

// TestDeliverAtStop: from the stop on, what is not uploaded yet is written,
// while the upload has the rest of its time. The stop comes after 10 s, the end
// of all uploads after 40 s.
func TestDeliverAtStop(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		upload, local *fakeDestination
		always        bool
		written       time.Duration // when it began; 0: never
		took          time.Duration
		want          receipt
		failure       error
	}{
		"upload goes on for ever": {&fakeDestination{takes: time.Hour}, &fakeDestination{title: "local"}, false,
			10 * time.Second, 40 * time.Second, receipt{file: "/x.pcap"}, context.Canceled},
		"upload succeeds after all": {&fakeDestination{takes: 20 * time.Second}, &fakeDestination{title: "local"}, false,
			10 * time.Second, 20 * time.Second, receipt{file: "/x.pcap", url: "http://x.pcap"}, nil},
		"upload succeeds, disk is broken": {&fakeDestination{takes: 20 * time.Second},
			&fakeDestination{title: "local", err: broken}, false,
			10 * time.Second, 20 * time.Second, receipt{file: "", url: "http://x.pcap"}, nil},
		"upload fails before the stop": {&fakeDestination{takes: 5 * time.Second, err: broken},
			&fakeDestination{title: "local"}, false,
			5 * time.Second, 5 * time.Second, receipt{file: "/x.pcap"}, broken},
		"upload succeeds before the stop": {&fakeDestination{takes: 5 * time.Second}, &fakeDestination{title: "local"}, false,
			0, 5 * time.Second, receipt{url: "http://x.pcap"}, nil},
		"a slow disk is waited for": {&fakeDestination{takes: time.Hour},
			&fakeDestination{title: "local", takes: 10 * time.Minute}, false,
			10 * time.Second, 610 * time.Second, receipt{file: "/x.pcap"}, context.Canceled},
		"written in any case": {&fakeDestination{takes: time.Hour}, &fakeDestination{title: "local"}, true,
			time.Nanosecond, 40 * time.Second, receipt{file: "/x.pcap"}, context.Canceled},
		"no directory": {&fakeDestination{takes: time.Hour}, nil, false,
			0, 40 * time.Second, receipt{}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				stop := make(chan struct{})
				time.AfterFunc(10*time.Second, func() { close(stop) })
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(40*time.Second, cancel)
				d := delivery{upload: test.upload, always: test.always, observer: &countingObserver{}}
				written := time.Duration(0)
				if test.local != nil {
					d.local = test.local
				}
				got, err := d.deliver(ctx, stop, recording{name: "x.pcap"})
				if test.local != nil && !test.local.began.IsZero() {
					written = max(time.Nanosecond, test.local.began.Sub(began))
				}
				if got != test.want || !errors.Is(err, test.failure) {
					t.Errorf("want %+v, %v, got %+v, %v", test.want, test.failure, got, err)
				}
				if took := time.Since(began); written != test.written || took != test.took {
					t.Errorf("want it written after %v and delivered after %v, got %v and %v",
						test.written, test.took, written, took)
				}
			})
		})
	}
}

// TestDeliverToSpool: what is not uploaded in time goes to the spool, and to
// the directory only if the spool does not take it, or CloudShark refuses it.
// A stop comes after 10 s, the end of all uploads after 40 s.
func TestDeliverToSpool(t *testing.T) {
	broken, no := errors.New("broken"), refusal{errors.New("401")}
	const file, url = "/x.pcap", "http://x.pcap"
	after := func(seconds time.Duration, err error) *fakeDestination {
		return &fakeDestination{title: "cloudshark", takes: seconds * time.Second, err: err}
	}
	disk := func(err error) *fakeDestination { return &fakeDestination{title: "local", err: err} }
	for name, test := range map[string]struct {
		upload, local *fakeDestination
		always, full  bool
		want          receipt
		failure       []error
		waits         bool // in the spool
	}{
		"upload succeeds":       {after(1, nil), disk(nil), false, false, receipt{url: url}, nil, false},
		"upload fails":          {after(1, broken), disk(nil), false, false, receipt{kept: true}, nil, true},
		"upload fails, written": {after(1, broken), disk(nil), true, false, receipt{file: file, kept: true}, nil, true},
		"upload and disk fail": {after(1, broken), disk(broken), true, false, receipt{kept: true},
			[]error{broken}, true},
		"refused":                {after(1, no), disk(nil), false, false, receipt{file: file}, []error{no}, false},
		"refused, no directory":  {after(1, no), nil, false, false, receipt{}, []error{no}, false},
		"spool is full":          {after(1, broken), disk(nil), false, true, receipt{file: file}, []error{broken}, false},
		"spool is full, no more": {after(1, broken), nil, false, true, receipt{}, []error{broken}, false},
		"stopped":                {after(90, nil), disk(nil), false, false, receipt{kept: true}, nil, true},
		"stopped, written":       {after(90, nil), disk(nil), true, false, receipt{file: file, kept: true}, nil, true},
		"stopped, spool is full": {after(90, nil), disk(nil), false, true, receipt{file: file},
			[]error{context.Canceled}, false},
		"uploaded after the stop":   {after(20, nil), disk(nil), false, false, receipt{url: url}, nil, false},
		"refused after the stop":    {after(20, no), disk(nil), false, false, receipt{file: file}, []error{no}, false},
		"refused, stopped, written": {after(20, no), disk(nil), true, false, receipt{file: file}, []error{no}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestSpool(t.TempDir(), &fakeShark{})
				d := delivery{upload: test.upload, spool: s.spool, always: test.always, observer: s.seen}
				if test.local != nil {
					d.local, s.local = test.local, test.local
				}
				if test.full {
					s.maxSize = 10
				}
				stop := make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(40*time.Second, cancel)
				time.AfterFunc(10*time.Second, func() {
					close(stop)
					time.Sleep(time.Second)
					if captures, _, _ := s.stats(); !test.full && test.upload.takes > 10*time.Second && captures != 1 {
						t.Error("want it in the spool from the stop on")
					}
				})
				r, _ := newRecording(100)
				r.name, r.note = "x.pcap", []byte("note")
				got, err := d.deliver(ctx, stop, r)
				checkEqual(t, "receipt", test.want, got)
				for _, want := range test.failure {
					if !errors.Is(err, want) {
						t.Errorf("want %v, got %v", want, err)
					}
				}
				checkEqual(t, "failed", test.failure != nil, err != nil)
				captures, _, _ := s.stats()
				checkEqual(t, "waits", test.waits, captures == 1)
				checkEqual(t, "spool is used", test.waits, len(files(t, s.path)) > 0)
				if test.full && !strings.Contains(err.Error(), "too many") {
					t.Errorf("want the full spool named, got %v", err)
				}
				time.Sleep(time.Minute)
				s.work(t, time.Minute)
				if !test.waits {
					checkEqual(t, "ends", 0, len(s.ends))
					return
				}
				end := settlement{"note", receipt{file: test.want.file, url: url}, ""}
				if err != nil {
					end.err = "broken"
				}
				checkEqual(t, "ends", []settlement{end}, s.ends)
			})
		})
	}
}

// TestDeliverToSpoolWhileDiskHangs: a directory that takes for ever keeps no
// capture out of the spool.
func TestDeliverToSpoolWhileDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSpool(t.TempDir(), &fakeShark{})
		d := delivery{upload: &fakeDestination{title: "cloudshark", err: errors.New("broken")}, spool: s.spool, always: true,
			local: &fakeDestination{title: "local", takes: time.Hour}, observer: s.seen}
		r, _ := newRecording(100)
		time.AfterFunc(2*lateDelivery, func() {
			if captures, _, _ := s.stats(); captures != 1 {
				t.Error("want it in the spool")
			}
		})
		got, err := d.deliver(t.Context(), nil, r)
		checkEqual(t, "receipt", receipt{file: "/" + r.name, kept: true}, got)
		checkEqual(t, "failed", false, err != nil)
	})
}

// TestDeliverSameName: the upload bears the name of the file.
func TestDeliverSameName(t *testing.T) {
	dir := newTestDirectory(t)
	r, _ := newRecording(100)
	if err := os.WriteFile(filepath.Join(dir.path, r.name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	to := &fakeDestination{}
	d := delivery{upload: to, local: dir, always: true, observer: &countingObserver{}}
	got, err := d.deliver(t.Context(), nil, r)
	if want := "web1-eth0-2.pcap"; err != nil || filepath.Base(got.file) != want || to.names[0] != want {
		t.Errorf("want %s twice, got %s and %s, %v", want, got.file, to.names[0], err)
	}
}

func TestFileName(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600))
	if want, got := "we_b-eth0.5_-20260102T020405.000000060Z.pcap", fileName("we/b", "eth0.5:", at, ".pcap"); want != got {
		t.Errorf("want %s, got %s", want, got)
	}
}
