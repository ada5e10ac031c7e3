package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"pcapdaemon/testbed"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tokenFile writes the double's token where -cstokenfile finds it.
func tokenFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// uploading returns the flags for uploads to the double.
func uploading(t testing.TB, s *sharkDouble) []string {
	t.Helper()
	return []string{"-upload", "-csscheme", "http", "-cshost", s.address(), "-cstokenfile", tokenFile(t)}
}

// keeping returns the flags for local files in a directory.
func keeping(dir string) []string { return []string{"-writelocal", "-destdir", dir} }

// TestEndToEnd is the main job: a request on the channel, 50 packets without
// a gap at both destinations, byte for byte the same, and results that say so.
func TestEndToEnd(t *testing.T) {
	needTools(t, "tcpdump", "capinfos", "redis-cli")
	r := startRedis(t)
	l := r.listen(t)
	s := startShark(t, nil)
	dir := t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	stream := startStream(t, time.Millisecond)
	request := `{"node":"web1","interface":"lo","tags":"dns,slow","bpf":"` + stream.filter() + `","customer":"ACME, Inc","snap":0,"packets":50,"alertid":4711,"timeout":10}`
	if out, err := exec.Command("redis-cli", "-p", strconv.Itoa(r.port), "PUBLISH", "capture", request).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "1" {
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
	if done.Tags != "dns,slow" || done.Customer != "ACME, Inc" || *done.AlertID != 4711 || done.BPF != stream.filter() {
		t.Errorf("want what was asked in the result, got %+v", done)
	}
	if !done.Started.Equal(started.Started) || !done.Ended.After(done.Started) || done.Started.Location() != time.UTC {
		t.Errorf("want start and end in UTC, got %v, %v", done.Started, done.Ended)
	}
	if want := "http://" + s.address() + "/captures/cafe1"; done.URL != want {
		t.Errorf("want %s, got %s", want, done.URL)
	}
	if want := filepath.Join(dir, "web1-lo-"+started.Started.Format("20060102T150405.000000000Z")+".pcap"); done.File != want {
		t.Errorf("want %s, got %s", want, done.File)
	}
	content, err := os.ReadFile(done.File)
	if err != nil {
		t.Fatal(err)
	}
	found := numbers(t, bytes.NewReader(content))
	if len(found) != 50 {
		t.Errorf("want 50 packets of the stream, got %d", len(found))
	}
	checkNoGap(t, found)

	u := s.received()[0]
	if !bytes.Equal(content, u.content) {
		t.Error("upload and file differ")
	}
	if want := "dns,slow,customer:ACME_ Inc,alertid:4711,node:web1,interface:lo"; u.tags != want {
		t.Errorf("want tags %s, got %s", want, u.tags)
	}
	for _, want := range []string{stream.filter(), "packets", "50", started.ID} {
		if !strings.Contains(u.comments, want) {
			t.Errorf("want %q in the comments, got %s", want, u.comments)
		}
	}
	if u.file != filepath.Base(done.File) || u.agent != "pcapdaemon/test" {
		t.Errorf("want the file's name and our agent, got %s, %s", u.file, u.agent)
	}
	if out, err := exec.Command("capinfos", "-c", "-M", done.File).CombinedOutput(); err != nil || !regexp.MustCompile(`Number of packets: *50\n`).Match(out) {
		t.Errorf("capinfos: %s, %v", out, err)
	}
	if out, err := exec.Command("tcpdump", "-nr", done.File).Output(); err != nil || len(readLines(string(out))) != 50 {
		t.Errorf("tcpdump: %d lines, %v", len(readLines(string(out))), err)
	}
}

// TestWrongRequestsInARow: each is answered as it should be, and the good one behind them at once.
func TestWrongRequestsInARow(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	dir := t.TempDir()
	d := startDaemon(t, r, append(keeping(dir), "-interfaces", "lo,nosuch0", "-maxpackets", "100", "-maxtimeout", "30s", "-defaulttimeout", "30s", "-maxbytes", "1MB")...)
	silent := []string{``, `{`, `null`, `[]`, `"x"`, `42`, `{"interface":"lo"}`, `{"node":1,"interface":"lo"}`, `{"nodere":"(","interface":"lo"}`,
		`{"node":"web2","interface":"lo"}`, `{"node":"web2","bfp":1}`, `{"nodere":"^db","interface":1} x`, `{"node":"","nodere":""}`}
	refused := map[string]string{
		`{"node":"web1","interface":"lo","bfp":"x"}`:      "bfp",
		`{"node":"web1","nodere":"web","interface":"lo"}`: "node",
		`{"node":"web1"}`:                                                             "interface",
		`{"node":"web1","interface":""}`:                                              "interface",
		`{"node":"web1","interface":[]}`:                                              "interface",
		`{"node":"web1","interface":7}`:                                               "interface",
		`{"node":"web1","interface":"nosuch0"}`:                                       "nosuch0",
		`{"node":"web1","interface":"eth99"}`:                                         "-interfaces",
		`{"node":"web1","interface":"lo","bpf":"udp porrt 53"}`:                       "bpf",
		`{"node":"web1","interface":"lo","bpf":7}`:                                    "bpf",
		`{"node":"web1","interface":"lo","bpf":"` + strings.Repeat("x", 2049) + `"}`:  "bpf",
		`{"node":"web1","interface":"lo","packets":"5"}`:                              "packets",
		`{"node":"web1","interface":"lo","packets":-5}`:                               "packets",
		`{"node":"web1","interface":"lo","packets":101}`:                              "-maxpackets",
		`{"node":"web1","interface":"lo","bytes":1000001}`:                            "-maxbytes",
		`{"node":"web1","interface":"lo","bytes":23}`:                                 "bytes",
		`{"node":"web1","interface":"lo","timeout":31}`:                               "-maxtimeout",
		`{"node":"web1","interface":"lo","timeout":1.5}`:                              "timeout",
		`{"node":"web1","interface":"lo","snap":262145}`:                              "snap",
		`{"node":"web1","interface":"lo","alertid":"x"}`:                              "alertid",
		`{"node":"web1","interface":"lo","tags":["x"]}`:                               "tags",
		`{"node":"web1","interface":"lo","customer":{}}`:                              "customer",
		`{"node":"web1","interface":"lo","id":5}`:                                     "id",
		`{"node":"any","interface":"lo"} {"node":"web2"}`:                             "after",
		`{"nodere":"w","interface":"lo","tags":"` + strings.Repeat("x", 66000) + `"}`: "65536",
	}
	for _, message := range silent {
		r.publish(t, message)
	}
	l.quiet(t, 300*time.Millisecond)
	for message, culprit := range refused {
		r.publish(t, message)
		got := l.next(t, 5*time.Second)
		if got.State != "refused" || !strings.Contains(got.Error, culprit) || got.ID == "" || got.Node != "web1" || got.Packets != nil || !got.Started.IsZero() {
			t.Errorf("%.60s: want it refused for %q, got %+v", message, culprit, got)
		}
	}
	for message := range refused {
		r.publish(t, message)
	}
	began := time.Now()
	r.publish(t, `{"node":"web1","interface":"lo","id":"good","timeout":1}`)
	for l.next(t, 5*time.Second).ID != "good" {
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the good request was answered after %v", took)
	}
	if n := strings.Count(d.output.String(), "message ignored"); n != 10 {
		t.Errorf("want 10 warnings for messages that name nobody, got %d", n)
	}
	if got := l.await(t, 5*time.Second, "done"); got.ID != "good" {
		t.Errorf("want the good request done, got %+v", got)
	}
}

func TestSeveralInterfaces(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := startStream(t, time.Millisecond)
	r.publish(t, `{"node":"any","interface":["lo","nosuch0","any","lo"],"packets":3,"id":"x","bpf":"`+stream.filter()+`"}`)
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
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, keeping(t.TempDir())...)
	one, two := startStream(t, time.Millisecond), startStream(t, time.Millisecond)
	r.publish(t, `{"node":"web1","interface":"lo","id":"long","timeout":2,"bpf":"`+one.filter()+`"}`)
	r.publish(t, `{"node":"web1","interface":"lo","id":"short","packets":100,"bpf":"`+two.filter()+`"}`)
	for _, want := range []struct{ id, stop string }{{"short", "packets"}, {"long", "timeout"}} {
		got := l.await(t, 5*time.Second, "done")
		if got.ID != want.id || got.Stop != want.stop {
			t.Fatalf("want %+v, got %+v", want, got)
		}
		file, err := os.Open(got.File)
		if err != nil {
			t.Fatal(err)
		}
		found := numbers(t, file)
		file.Close()
		if int64(len(found)) != *got.Packets || want.id == "long" && len(found) < 1900 {
			t.Errorf("%s: %d packets of its stream among %d", want.id, len(found), *got.Packets)
		}
		checkNoGap(t, found)
	}
}

