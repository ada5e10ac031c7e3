package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/store"
	"pcapdaemon/testbed"
)

// fetchingACL is what docs/operations.md gives as the least for one who fetches files.
const fetchingACL = publisherACL + " (~capture-results:* +getrange +strlen +del)"

// listDir returns the names in a directory, hidden ones included.
func listDir(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// setUser gives a server a user with the password pw and returns it as that user reaches it.
func setUser(t *testing.T, r *testbed.Redis, name, rules string) *pubsub.Server {
	t.Helper()
	acl := []any{"SETUSER", name, "on", ">pw"}
	inBrackets := false
	for word := range strings.FieldsSeq(rules) {
		if inBrackets { // a selector is one argument
			acl[len(acl)-1] = acl[len(acl)-1].(string) + " " + word
		} else {
			acl = append(acl, word)
		}
		inBrackets = strings.HasPrefix(word, "(") || inBrackets && !strings.HasSuffix(word, ")")
	}
	r.Do(t, "ACL", acl...)
	return &pubsub.Server{Addresses: []string{r.Address()}, User: name, Password: "pw"}
}

// returned is a result with a key of three bytes.
func returned(t *testing.T, key, name string) result.Result {
	t.Helper()
	r := say(t, `"node":"a","interface":"eth0","state":"done","stop":"packets","packets":1,"bytes":3`)
	r.Key, r.Name = key, name
	return r
}

func TestFetch(t *testing.T) {
	r := testbed.StartRedis(t)
	server := setUser(t, r, "asker", fetchingACL)
	dir := t.TempDir()
	f := newFetcher(server, store.NewDirectory(dir), "capture-results:r1:")
	for _, want := range []string{"x.pcap", "x-2.pcap"} {
		r.Do(t, "SET", "capture-results:r1:a:eth0", "abc")
		file, err := f.fetch(t.Context(), returned(t, "capture-results:r1:a:eth0", "x.pcap"))
		if err != nil || file != filepath.Join(dir, want) {
			t.Fatalf("want %s, got %s, %v", want, file, err)
		}
		if content, err := os.ReadFile(file); string(content) != "abc" {
			t.Errorf("want the content of the key, got %q, %v", content, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
			t.Errorf("want mode 0640, got %v, %v", info.Mode(), err)
		}
		if left := r.Do(t, "EXISTS", "capture-results:r1:a:eth0"); left != int64(0) {
			t.Error("the key is still there")
		}
	}
	if want, got := []string{"x-2.pcap", "x.pcap"}, listDir(t, dir); !slices.Equal(want, got) {
		t.Errorf("want %q in the directory, got %q", want, got)
	}
}

// TestFetchFails: a file that is not whole is none, and its key stays.
func TestFetchFails(t *testing.T) {
	r := testbed.StartRedis(t)
	reader := setUser(t, r, "reader", publisherACL+" (~capture-results:* +getrange +strlen)")
	asker := setUser(t, r, "asker", publisherACL)
	fetching := setUser(t, r, "fetching", fetchingACL)
	const key = "capture-results:r1:a:eth0"
	for name, test := range map[string]struct {
		server     *pubsub.Server
		key, value string
		files      int
		want       string
	}{
		"a key of others":      {fetching, "capture-results:r10:a:eth0", "abc", 0, "not of this request"},
		"a key of other kind":  {fetching, "secret", "abc", 0, "not of this request"},
		"expired":              {fetching, key, "", 0, "no such key"},
		"shorter":              {fetching, key, "ab", 0, "1 bytes of the file are missing"},
		"longer":               {fetching, key, "abcd", 0, "longer"},
		"reading not allowed":  {asker, key, "abc", 0, "NOPERM"},
		"removing not allowed": {reader, key, "abc", 1, "NOPERM"},
	} {
		r.Do(t, "FLUSHALL")
		if test.value != "" {
			r.Do(t, "SET", test.key, test.value)
		}
		dir := t.TempDir()
		f := newFetcher(test.server, store.NewDirectory(dir), "capture-results:r1:")
		file, err := f.fetch(t.Context(), returned(t, test.key, "x.pcap"))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "a eth0: ") {
			t.Errorf("%s: want an error with %q, got %v", name, test.want, err)
		}
		if got := listDir(t, dir); len(got) != test.files || (file != "") != (test.files == 1) {
			t.Errorf("%s: want %d files, got %q and %q", name, test.files, got, file)
		}
		if left := r.Do(t, "EXISTS", test.key); test.value != "" && left != int64(1) {
			t.Errorf("%s: want the key left alone", name)
		}
	}
}

// TestFetchIntoFullDirectory: what the disk says is the reason, and not what that does to Redis.
func TestFetchIntoFullDirectory(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	dir := t.TempDir()
	testbed.MountTmpfs(t, dir, "size=64k")
	big := strings.Repeat("x", 1<<20)
	r.Do(t, "SET", "capture-results:r1:a:k", big)
	server := &pubsub.Server{Addresses: []string{r.Address()}}
	f := newFetcher(server, store.NewDirectory(dir), "capture-results:r1:")
	done := returned(t, "capture-results:r1:a:k", "x.pcap")
	done.Bytes = int64(len(big))
	if _, err := f.fetch(t.Context(), done); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("want no space left, got %v", err)
	}
	if got := listDir(t, dir); len(got) != 0 {
		t.Errorf("want nothing left behind, got %q", got)
	}
}

