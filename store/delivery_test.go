package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"pcapdaemon/encrypt"
	"pcapdaemon/testbed"
)

// newRecording returns a recording of size bytes, and them.
func newRecording(size int) (File, []byte) {
	content := testbed.RandomBytes(size)
	copy(content, "\xd4\xc3\xb2\xa1\x02\x00\x04\x00") // a pcap file, with one packet
	binary.LittleEndian.PutUint32(content[24+8:], uint32(size-24-16))
	return File{
		ID: "r1", Name: "web1-eth0.pcap", Size: int64(size), Tags: []string{"a", "node:web1"}, Comments: "filter: none",
		Content: func() io.Reader { return bytes.NewReader(content) },
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

// Name implements Destination.
func (f *fakeDestination) Name() string { return f.title }

// Unused implements Archive.
func (f *fakeDestination) Unused(name string) string { return name }

// Store implements Destination.
func (f *fakeDestination) Store(ctx context.Context, r File) (Place, error) {
	f.mu.Lock()
	f.names, f.began = append(f.names, r.Name), time.Now()
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return Place{}, ctx.Err()
	}
	if f.err != nil {
		return Place{}, f.err
	}
	if f.title == "local" {
		return Place{File: "/" + r.Name}, nil
	}
	return Place{URL: "http://" + r.Name}, nil
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
	sent       []int // bytes of each piece
	givenUp    int
}

// Delivered implements observer.
func (o *countingObserver) Delivered(string, time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deliveries++
}

// Retried implements observer.
func (o *countingObserver) Retried(to string, _ File, err error, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retries, o.waits = append(o.retries, fmt.Errorf("%s: %w", to, err)), append(o.waits, wait)
}

// Removed implements observer.
func (o *countingObserver) Removed(names []string, _ int64) {
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

// Sent implements LiveObserver.
func (o *countingObserver) Sent(bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, bytes)
}

// GivenUp implements LiveObserver.
func (o *countingObserver) GivenUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.givenUp++
}

// Troubled implements Observer.
func (o *countingObserver) Troubled(err error) {
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
		want          Place
		failure       bool
	}{
		"both":                       {good(), disk(), true, Place{File: "/x.pcap", URL: "http://x.pcap"}, false},
		"upload only":                {good(), nil, false, Place{File: "", URL: "http://x.pcap"}, false},
		"upload, spare directory":    {good(), disk(), false, Place{File: "", URL: "http://x.pcap"}, false},
		"local only":                 {nil, disk(), true, Place{File: "/x.pcap", URL: ""}, false},
		"upload fails":               {bad(), disk(), true, Place{File: "/x.pcap", URL: ""}, true},
		"upload fails, kept":         {bad(), disk(), false, Place{File: "/x.pcap", URL: ""}, true},
		"upload fails, kept nowhere": {bad(), nil, false, Place{}, true},
		"local fails":                {good(), badDisk(), true, Place{File: "", URL: "http://x.pcap"}, true},
		"both fail":                  {bad(), badDisk(), true, Place{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &countingObserver{}
			d := Delivery{always: test.always, observer: seen}
			if test.upload != nil {
				d.remotes = []Remote{{Destination: test.upload}}
			}
			if test.local != nil {
				d.local = test.local
			}
			got, err := d.Deliver(t.Context(), nil, File{Name: "x.pcap"})
			if got != test.want || (err != nil) != test.failure {
				t.Errorf("want %+v, got %+v, %v", test.want, got, err)
			}
			if want := test.upload.stored() + test.local.stored(); want == 0 || seen.deliveries != want {
				t.Errorf("want %d deliveries counted, got %d", want, seen.deliveries)
			}
		})
	}
}