func TestEmptyCapture(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	s := startShark(t, nil)
	dir := t.TempDir()
	startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
	for _, request := range []string{`{"node":"web1","interface":"lo","timeout":1,"bpf":"ether proto 0x9999"}`, `{"node":"web1","interface":"lo","bytes":24}`} {
		stream := startStream(t, time.Millisecond)
		r.publish(t, request)
		if got := l.await(t, 5*time.Second, "done", "failed"); got.State != "done" || *got.Packets != 0 || *got.Bytes != 24 || got.URL != "" || got.File != "" || got.Error != "" {
			t.Errorf("want done with nothing, got %+v", got)
		}
		stream.stop()
	}
	checkDirectory(t, dir, 0)
	if s.count() != 0 {
		t.Error("something was uploaded")
	}
}

// TestSlowFilter: a filter that takes its time holds up neither requests nor captures.
func TestSlowFilter(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, keeping(t.TempDir())...)
	var terms []string
	for port := range 200 {
		terms = append(terms, "port "+strconv.Itoa(port+1))
	}
	slow := strings.Join(terms, " or ")[:2000]
	r.publish(t, `{"node":"web1","interface":"lo","id":"slow","timeout":1,"bpf":"`+slow[:strings.LastIndex(slow, " or ")]+`"}`)
	r.publish(t, `{"node":"web1","interface":"lo","id":"wrong","packets":-1}`)
	r.publish(t, `{"node":"web1","interface":"lo","id":"quick","timeout":30,"bpf":"udp port 9"}`)
	for _, want := range []string{"wrong refused", "quick started", "slow started"} {
		if got := l.next(t, 10*time.Second); got.ID+" "+got.State != want {
			t.Errorf("want %s, got %s %s", want, got.ID, got.State)
		}
	}
}