// TestLocalName: what a result says of its file is foreign text.
func TestLocalName(t *testing.T) {
	const own = "a-eth0-20260102T030405.000000001Z.pcap"
	for name, want := range map[string]string{
		"web1-eth0-20260102T030405.000000001Z.pcap":   "web1-eth0-20260102T030405.000000001Z.pcap",
		"web1-eth0-20260102T030405.000000001Z.pcapng": "web1-eth0-20260102T030405.000000001Z.pcapng",
		"../../etc/cron.d/x.pcap":                     "_.._etc_cron.d_x.pcap",
		"/etc/passwd":                                 "_etc_passwd.pcap",
		".bashrc":                                     "bashrc.pcap",
		"-rf":                                         "rf.pcap",
		"a\x00b\nc.pcap":                              "a_b_c.pcap",
		"":                                            own,
		"..":                                          own,
		".pcap":                                       own,
		"/":                                           own,
		"...___---.pcap":                              own,
		strings.Repeat("x", 300) + ".pcap":            strings.Repeat("x", 235) + ".pcap",
	} {
		if got := localName(returned(t, "k", name)); got != want {
			t.Errorf("%q: want %s, got %s", name, want, got)
		}
	}
}

// A stuckVault gives one byte, and then nothing until it is left.
type stuckVault struct{}

// Fetch implements vault.
func (stuckVault) Fetch(ctx context.Context, _ string, to io.Writer) (int64, error) {
	_, _ = to.Write([]byte("a"))
	<-ctx.Done()
	return 1, ctx.Err()
}

// Remove implements vault.
func (stuckVault) Remove(context.Context, string) error { return errors.New("never reached") }

// TestFetchIsLeft: who leaves in the middle of a file leaves nothing behind.
func TestFetchIsLeft(t *testing.T) {
	for name, begins := range map[string]bool{"by twice": true, "by once, what others have begun": false} {
		dir := t.TempDir()
		e := newFakeExchange(2)
		c := newTestClient(e, jsonLines{io.Discard, io.Discard})
		c.request.begins = begins
		c.fetcher = newFetcher(stuckVault{}, store.NewDirectory(dir), "capture-results:r1:")
		if err := c.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := range 2 * fetchers { // more than are fetched at one time
			r := returned(t, fmt.Sprint("capture-results:r1:a:", n), "x.pcap")
			r.Interface = fmt.Sprint("eth", n)
			e.answers <- r.Encode()
		}
		interrupted, interrupt := context.WithCancel(t.Context())
		in := interruption{t.Context(), interrupted}
		if !begins {
			in = interruption{interrupted, t.Context()}
		}
		time.AfterFunc(200*time.Millisecond, interrupt)
		if code := c.wait(in); code != Failed {
			t.Errorf("%s: want outcome %d, got %d", name, Failed, code)
		}
		if got := listDir(t, dir); len(got) != 0 {
			t.Errorf("%s: want nothing left behind, got %q", name, got)
		}
	}
}

// TestFetchIsShown: a capture is under way as long as its file is.
func TestFetchIsShown(t *testing.T) {
	e := newFakeExchange(1)
	c := newTestClient(e, jsonLines{io.Discard, io.Discard})
	c.fetcher = newFetcher(stuckVault{}, store.NewDirectory(t.TempDir()), "capture-results:r1:")
	if err := c.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer c.fetcher.working.Wait()
	defer leave()
	c.take(ctx, returned(t, "capture-results:r1:a:k", "x.pcap").Encode())
	capture := c.session.captures[0]
	if !capture.fetching || !c.busy() {
		t.Error("want the file under way")
	}
	c.fetched(fetched{capture: capture, file: "/x.pcap"})
	if capture.fetching || c.busy() || c.failed {
		t.Error("want the file here")
	}
}