// TestDeliverReturns: what is returned and what is uploaded have each their own fate.
func TestDeliverReturns(t *testing.T) {
	lost, away := errors.New("lost"), errors.New("away")
	for name, test := range map[string]struct {
		upload, back error
		want         Place
	}{
		"both":        {nil, nil, Place{URL: "http://x.pcap", Key: "results:1-2", Name: "x.pcap"}},
		"upload only": {nil, away, Place{URL: "http://x.pcap"}},
		"return only": {lost, nil, Place{Key: "results:1-2", Name: "x.pcap"}},
		"neither":     {lost, away, Place{}},
	} {
		d := New(Options{Remotes: []Remote{{Destination: &fakeDestination{err: test.upload}}}, Redis: fakeKeeper{test.back},
			Observer: &countingObserver{}})
		got, err := d.Deliver(t.Context(), nil, File{Name: "x.pcap", Key: "results:1"})
		checkEqual(t, name, test.want, got)
		for _, want := range []error{test.upload, test.back} {
			if want != nil && !errors.Is(err, want) {
				t.Errorf("%s: want %v, got %v", name, want, err)
			}
		}
		checkEqual(t, name+" fails", test.upload != nil || test.back != nil, err != nil)
	}
}

// TestDeliverAtOnce: a file is there while the upload still hangs.
func TestDeliverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newTestDirectory(t)
		d := Delivery{remotes: []Remote{{Destination: &fakeDestination{takes: time.Hour}}}, local: dir, always: true, observer: &countingObserver{}}
		r, _ := newRecording(100)
		var delivering sync.WaitGroup
		delivering.Go(func() { _, _ = d.Deliver(t.Context(), nil, r) })
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(dir.path, r.Name)); err != nil {
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
		want          Place
		failure       error
	}{
		"upload goes on for ever": {&fakeDestination{takes: time.Hour}, &fakeDestination{title: "local"}, false,
			10 * time.Second, 40 * time.Second, Place{File: "/x.pcap"}, context.Canceled},
		"upload succeeds after all": {&fakeDestination{takes: 20 * time.Second}, &fakeDestination{title: "local"}, false,
			10 * time.Second, 20 * time.Second, Place{File: "/x.pcap", URL: "http://x.pcap"}, nil},
		"upload succeeds, disk is broken": {&fakeDestination{takes: 20 * time.Second},
			&fakeDestination{title: "local", err: broken}, false,
			10 * time.Second, 20 * time.Second, Place{File: "", URL: "http://x.pcap"}, nil},
		"upload fails before the stop": {&fakeDestination{takes: 5 * time.Second, err: broken},
			&fakeDestination{title: "local"}, false,
			5 * time.Second, 5 * time.Second, Place{File: "/x.pcap"}, broken},
		"upload succeeds before the stop": {&fakeDestination{takes: 5 * time.Second}, &fakeDestination{title: "local"}, false,
			0, 5 * time.Second, Place{URL: "http://x.pcap"}, nil},
		"a slow disk is waited for": {&fakeDestination{takes: time.Hour},
			&fakeDestination{title: "local", takes: 10 * time.Minute}, false,
			10 * time.Second, 610 * time.Second, Place{File: "/x.pcap"}, context.Canceled},
		"written in any case": {&fakeDestination{takes: time.Hour}, &fakeDestination{title: "local"}, true,
			time.Nanosecond, 40 * time.Second, Place{File: "/x.pcap"}, context.Canceled},
		"no directory": {&fakeDestination{takes: time.Hour}, nil, false,
			0, 40 * time.Second, Place{}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				stop := make(chan struct{})
				time.AfterFunc(10*time.Second, func() { close(stop) })
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(40*time.Second, cancel)
				d := Delivery{remotes: []Remote{{Destination: test.upload}}, always: test.always, observer: &countingObserver{}}
				written := time.Duration(0)
				if test.local != nil {
					d.local = test.local
				}
				got, err := d.Deliver(ctx, stop, File{Name: "x.pcap"})
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
	broken, no := errors.New("broken"), Refusal{errors.New("401")}
	const file, url = "/x.pcap", "http://x.pcap"
	after := func(seconds time.Duration, err error) *fakeDestination {
		return &fakeDestination{title: "cloudshark", takes: seconds * time.Second, err: err}
	}
	disk := func(err error) *fakeDestination { return &fakeDestination{title: "local", err: err} }
	for name, test := range map[string]struct {
		upload, local *fakeDestination
		always, full  bool
		want          Place
		failure       []error
		waits         bool // in the spool
	}{
		"upload succeeds": {after(1, nil), disk(nil), false, false, Place{URL: url}, nil, false},
		"upload fails":    {after(1, broken), disk(nil), false, false, Place{Kept: true, Why: "broken"}, nil, true},
		"upload fails, written": {after(1, broken), disk(nil), true, false,
			Place{File: file, Kept: true, Why: "broken"}, nil, true},
		"upload and disk fail": {after(1, broken), disk(broken), true, false, Place{Kept: true, Why: "broken"},
			[]error{broken}, true},
		"refused":                {after(1, no), disk(nil), false, false, Place{File: file}, []error{no}, false},
		"refused, no directory":  {after(1, no), nil, false, false, Place{}, []error{no}, false},
		"spool is full":          {after(1, broken), disk(nil), false, true, Place{File: file}, []error{broken}, false},
		"spool is full, no more": {after(1, broken), nil, false, true, Place{}, []error{broken}, false},
		"stopped":                {after(90, nil), disk(nil), false, false, Place{Kept: true, Why: "context canceled"}, nil, true},
		"stopped, written": {after(90, nil), disk(nil), true, false,
			Place{File: file, Kept: true, Why: "context canceled"}, nil, true},
		"stopped, spool is full": {after(90, nil), disk(nil), false, true, Place{File: file},
			[]error{context.Canceled}, false},
		"uploaded after the stop":   {after(20, nil), disk(nil), false, false, Place{URL: url}, nil, false},
		"refused after the stop":    {after(20, no), disk(nil), false, false, Place{File: file}, []error{no}, false},
		"refused, stopped, written": {after(20, no), disk(nil), true, false, Place{File: file}, []error{no}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestSpool(t.TempDir(), &fakeShark{})
				d := Delivery{remotes: []Remote{{Destination: test.upload}}, spool: s.spool, always: test.always, observer: s.seen}
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
				r.Name, r.Note = "x.pcap", []byte("note")
				got, err := d.Deliver(ctx, stop, r)
				checkEqual(t, "receipt", test.want, got)
				for _, want := range test.failure { // as text: the spool holds no more
					if err == nil || !strings.Contains(err.Error(), want.Error()) {
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
				end := settlement{"note", Place{File: test.want.File, URL: url}, ""}
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
		d := Delivery{remotes: []Remote{{Destination: &fakeDestination{title: "cloudshark", err: errors.New("broken")}}},
			spool: s.spool, always: true, local: &fakeDestination{title: "local", takes: time.Hour}, observer: s.seen}
		r, _ := newRecording(100)
		time.AfterFunc(2*LateDelivery, func() {
			if captures, _, _ := s.stats(); captures != 1 {
				t.Error("want it in the spool")
			}
		})
		got, err := d.Deliver(t.Context(), nil, r)
		checkEqual(t, "receipt", Place{File: "/" + r.Name, Kept: true, Why: "broken"}, got)
		checkEqual(t, "failed", false, err != nil)
		checkEqual(t, "deliveries", 3, s.seen.deliveries) // the spool's, too
	})
}

// TestDeliverSameName: the upload bears the name of the file.
func TestDeliverSameName(t *testing.T) {
	dir := newTestDirectory(t)
	r, _ := newRecording(100)
	if err := os.WriteFile(filepath.Join(dir.path, r.Name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	to := &fakeDestination{}
	d := Delivery{remotes: []Remote{{Destination: to}}, local: dir, always: true, observer: &countingObserver{}}
	got, err := d.Deliver(t.Context(), nil, r)
	if want := "web1-eth0-2.pcap"; err != nil || filepath.Base(got.File) != want || to.names[0] != want {
		t.Errorf("want %s twice, got %s and %s, %v", want, got.File, to.names[0], err)
	}
}

// TestDeliverEncrypted: all destinations get the same encrypted file, at once, through the
// spool after a restart, and where one has refused it.
func TestDeliverEncrypted(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := encrypt.ParseRecipients(key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newTwin(t, [2]error{errors.New("away"), nil}, [2]time.Duration{})
		w.Delivery.spool, w.Delivery.encrypt, w.always = w.testSpool.spool, to, true
		dir := newTestDirectory(t)
		w.Delivery.local = dir
		r, content := newRecording(200_000)
		r.Name = "x.pcap"
		place, err := w.Deliver(t.Context(), nil, r)
		if err != nil || !place.Kept {
			t.Fatalf("want it kept, got %+v, %v", place, err)
		}
		sealed, err := os.ReadFile(place.File)
		if err != nil {
			t.Fatal(err)
		}
		checkEqual(t, "size", w.Size(int64(len(content))), len(sealed))
		checkEqual(t, "spool", []string{"x.pcap.age", "x.pcap.age.waybill"}, files(t, w.path))
		again := newTestSpool(w.path, w.sharks[0], w.sharks[1])
		again.work(t, time.Minute)
		for _, shark := range w.sharks {
			if len(shark.got) != 1 || shark.got[0].name != "x.pcap.age" || !bytes.Equal(sealed, shark.got[0].content) {
				t.Errorf("%s: want the file that is in the directory", shark.title)
			}
		}
		plain, err := age.Decrypt(bytes.NewReader(sealed), key)
		if err != nil {
			t.Fatal(err)
		}
		if opened, err := io.ReadAll(plain); err != nil || !bytes.Equal(content, opened) {
			t.Errorf("want the capture in it, got %d bytes, %v", len(opened), err)
		}
	})
}

// TestLongest: what a requester is told of how long a delivery may take.
func TestLongest(t *testing.T) {
	const size = 64 << 20
	for name, test := range map[string]struct {
		options  Options
		returned bool
		want     time.Duration
	}{
		"a file":                     {Options{Timeout: time.Hour}, false, 9 * time.Second},
		"an upload, then a file":     {Options{Remotes: []Remote{{Destination: &fakeDestination{}}}, Timeout: 5 * time.Minute}, false, 309 * time.Second},
		"to the requester":           {Options{Timeout: time.Hour}, true, 26 * time.Second},
		"both, of which one is long": {Options{Remotes: []Remote{{Destination: &fakeDestination{}}}, Timeout: time.Minute}, true, 69 * time.Second},
	} {
		if got := New(test.options).Longest(size, test.returned); got != test.want {
			t.Errorf("%s: want %v, got %v", name, test.want, got)
		}
	}
}

// TestDescriptors: what one delivery may need, so that a daemon takes no more captures than it can deliver.
func TestDescriptors(t *testing.T) {
	remote := Remote{Destination: &fakeDestination{}}
	for name, test := range map[string]struct {
		options Options
		want    int64
	}{
		"nothing":             {Options{}, 0},
		"a directory":         {Options{Dir: "/captures"}, 2},
		"two remote ones":     {Options{Remotes: []Remote{remote, remote}}, 4},
		"one, and a spool":    {Options{Remotes: []Remote{remote}, Spool: "/spool"}, 5},
		"back to a requester": {Options{Redis: fakeKeeper{}}, 2},
	} {
		if got := New(test.options).Descriptors(); got != test.want {
			t.Errorf("%s: want %d, got %d", name, test.want, got)
		}
	}
}

// TestNew: bounds of the directory and of the spool get there, and what is refused goes from the one to the other.
func TestNew(t *testing.T) {
	d := New(Options{Dir: "/captures", DirSize: 1, DirAge: 2, Spool: "/spool", SpoolSize: 3, Node: "web1"})
	dir := d.directory()
	checkEqual(t, "directory", "/captures web1 1 2ns", fmt.Sprint(dir.path, " ", dir.node, " ", dir.maxSize, " ", dir.maxAge))
	checkEqual(t, "spool", "/spool 3", fmt.Sprint(d.spool.path, " ", d.spool.maxSize))
	if d.spool.local != Archive(dir) || d.spool.disk != dir.disk {
		t.Error("want the same directory and disk for both")
	}
	if none := New(Options{}); none.HasDirectory() || none.Spools() {
		t.Error("want neither directory nor spool")
	}
}