func TestFullHouse(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxcaptures", "2", "-maxmemory", "3MiB")...)
	for n, want := range []string{"started", "started", "refused"} {
		r.publish(t, `{"node":"web1","interface":"lo","timeout":1,"bpf":"ether proto 0x9999"}`)
		got := l.next(t, 5*time.Second)
		if got.State != want || want == "refused" && !strings.Contains(got.Error, "-maxcaptures") {
			t.Errorf("request %d: want %s, got %+v", n, want, got)
		}
	}
	l.await(t, 5*time.Second, "done")
	l.await(t, 5*time.Second, "done")
	r.publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	if got := l.next(t, 5*time.Second); got.State != "started" {
		t.Errorf("want a free slot used, got %+v", got)
	}
}

// TestMemoryBudget: what is being delivered counts, its slot does not.
func TestMemoryBudget(t *testing.T) {
	release := make(chan struct{})
	s := startShark(t, func(http.ResponseWriter, *http.Request, int) bool { <-release; return false })
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, append(uploading(t, s), "-maxmemory", "2MiB", "-maxcaptures", "1")...)
	big := startBurst(t)
	r.publish(t, `{"node":"web1","interface":"lo","id":"fills","bpf":"`+big.filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	eventually(t, 20*time.Second, "the capture ends and is uploaded", func() bool { return s.count() == 1 })
	r.publish(t, `{"node":"web1","interface":"lo","id":"late"}`)
	if got := l.next(t, 5*time.Second); got.ID != "late" || got.State != "refused" || !strings.Contains(got.Error, "-maxmemory") {
		t.Errorf("want it refused for -maxmemory, got %+v", got)
	}
	close(release)
	got := l.next(t, 10*time.Second)
	if got.ID != "fills" || got.State != "done" || got.Stop != "memory" || *got.Bytes > 2<<20 || *got.Bytes < 2<<20-70000 {
		t.Errorf("want the budget used and delivered, got %+v", got)
	}
	if u := s.received()[0]; int64(len(u.content)) != *got.Bytes {
		t.Errorf("want %d bytes uploaded, got %d", *got.Bytes, len(u.content))
	}
	r.publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	if got := l.next(t, 5*time.Second); got.State != "started" {
		t.Errorf("want the memory used again, got %+v", got)
	}
}

