package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestEndToEnd is the main job: a request on the channel, 50 packets without
// a gap at both destinations, byte for byte the same, and results that say so.
func TestEndToEnd(t *testing.T) {
	testbed.NeedTools(t, "tcpdump", "capinfos", "redis-cli")
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, nil)
	dir := t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	stream := testbed.StartStream(t, time.Millisecond)
	request := `{"node":"web1","interface":"lo","tags":"dns,slow","bpf":"` + stream.Filter() + `","customer":"ACME, Inc","snap":0,"packets":50,"alertid":4711,"timeout":10}`
	if out, err := exec.Command("redis-cli", "-p", strconv.Itoa(r.Port), "PUBLISH", "capture", request).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "1" {
		t.Fatalf("redis-cli: %s, %v", out, err)
	}

	started := l.next(t, 5*time.Second)
	if started.State != "started" || started.Node != "web1" || started.Interface != "lo" || started.ID == "" || started.Started.IsZero() || started.Packets != nil {
		t.Errorf("want started, got %+v", started)
	}
	done := l.next(t, 5*time.Second)
	size := int64(24 + 50*(16+42+15))
	if done.State != "done" || done.Stop != "packets" || done.ID != started.ID || *done.Packets != 50 || *done.Bytes != size || *done.Dropped != 0 || *done.Received < 50 {
		t.Errorf("want 50 packets, got %+v", done)
	}
	if done.Tags != "dns,slow" || done.Customer != "ACME, Inc" || *done.AlertID != 4711 || done.BPF != stream.Filter() {
		t.Errorf("want what was asked in the result, got %+v", done)
	}
	if !done.Started.Equal(started.Started) || !done.Ended.After(done.Started) || done.Started.Location() != time.UTC {
		t.Errorf("want start and end in UTC, got %v, %v", done.Started, done.Ended)
	}
	if want := "http://" + s.Address() + "/captures/cafe1"; done.URL != want {
		t.Errorf("want %s, got %s", want, done.URL)
	}
	if want := filepath.Join(dir, "web1-lo-"+started.Started.Format("20060102T150405.000000000Z")+".pcap"); done.File != want {
		t.Errorf("want %s, got %s", want, done.File)
	}
	content, err := os.ReadFile(done.File)
	if err != nil {
		t.Fatal(err)
	}
	found := testbed.Numbers(t, bytes.NewReader(content))
	if len(found) != 50 {
		t.Errorf("want 50 packets of the stream, got %d", len(found))
	}
	testbed.CheckNoGap(t, found)

	u := s.Received()[0]
	if !bytes.Equal(content, u.Content) {
		t.Error("upload and file differ")
	}
	if want := "dns,slow,customer:ACME_ Inc,alertid:4711,node:web1,interface:lo"; u.Tags != want {
		t.Errorf("want tags %s, got %s", want, u.Tags)
	}
	for _, want := range []string{stream.Filter(), "packets", "50", started.ID} {
		if !strings.Contains(u.Comments, want) {
			t.Errorf("want %q in the comments, got %s", want, u.Comments)
		}
	}
	if u.File != filepath.Base(done.File) || u.Agent != "pcapdaemon/test" {
		t.Errorf("want the file's name and our agent, got %s, %s", u.File, u.Agent)
	}
	if out, err := exec.Command("capinfos", "-c", "-M", done.File).CombinedOutput(); err != nil || !regexp.MustCompile(`Number of packets: *50\n`).Match(out) {
		t.Errorf("capinfos: %s, %v", out, err)
	}
	if out, err := exec.Command("tcpdump", "-nr", done.File).Output(); err != nil || len(testbed.ReadLines(string(out))) != 50 {
		t.Errorf("tcpdump: %d lines, %v", len(testbed.ReadLines(string(out))), err)
	}
}

func TestSeveralInterfaces(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"any","interface":["lo","nosuch0","any","lo"],"packets":3,"id":"x","bpf":"`+stream.Filter()+`"}`)
	states := map[string]string{}
	for range 5 {
		got := l.next(t, 5*time.Second)
		states[got.Interface] += got.State + " "
		if got.ID != "x" {
			t.Errorf("want the request's id, got %+v", got)
		}
	}
	if fmt.Sprint(states) != "map[any:started done  lo:started done  nosuch0:refused ]" {
		t.Errorf("got %v", states)
	}
	l.quiet(t, 200*time.Millisecond)
}

// TestSideBySide: two captures on one interface, with filters and ends of their own.
func TestSideBySide(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	one, two := testbed.StartStream(t, time.Millisecond), testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"long","timeout":2,"bpf":"`+one.Filter()+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"short","packets":100,"bpf":"`+two.Filter()+`"}`)
	for _, want := range []struct{ id, stop string }{{"short", "packets"}, {"long", "timeout"}} {
		got := l.await(t, 5*time.Second, "done")
		if got.ID != want.id || got.Stop != want.stop {
			t.Fatalf("want %+v, got %+v", want, got)
		}
		file, err := os.Open(got.File)
		if err != nil {
			t.Fatal(err)
		}
		found := testbed.Numbers(t, file)
		file.Close()
		if int64(len(found)) != *got.Packets || want.id == "long" && len(found) < 1900 {
			t.Errorf("%s: %d packets of its stream among %d", want.id, len(found), *got.Packets)
		}
		testbed.CheckNoGap(t, found)
	}
}

func TestEmptyCapture(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, nil)
	dir := t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	for _, request := range []string{`{"node":"web1","interface":"lo","timeout":1,"bpf":"ether proto 0x9999"}`, `{"node":"web1","interface":"lo","bytes":24}`} {
		stream := testbed.StartStream(t, time.Millisecond)
		r.Publish(t, request)
		if got := l.await(t, 5*time.Second, "done", "failed"); got.State != "done" || *got.Packets != 0 || *got.Bytes != 24 || got.URL != "" || got.File != "" || got.Error != "" {
			t.Errorf("want done with nothing, got %+v", got)
		}
		stream.Stop()
	}
	checkDirectory(t, dir, 0)
	if s.Count() != 0 {
		t.Error("something was uploaded")
	}
}