// A countingStore counts what is fetched from it: three bytes each.
type countingStore struct{ fetched atomic.Int64 }

// Fetch implements keys.
func (s *countingStore) Fetch(_ context.Context, _ string, to io.Writer) (int64, error) {
	s.fetched.Add(1)
	n, err := io.WriteString(to, "abc")
	return int64(n), err
}

// Remove implements keys.
func (*countingStore) Remove(context.Context, string) error { return nil }

// TestFetchOnce: a capture that is kept first and uploaded later is fetched once.
func TestFetchOnce(t *testing.T) {
	e := newFakeExchange(1)
	c := newTestClient(e, jsonLines{io.Discard, io.Discard})
	var from countingStore
	c.fetcher = newFetcher(&from, store.NewDirectory(t.TempDir()), "capture-results:r1:")
	if err := c.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{result.Started, result.Kept, result.Done} {
		r := returned(t, "capture-results:r1:a:k", "x.pcap")
		if r.State = state; state == result.Started {
			r.Key = ""
		}
		c.take(t.Context(), r.Encode())
		for c.fetcher.pending > 0 {
			c.fetched(<-c.fetcher.finished())
		}
	}
	c.fetcher.working.Wait()
	if got := from.fetched.Load(); got != 1 || c.failed {
		t.Errorf("want it fetched once, got %d times", got)
	}
}

// TestPublishFetches: with -destdir, files are asked for, fetched, and told of.
func TestPublishFetches(t *testing.T) {
	r := testbed.StartRedis(t)
	setUser(t, r, "asker", fetchingACL)
	requests, asked := r.Hear(t, "capture"), make(chan []byte, 1)
	go func() {
		asked <- <-requests
		for _, host := range []string{"a", "b"} {
			done := returned(t, "capture-results:r1:"+host+":eth0", host+".pcap")
			done.Node = host
			r.Do(t, "PUBLISH", "capture-results", done.Encode())
		}
	}()
	r.Do(t, "SET", "capture-results:r1:a:eth0", "abc") // b's has expired
	dir := t.TempDir()
	out, errs, code := ask(t, "redis://asker:pw@"+r.Address(), dir, "node=any", "interface=eth0", "id=r1")
	if code != Failed || !strings.Contains(errs, "b eth0: fetch capture-results:r1:b:eth0: no such key") {
		t.Errorf("want outcome %d and what was not fetched, got %d, %s", Failed, code, errs)
	}
	if want, got := "done done fetched", states(t, out); got != want {
		t.Errorf("want the states %q, got %q", want, got)
	}
	if request := <-asked; !strings.Contains(string(request), `"return":true`) {
		t.Errorf("want the captures asked for, got %s", request)
	}
	want := `{"id":"r1","node":"a","interface":"eth0","state":"fetched","file":"` + dir + `/a.pcap"}`
	if !strings.Contains(out, want) {
		t.Errorf("want the line %s, got %s", want, out)
	}
}

// A readVault fails what is fetched or removed.
type readVault struct{}

// Fetch implements vault.
func (readVault) Fetch(context.Context, string, io.Writer) (int64, error) {
	return 0, errors.New("read")
}

// Remove implements vault.
func (readVault) Remove(context.Context, string) error { return errors.New("removed") }