// startBurst sends large packets as fast as a shell-free loop can.
func startBurst(t *testing.T) *stream {
	t.Helper()
	s := startStream(t, time.Hour)
	conn := dialUDP(t, s.port)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		packet := make([]byte, 30000)
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
				_, _ = conn.Write(packet)
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
	return s
}

// TestRequestFlag runs requests without Redis.
func TestRequestFlag(t *testing.T) {
	needRoot(t)
	stream := startStream(t, time.Millisecond)
	capture := `"interface":"lo","packets":5,"bpf":"` + stream.filter() + `"`
	for name, test := range map[string]struct {
		request string
		stdin   bool
		states  string
		code    int
	}{
		"no node":            {`{` + capture + `}`, false, "started done", 0},
		"this node":          {`{"node":"web1",` + capture + `}`, false, "started done", 0},
		"standard input":     {`{` + capture + `}`, true, "started done", 0},
		"other node":         {`{"node":"web2",` + capture + `}`, false, "", 1},
		"refused":            {`{"interface":"nosuch0"}`, false, "refused", 1},
		"one of two refused": {`{"interface":["nosuch0","lo"],"timeout":1}`, false, "started done refused", 1},
		"no JSON":            {`capture`, false, "refused", 1},
		"empty object":       {`{}`, false, "refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", test.request)...)
			if test.stdin {
				cmd.Args[len(cmd.Args)-1] = "-"
				cmd.Stdin = strings.NewReader(test.request)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			if code := start(t, cmd).wait(t, 10*time.Second); code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			lines := readLines(out.String())
			if len(lines) != len(strings.Fields(test.states)) {
				t.Errorf("want %s, got %s", test.states, out.String())
			}
			for _, line := range lines {
				var got reported
				if err := json.Unmarshal([]byte(line), &got); err != nil || !strings.Contains(test.states, got.State) || got.Node != "web1" {
					t.Errorf("want one of %s, got %s, %v", test.states, line, err)
				}
			}
		})
	}
}

// TestInterfaceDisappears deletes an interface while it carries traffic.
func TestInterfaceDisappears(t *testing.T) {
	ns, far := newNamespace(t, "gone"), newNamespace(t, "gonefar")
	ns.pair(t, far)
	dir := t.TempDir()
	var out bytes.Buffer
	cmd := ns.command(binary, append(keeping(dir), "-node", "web1", "-request", `{"interface":"v0","timeout":30,"bpf":"udp port 9"}`)...)
	cmd.Stdout = &out
	p := start(t, cmd)
	eventually(t, 5*time.Second, "capture started", func() bool { return strings.Contains(p.output.String(), "capture started") })
	ns.do(t, func() { // somebody has to listen: a refused packet makes the next one fail
		sink, err := net.ListenPacket("udp", "10.99.0.1:9")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { sink.Close() })
	})
	sent := 0
	far.do(t, func() {
		conn := dialUDPAt(t, "10.99.0.1:9")
		for ; sent < 400; sent++ {
			fmt.Fprintf(conn, "packet %08d", sent)
			time.Sleep(500 * time.Microsecond)
		}
	})
	ns.ip(t, "link", "del", "v0")
	if code := p.wait(t, 5*time.Second); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	lines := readLines(out.String())
	var got reported
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatal(err)
	}
	if got.State != "failed" || got.Stop != "interface" || got.Error == "" || *got.Packets != 400 {
		t.Errorf("want all 400 packets and why there are no more, got %+v", got)
	}
	file, err := os.Open(got.File)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if found := numbers(t, file); len(found) != 400 {
		t.Errorf("want 400 packets in the file, got %d", len(found))
	}
}

