package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestPcapng: a file that explains itself, the same at all destinations, with
// packets from before the request, and exactly as large as is said.
func TestPcapng(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "capinfos", "tshark", "tcpdump")
	r := testbed.StartRedis(t)
	l := listen(t, r)
	s := sharktest.Start(t, nil)
	flags := append(uploading(t, s), recording(t, "-format", "pcapng", "-filter", "not port 22", "-maxreturn", "1MiB")...)
	startDaemon(t, r, flags...)
	stream := testbed.StartStream(t, time.Millisecond)
	time.Sleep(1500 * time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"x","lookback":1,"timeout":1,"return":true,"tags":"<b>","bpf":"`+
		stream.Filter()+`"}`)
	done := l.await(t, time.Minute, "done", "failed")
	done.check(t, says{"state": "done", "stop": "timeout", "name": about(".pcapng")})
	content, err := os.ReadFile(done.File)
	if err != nil {
		t.Fatal(err)
	}
	if done.Bytes != int64(len(content)) || !bytes.Equal(content, s.Received()[0].Content) {
		t.Errorf("want %d bytes, the same at all destinations, got a file of %d", done.Bytes, len(content))
	}
	if value, _ := r.Do(t, "GET", done.said["key"]).([]byte); !bytes.Equal(content, value) {
		t.Errorf("want the same bytes returned, got %d", len(value))
	}
	out, err := exec.Command("capinfos", done.File).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"pcapng", "pcapdaemon test", "nanosecond", `"lookback":1`, `"tags":"<b>"`,
		"Number of interfaces in file: 1", "(not port 22) and (" + stream.Filter() + ")", "Name = lo", "Description = web1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("want %q in what capinfos says, got %s", want, out)
		}
	}
	out, err = exec.Command("tcpdump", "-nr", done.File).Output()
	if got := int64(len(testbed.ReadLines(string(out)))); err != nil || got != done.Packets {
		t.Errorf("tcpdump: want %d lines, got %d, %v", done.Packets, got, err)
	}
}

// TestPcapngBytes: the largest file is a bound that is never passed, and the
// least one is what the file needs without packets.
func TestPcapngBytes(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-format", "pcapng")...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","bytes":24}`)
	l.await(t, time.Minute, "refused").check(t, says{"error": about("bytes: 24 is less than")})
	for _, limit := range []string{"2000", "2001", "2002", "2003", "2004"} {
		r.Publish(t, `{"node":"web1","interface":"lo","timeout":5,"bytes":`+limit+`,"bpf":"`+stream.Filter()+`"}`)
		done := l.await(t, time.Minute, "done", "failed")
		done.check(t, says{"state": "done", "stop": "bytes"})
		info, err := os.Stat(done.File)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != done.Bytes || done.Bytes > 2004 || done.Bytes <= 2004-2*(32+60) {
			t.Errorf("want a file of just under %s bytes, got %d, said to be %d", limit, info.Size(), done.Bytes)
		}
	}
}