// TestFileIsMissed: a capture that nobody has returned is named, and fails the client.
func TestFileIsMissed(t *testing.T) {
	const key, taken = `"key":"capture-results:r1:a:k",`, "but its file was not returned"
	for name, test := range map[string]struct {
		results  []string // of one capture, after its start
		returns  bool
		says     string
		wantCode Outcome
	}{
		"no key":             {[]string{`"state":"done","packets":3`}, true, "a eth0: 3 packets, " + taken, Failed},
		"one packet":         {[]string{`"state":"done","packets":1`}, true, "a eth0: 1 packet, " + taken, Failed},
		"kept without":       {[]string{`"state":"kept","packets":3`}, true, "a eth0: 3 packets, " + taken, Failed},
		"more than there is": {[]string{`"state":"done","packets":9223372036854775807`}, true, taken, Failed},
		"no packets":         {[]string{`"state":"done","packets":0`}, true, "", Done},
		"fewer than none":    {[]string{`"state":"done","packets":-1`}, true, "", Done},
		"none asked for":     {[]string{`"state":"done","packets":3`}, false, "", Done},
		"kept, then done":    {[]string{key + `"state":"kept","packets":3`, `"state":"done","packets":3`}, true, "", Failed},
		"failed":             {[]string{`"state":"failed","packets":3`}, true, "", Failed},
	} {
		var errs strings.Builder
		e := newFakeExchange(1)
		c := newTestClient(e, jsonLines{io.Discard, &errs})
		c.request.returns = test.returns
		c.fetcher = newFetcher(readVault{}, store.NewDirectory(t.TempDir()), "capture-results:r1:")
		if err := c.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.answers <- say(t, `"node":"a","interface":"eth0","state":"started"`).Encode()
		for _, text := range test.results {
			e.answers <- say(t, `"node":"a","interface":"eth0",%s`, text).Encode()
		}
		if code := c.wait(interruption{t.Context(), t.Context()}); code != test.wantCode {
			t.Errorf("%s: want outcome %d, got %d", name, test.wantCode, code)
		}
		if !strings.Contains(errs.String(), test.says) || strings.Contains(errs.String(), taken) != (test.says != "") {
			t.Errorf("%s: want %q, got %s", name, test.says, errs.String())
		}
	}
}

// TestFetcherBelievesNoHost: a host can claim no other one's key.
func TestFetcherBelievesNoHost(t *testing.T) {
	f := newFetcher(readVault{}, store.NewDirectory(t.TempDir()), "capture-results:r1:")
	for name, test := range map[string]struct{ key, want string }{
		"another node's key":  {"capture-results:r1:b:eth0", "another node's"},
		"a longer name's key": {"capture-results:r1:ab:eth0", "another node's"},
		"a name's with colon": {"capture-results:r1:a:b:eth0", "another node's"},
		"another request's":   {"capture-results:r2:a:eth0", "not of this request"},
	} {
		r := returned(t, test.key, "x.pcap")
		if _, err := f.fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want %q, got %v", name, test.want, err)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	owned := returned(t, "capture-results:r1:b:eth0", "x.pcap")
	f.start(ctx, &progress{Result: owned}) // by a
	owned.Node = "b"
	if !f.wants(owned) {
		t.Error("want the file of a host whose key another one has claimed")
	}
	f.working.Wait()
}

// TestCountsAreHeldToWhatWasAsked: a host may have no more than was asked for, nor than it
// has granted; nothing of that is fetched.
func TestCountsAreHeldToWhatWasAsked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		packets, bytes int64
		want           string
	}{
		"what was asked":              {5, 900, ""},
		"more packets than asked":     {6, 900, "6 packets, more than the 5 that it may have"},
		"more bytes than asked":       {5, 500_000_000, "500000000 bytes, more than the 1000 that it may have"},
		"more bytes than granted":     {5, 901, "901 bytes, more than the 900 that it may have"},
		"a file of less than nothing": {5, -1, "the file is longer than its result says"},
	} {
		var errs strings.Builder
		e, dir := newFakeExchange(1), t.TempDir()
		c := newTestClient(e, jsonLines{io.Discard, &errs})
		c.request.asked.Packets, c.request.asked.Bytes, c.request.returns = 5, 1000, true
		c.fetcher = newFetcher(sizedVault(test.bytes), store.NewDirectory(dir), "capture-results:r1:")
		if err := c.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.answers <- say(t, `"node":"a","interface":"eth0","state":"started","limits":{"packets":9,"bytes":900}`).Encode()
		e.answers <- say(t, `"node":"a","interface":"eth0","state":"done","key":"capture-results:r1:a:eth0","packets":%d,"bytes":%d`,
			test.packets, test.bytes).Encode()
		code := c.wait(interruption{t.Context(), t.Context()})
		if (code == Done) != (test.want == "") || !strings.Contains(errs.String(), test.want) {
			t.Errorf("%s: want %q, got outcome %d, %s", name, test.want, code, errs.String())
		}
		if got := len(listDir(t, dir)); (got == 1) != (test.want == "") {
			t.Errorf("%s: want no file, got %d", name, got)
		}
	}
}

// A sizedVault has files of so many bytes.
type sizedVault int64

// Fetch implements keys.
func (v sizedVault) Fetch(_ context.Context, _ string, to io.Writer) (int64, error) {
	n, err := to.Write(make([]byte, max(v, 1)))
	return int64(n), err
}

// Remove implements keys.
func (sizedVault) Remove(context.Context, string) error { return nil }