// TestInterfaceDown: nothing can come, and the result says why.
func TestInterfaceDown(t *testing.T) {
	ns, far := newNamespace(t, "dn"), newNamespace(t, "dnfar")
	ns.pair(t, far)
	var out bytes.Buffer
	cmd := ns.command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", `{"interface":"v0","timeout":2,"bpf":"ether proto 0x9999"}`)...)
	cmd.Stdout = &out
	p := start(t, cmd)
	eventually(t, 5*time.Second, "capture started", func() bool { return strings.Contains(p.output.String(), "capture started") })
	ns.ip(t, "link", "set", "v0", "down")
	code := p.wait(t, 10*time.Second)
	if lines := readLines(out.String()); code != 0 || !strings.Contains(lines[len(lines)-1], `"state":"done"`) || !strings.Contains(lines[len(lines)-1], "down") {
		t.Errorf("want done, and that the interface is down, got %d, %s", code, out.String())
	}
}

func TestFailedUploadIsKept(t *testing.T) {
	s := startShark(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(403)
		fmt.Fprint(w, `{"status":403,"exceptions":["Invalid token for `+token+`"]}`)
		return true
	})
	r := startRedis(t)
	l := r.listen(t)
	dir := t.TempDir()
	d := startDaemon(t, r, append(uploading(t, s), "-destdir", dir)...)
	stream := startStream(t, time.Millisecond)
	r.publish(t, `{"node":"web1","interface":"lo","packets":5,"bpf":"`+stream.filter()+`"}`)
	got := l.await(t, 5*time.Second, "done", "failed")
	if got.State != "failed" || !strings.Contains(got.Error, "403") || !strings.Contains(got.Error, "Invalid token") || got.URL != "" {
		t.Errorf("want the server's words, got %+v", got)
	}
	if _, err := os.Stat(got.File); err != nil {
		t.Errorf("the capture is lost: %v", err)
	}
	if strings.Contains(got.Error+d.output.String(), token) {
		t.Error("the token was shown")
	}
}

// TestSecretsAreNotShown looks for them wherever the daemon writes.
func TestSecretsAreNotShown(t *testing.T) {
	needRoot(t)
	r := startRedis(t)
	r.do(t, "ACL", "SETUSER", "default", "on", ">geheim")
	p := start(t, exec.Command(binary, "-upload", "-csscheme", "http", "-cshost", "127.0.0.1:1", "-cstoken", token, "-cstimeout", "1s", "-loglevel", "debug",
		"-redisurl", "redis://default:falsch@"+r.address()))
	eventually(t, 5*time.Second, "refused by Redis", func() bool { return strings.Contains(p.output.String(), "WRONGPASS") })
	log := p.output.String()
	for _, flag := range []string{"-cstoken", "-redisurl"} {
		if !strings.Contains(log, flag) {
			t.Errorf("want a warning for %s", flag)
		}
	}
	if strings.Contains(log, token) || strings.Contains(log, "falsch") || strings.Contains(log, "geheim") {
		t.Errorf("a secret is in the log: %s", log)
	}
}

