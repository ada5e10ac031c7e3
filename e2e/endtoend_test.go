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
	l, s, dir := listen(t, r), sharktest.Start(t, nil), t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	stream := testbed.StartStream(t, time.Millisecond)
	request := `{"node":"web1","interface":"lo","tags":"dns,slow","bpf":"` + stream.Filter() +
		`","customer":"ACME, Inc","snap":0,"packets":50,"alertid":4711,"timeout":10}`
	publish := exec.Command("redis-cli", "-p", strconv.Itoa(r.Port), "PUBLISH", "capture", request)
	if out, err := publish.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "1" {
		t.Fatalf("redis-cli: %s, %v", out, err)
	}

	started := l.next(t, time.Minute)
	started.check(t, says{"state": "started", "node": "web1", "interface": "lo", "id": anything{},
		"started": anything{}, "packets": nil, "ended": nil})
	done := l.next(t, time.Minute)
	done.check(t, says{"state": "done", "stop": "packets", "id": started.ID, "started": started.said["started"],
		"packets": 50, "bytes": 24 + 50*(16+42+15), "received": anything{}, "dropped": 0,
		"tags": "dns,slow", "customer": "ACME, Inc", "alertid": 4711, "bpf": stream.Filter(),
		"url":  "http://" + s.Address() + "/captures/cafe1",
		"file": filepath.Join(dir, "web1-lo-"+started.Started.Format("20060102T150405.000000000Z")+".pcap"),
	})
	if !done.Ended.After(done.Started) || done.Started.Location() != time.UTC {
		t.Errorf("want start and end in UTC, got %v, %v", done.Started, done.Ended)
	}
	checkEvidence(t, done.File, 50)
	checkUpload(t, s.Received(), done)
	u := s.Received()[0]
	if want := "dns,slow,customer:ACME_ Inc,alertid:4711,node:web1,interface:lo"; u.Tags != want {
		t.Errorf("want tags %s, got %s", want, u.Tags)
	}
	for _, want := range []string{stream.Filter(), "packets", "50", started.ID} {
		if !strings.Contains(u.Comments, want) {
			t.Errorf("want %q in the comments, got %s", want, u.Comments)
		}
	}
}

// checkEvidence fails unless capinfos, tcpdump and we find so many packets of a stream in a file, without a gap.
func checkEvidence(t *testing.T, name string, packets int) {
	t.Helper()
	found := readNumbers(t, name)
	if len(found) != packets {
		t.Errorf("want %d packets of the stream, got %d", packets, len(found))
	}
	testbed.CheckNoGap(t, found)
	out, err := exec.Command("capinfos", "-c", "-M", name).CombinedOutput()
	counted := regexp.MustCompile(`Number of packets: +(\d+)\n`).FindSubmatch(out)
	if err != nil || counted == nil {
		t.Fatalf("capinfos: %v: %s", err, out)
	}
	if want, got := strconv.Itoa(packets), string(counted[1]); want != got {
		t.Errorf("capinfos: want %s packets, got %s", want, got)
	}
	out, err = exec.Command("tcpdump", "-nr", name).Output()
	if err != nil {
		t.Fatal("tcpdump: ", err)
	}
	if got := len(testbed.ReadLines(string(out))); got != packets {
		t.Errorf("tcpdump: want %d packets, got %d", packets, got)
	}
}

// readNumbers returns the numbers of a stream's packets in a capture file.
func readNumbers(t *testing.T, name string) []int {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return testbed.Numbers(t, file)
}

// checkUpload fails unless the only upload is the file of a result.
func checkUpload(t *testing.T, uploads []sharktest.Upload, r result) {
	t.Helper()
	if len(uploads) != 1 {
		t.Fatalf("want one upload, got %d", len(uploads))
	}
	u := uploads[0]
	content, err := os.ReadFile(r.File)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content, u.Content) {
		t.Error("upload and file differ")
	}
	if want := filepath.Base(r.File); want != u.File {
		t.Errorf("want the upload to be named %s, got %s", want, u.File)
	}
	if want := "pcapdaemon/test"; want != u.Agent {
		t.Errorf("want %s as User-Agent, got %s", want, u.Agent)
	}
}

func TestSeveralInterfaces(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"any","interface":["lo","nosuch0","any","lo"],"packets":3,"id":"x","bpf":"`+
		stream.Filter()+`"}`)
	states := map[string]string{}
	for range 5 {
		got := l.next(t, time.Minute)
		got.check(t, says{"id": "x"})
		states[got.Interface] += got.State + " "
	}
	if want, got := "map[any:started done  lo:started done  nosuch0:refused ]", fmt.Sprint(states); want != got {
		t.Errorf("want %s, got %s", want, got)
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
	l.await(t, time.Minute, "started")
	r.Publish(t, `{"node":"web1","interface":"lo","id":"short","packets":100,"bpf":"`+two.Filter()+`"}`)
	for range 2 {
		got := l.await(t, time.Minute, "done")
		found := readNumbers(t, got.File)
		if int64(len(found)) != got.Packets {
			t.Errorf("%s: %d packets of its stream among %d", got.ID, len(found), got.Packets)
		}
		if got.ID == "short" {
			got.check(t, says{"stop": "packets", "packets": 100})
			if !hasDrops(got) {
				two.CheckWhole(t, found, got.Started, time.Time{})
			}
		} else {
			got.check(t, says{"id": "long", "stop": "timeout"})
			checkWindow(t, one, got, got.Started)
		}
	}
}

func TestEmptyCapture(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l, s, dir := listen(t, r), sharktest.Start(t, nil), t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	for _, limit := range []string{`"timeout":1,"bpf":"ether proto 0x9999"`, `"bytes":24`} {
		stream := testbed.StartStream(t, time.Millisecond)
		r.Publish(t, `{"node":"web1","interface":"lo",`+limit+`}`)
		l.final(t, time.Minute).check(t, says{"state": "done", "packets": 0, "bytes": 24,
			"url": nil, "file": nil, "error": nil})
		stream.Stop()
	}
	checkDirectory(t, dir, 0)
	if got := s.Count(); got != 0 {
		t.Errorf("want no upload, got %d", got)
	}
}