// TestStop: running captures are delivered, then the daemon ends.
func TestStop(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			r := startRedis(t)
			l := r.listen(t)
			s := startShark(t, nil)
			d := startDaemon(t, r, append(uploading(t, s), keeping(t.TempDir())...)...)
			stream := startStream(t, time.Millisecond)
			for range 3 {
				r.publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.filter()+`"}`)
				l.await(t, 5*time.Second, "started")
			}
			time.Sleep(500 * time.Millisecond)
			at := time.Now()
			d.signal(t, sig)
			if code := d.wait(t, 5*time.Second); code != 0 {
				t.Errorf("want exit code 0, got %d", code)
			}
			for range 3 {
				got := l.await(t, time.Second, "done", "failed")
				if got.State != "done" || got.Stop != "shutdown" || got.URL == "" || got.File == "" {
					t.Errorf("want it delivered, got %+v", got)
				}
				file, err := os.Open(got.File)
				if err != nil {
					t.Fatal(err)
				}
				packets, _ := testbed.ReadPcap(t, file)
				file.Close()
				last := packets[len(packets)-1].Timestamp
				if gap := at.Sub(last); gap > 30*time.Millisecond || gap < -30*time.Millisecond {
					t.Errorf("want packets until the signal, got the last one %v before", gap)
				}
			}
		})
	}
}

// TestStopWhileUploadsHang: the exit is not held up, and nothing is lost.
func TestStopWhileUploadsHang(t *testing.T) {
	s := startShark(t, hang)
	r := startRedis(t)
	l := r.listen(t)
	dir := t.TempDir()
	d := startDaemon(t, r, append(uploading(t, s), "-destdir", dir, "-draintimeout", "1s")...)
	stream := startStream(t, time.Millisecond)
	r.publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	d.signal(t, syscall.SIGTERM)
	if code := d.wait(t, 5*time.Second); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("want an exit after -draintimeout, took %v", took)
	}
	got := l.await(t, time.Second, "failed")
	if _, err := os.Stat(got.File); err != nil || got.Stop != "shutdown" {
		t.Errorf("want it kept in -destdir, got %+v, %v", got, err)
	}
}

func TestSecondSignal(t *testing.T) {
	s := startShark(t, hang)
	r := startRedis(t)
	l := r.listen(t)
	d := startDaemon(t, r, uploading(t, s)...)
	stream := startStream(t, time.Millisecond)
	r.publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	time.Sleep(300 * time.Millisecond)
	d.signal(t, syscall.SIGTERM)
	eventually(t, 5*time.Second, "it stops", func() bool { return strings.Contains(d.output.String(), "stopping") })
	d.signal(t, syscall.SIGTERM)
	d.wait(t, time.Second)
}

// TestResultsSurviveOutage: a capture that runs while Redis is away is
// delivered, and its result comes when Redis is back.
func TestResultsSurviveOutage(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	dir := t.TempDir()
	startDaemon(t, r, keeping(dir)...)
	stream := startStream(t, time.Millisecond)
	r.publish(t, `{"node":"web1","interface":"lo","id":"first","timeout":2,"bpf":"`+stream.filter()+`"}`)
	r.publish(t, `{"node":"web1","interface":"lo","id":"second","timeout":3,"bpf":"`+stream.filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	l.await(t, 5*time.Second, "started")
	r.signal(t, syscall.SIGKILL)
	r.wait(t, 5*time.Second)
	eventually(t, 10*time.Second, "both captures are written", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
		return len(files) == 2
	})
	r.start(t)
	l = r.listen(t)
	for _, want := range []string{"first", "second"} {
		if got := l.next(t, 6*time.Second); got.ID != want || got.State != "done" {
			t.Errorf("want %s done, got %+v", want, got)
		}
	}
}

// TestBrokenDisk: the error says what the kernel said, and the upload goes out.
func TestBrokenDisk(t *testing.T) {
	for name, test := range map[string]struct {
		breakIt func(t *testing.T, dir string)
		want    string
	}{
		"full":      {func(t *testing.T, dir string) { fill(t, dir) }, "no space left on device"},
		"read-only": {func(t *testing.T, dir string) { remountReadOnly(t, dir) }, "read-only file system"},
		"removed": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "captures")); err != nil {
				t.Fatal(err)
			}
		}, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			mount := t.TempDir()
			mountTmpfs(t, mount, "size=200k")
			dir := filepath.Join(mount, "captures")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			r := startRedis(t)
			l := r.listen(t)
			s := startShark(t, nil)
			startDaemon(t, r, append(uploading(t, s), keeping(dir)...)...)
			test.breakIt(t, mount)
			stream := startStream(t, time.Millisecond)
			r.publish(t, `{"node":"web1","interface":"lo","packets":50,"bpf":"`+stream.filter()+`"}`)
			got := l.await(t, 5*time.Second, "done", "failed")
			if got.State != "failed" || !strings.Contains(got.Error, test.want) || got.File != "" || got.URL == "" || *got.Packets != 50 {
				t.Errorf("want %q and an upload, got %+v", test.want, got)
			}
			if len(s.received()) != 1 {
				t.Error("the upload has not gone out")
			}
			if _, err := os.Stat(dir); err == nil {
				checkDirectory(t, dir, 0)
			}
		})
	}
}

// TestFailingUploadHoldsUpNobody: while one upload is retried, others go out.
func TestFailingUploadHoldsUpNobody(t *testing.T) {
	s := startShark(t, func(w http.ResponseWriter, r *http.Request, try int) bool {
		if try == 1 {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(503)
		}
		return try == 1
	})
	r := startRedis(t)
	l := r.listen(t)
	startDaemon(t, r, uploading(t, s)...)
	stream := startStream(t, time.Millisecond)
	request := `{"node":"web1","interface":"lo","packets":5,"id":"%s","bpf":"` + stream.filter() + `"}`
	r.publish(t, fmt.Sprintf(request, "unlucky"))
	eventually(t, 5*time.Second, "the first try", func() bool { return s.count() == 1 })
	r.publish(t, fmt.Sprintf(request, "lucky"))
	for _, want := range []string{"lucky", "unlucky"} {
		if got := l.await(t, 10*time.Second, "done", "failed"); got.ID != want || got.State != "done" {
			t.Errorf("want %s done, got %+v", want, got)
		}
	}
}

// TestLog: one line an event, with the request's id, and nothing from a request can forge another.
func TestLog(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	for format, check := range map[string]func(line string) bool{
		"text": func(line string) bool { return strings.HasPrefix(line, "time=") },
		"json": func(line string) bool { return json.Valid([]byte(line)) },
	} {
		t.Run(format, func(t *testing.T) {
			d := startDaemon(t, r, append(keeping(t.TempDir()), "-logformat", format)...)
			r.publish(t, `{"node":"web1","interface":"x\nlevel=error\u001b[31m","id":"forged\nid"}`)
			l.next(t, 5*time.Second)
			r.publish(t, `{"node":"web1","interface":"lo","timeout":1,"id":"good id"}`)
			l.await(t, 5*time.Second, "done")
			d.signal(t, syscall.SIGTERM)
			d.wait(t, 5*time.Second)
			lines := readLines(d.output.String())
			about := 0
			for _, line := range lines {
				if !check(line) || strings.Contains(line, "\x1b") {
					t.Errorf("not one line of %s: %q", format, line)
				}
				if strings.Contains(line, "good id") || strings.Contains(line, `forged\nid`) {
					about++
				}
			}
			if about != 3 {
				t.Errorf("want 3 lines about requests, got %d: %s", about, d.output.String())
			}
		})
	}
}

// TestLogLevel: requests for others are seen at debug only.
func TestLogLevel(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	for level, want := range map[string]bool{"debug": true, "info": false} {
		d := startDaemon(t, r, append(keeping(t.TempDir()), "-loglevel", level)...)
		r.publish(t, `{"node":"other"}`)
		r.publish(t, `{"node":"web1"}`)
		l.next(t, 5*time.Second)
		if got := strings.Contains(d.output.String(), "another node"); got != want {
			t.Errorf("%s: want %v, got %v: %s", level, want, got, d.output.String())
		}
		d.signal(t, syscall.SIGTERM)
		d.wait(t, 5*time.Second)
	}
}
