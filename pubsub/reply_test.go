package pubsub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// A badReply is what no server may answer.
type badReply struct {
	text    string // repeated for ever, after begin
	begin   string
	culprit string // in the error
}

// badReplies are answers that would take all memory, or the whole stack.
func badReplies() map[string]badReply {
	return map[string]badReply{
		"longest string":           {begin: "$9223372036854775807\r\n", culprit: "a string of 9223372036854775807 bytes"},
		"beyond all integers":      {begin: "$99999999999999999999\r\n", culprit: "a string of 9223372036854775807 bytes"},
		"100 GB":                   {begin: "$100000000000\r\n", culprit: "a string of 100000000000 bytes"},
		"longest array":            {begin: "*9223372036854775807\r\n", culprit: "an array of 9223372036854775807"},
		"array of 64 GB":           {begin: "*4000000000\r\n", culprit: "an array of 4000000000"},
		"arrays in each other":     {text: "*1\r\n", culprit: "arrays within each other"},
		"arrays beside each other": {begin: "*4000\r\n", text: "*2\r\n*-1\r\n*-1\r\n", culprit: "elements"},
		"line without end":         {begin: "+", text: "x", culprit: "a line of more than"},
		"error without end":        {begin: "-ERR ", text: "x", culprit: "a line of more than"},
		"number without end":       {begin: ":", text: "1", culprit: "a line of more than"},
		"length without end":       {begin: "$", text: "1", culprit: "a line of more than"},
		"many long strings": {begin: "*4000\r\n", text: "$500000\r\n" + strings.Repeat("x", 500000) + "\r\n",
			culprit: "more than 2097152 bytes"},
		"many long lines": {begin: "*4000\r\n", text: "+" + strings.Repeat("x", 16000) + "\r\n",
			culprit: "more than 2097152 bytes"},
		"a string longer than said": {begin: "$3\r\nabcd\r\n", text: "x", culprit: "longer than announced"},
		"negative length":           {begin: "$-2\r\n", culprit: errNotRedis.Error()},
		"negative array":            {begin: "*-9\r\n", culprit: errNotRedis.Error()},
		"bare line feed":            {begin: "+OK\n", culprit: errNotRedis.Error()},
		"another type":              {begin: "%1\r\n", culprit: errNotRedis.Error()},
		"HTTP":                      {begin: "HTTP/1.1 400 Bad Request\r\n", culprit: "it speaks HTTP"},
		"SSH":                       {begin: "SSH-2.0-OpenSSH_9.2p1\r\n", culprit: "it speaks SSH"},
		"TLS":                       {begin: "\x15\x03\x01\x00\x02\x02\x46", culprit: "wants TLS"},
		"mail":                      {begin: "220 mail.example ESMTP\r\n", culprit: errNotRedis.Error()},
	}
}

// write writes the answer, and its repetition until the connection ends.
func (b badReply) write(to io.Writer) {
	_, err := io.WriteString(to, b.begin)
	for many := strings.Repeat(b.text, max(1, 4096/max(1, len(b.text)))); err == nil && many != ""; {
		_, err = io.WriteString(to, many)
	}
}

// startFakeServer starts a server that answers each command with what a function writes. It
// gets the words of the command.
func startFakeServer(t testing.TB, answer func(to io.Writer, words []string)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	ended := false
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		ended = true
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	accept := func(conn net.Conn) bool { // false: the test has ended meanwhile
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			open = append(open, conn)
		}
		return !ended
	}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !accept(conn) {
				conn.Close()
				return
			}
			serving.Go(func() {
				defer conn.Close()
				commands := redis.NewConn(conn, 0, 0)
				for {
					words, err := redis.Strings(commands.Receive())
					if err != nil {
						return
					}
					answer(conn, words)
				}
			})
		}
	})
	return listener.Addr().String()
}

// read reads replies as redigo does, from what a server says.
func read(from io.Reader) (*connection, error) {
	near, far := net.Pipe()
	go func() {
		_, _ = io.Copy(far, from)
		far.Close()
	}()
	r := newReplyReader(near, "redis.example:6379")
	c := &connection{redis.NewConn(r, 0, 0).(redis.ConnWithTimeout), r}
	_, err := c.Receive()
	return c, err
}

// TestReplyReaderRefuses: whatever comes, little memory is taken and the error says what was wrong.
func TestReplyReaderRefuses(t *testing.T) {
	for name, bad := range badReplies() {
		t.Run(name, func(t *testing.T) {
			var c *connection
			err := errors.New("nothing was read")
			took := allocated(func() {
				from, to := io.Pipe()
				go bad.write(to)
				c, err = read(from)
				from.Close()
				c.Close()
			})
			if !mentions(err, bad.culprit) || !mentions(err, "redis.example:6379: ") {
				t.Errorf("want %q and the server in the error, got %v", bad.culprit, err)
			}
			if took > 16<<20 { // what it had to copy on the way included
				t.Errorf("want a few MiB taken, got %d bytes", took)
			}
		})
	}
}

// mentions reports whether an error holds a text.
func mentions(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// allocated returns how many bytes of memory a function took, all together.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestReplyReaderPasses: replies within the bounds come as they were sent, whatever the pieces.
func TestReplyReaderPasses(t *testing.T) {
	long := strings.Repeat("x", maxString)
	for name, reply := range map[string]string{
		"status":            "+OK\r\n",
		"empty status":      "+\r\n",
		"longest line":      "+" + strings.Repeat("x", maxLine-3) + "\r\n",
		"error":             "-NOPERM no\r\n",
		"number":            ":-9223372036854775807\r\n",
		"string":            "$5\r\n\r\nx\r\n\r\n",
		"empty string":      "$0\r\n\r\n",
		"nil":               "$-1\r\n",
		"nil array":         "*-1\r\n",
		"empty array":       "*0\r\n",
		"longest string":    fmt.Sprintf("$%d\r\n%s\r\n", maxString, long),
		"as deep as may be": strings.Repeat("*1\r\n", maxDepth) + ":1\r\n",
		"as many as may be": fmt.Sprintf("*%d\r\n%s", maxElements-1, strings.Repeat("$-1\r\n", maxElements-1)),
		"role":              "*3\r\n$6\r\nmaster\r\n:7\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$1\r\n7\r\n",
	} {
		all := strings.Repeat(reply, 5) // the bounds are those of each
		for _, size := range []int{1, 7, 4096, 1 << 20} {
			r := newReplyReader(pieces{Reader: strings.NewReader(all)}, "")
			var got strings.Builder
			_, err := io.CopyBuffer(&got, struct{ io.Reader }{r}, make([]byte, size))
			if err != nil || got.String() != all {
				t.Errorf("%s, by %d: want it as it is, got %d of %d bytes, %v", name, size, got.Len(), len(all), err)
			}
		}
	}
}

// pieces is a connection from which little comes at a time.
type pieces struct {
	net.Conn
	io.Reader
}

func (p pieces) Read(to []byte) (int, error)     { return p.Reader.Read(to[:min(len(to), 1000)]) }
func (p pieces) SetReadDeadline(time.Time) error { return nil }

// TestErrorsArePrintable: what a server says of an error is shown to people, wherever it stands.
func TestErrorsArePrintable(t *testing.T) {
	for reply, want := range map[string]string{
		"-NOPERM no\r\n":                             "NOPERM no",
		"-ERR \x1b[31m\x07\x9b\xff\r\n":              `ERR \x1b[31m\a��`,
		"-ERR " + strings.Repeat("x", 9000) + "\r\n": "ERR " + strings.Repeat("x", 196) + "…",
		"*2\r\n:1\r\n-EXECABORT \x00\r\n":            `EXECABORT \x00`,
		"-\r\n":                                      "",
	} {
		r := newReplyReader(pieces{Reader: strings.NewReader(reply + ":7\r\n")}, "")
		c := redis.NewConn(r, 0, 0)
		answer, err := c.Receive()
		if values, ok := answer.([]any); ok {
			err, _ = values[len(values)-1].(error)
		}
		if err == nil || err.Error() != want {
			t.Errorf("%q: want %q, got %q", reply, want, err)
		}
		if next, err := redis.Int(c.Receive()); err != nil || next != 7 {
			t.Errorf("%q: want the next reply, got %d, %v", reply, next, err)
		}
	}
}

// FuzzReplyReader: whatever a server says, redigo gets no length beyond the bounds, nothing
// panics, and what passes is the beginning of what came.
func FuzzReplyReader(f *testing.F) {
	for _, bad := range badReplies() {
		var begin bytes.Buffer
		begin.WriteString(bad.begin)
		begin.WriteString(bad.text[:min(len(bad.text), 2000)])
		f.Add(begin.Bytes(), false)
	}
	f.Add([]byte("*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$6\r\nabcdef\r\n"), true)
	f.Add([]byte("*3\r\n$7\r\nmessage\r\n$7\r\ncapture\r\n$900000000000000\r\nabcdef\r\n"), true)
	f.Fuzz(func(t *testing.T, said []byte, cut bool) {
		var passed bytes.Buffer
		r := newReplyReader(pieces{Reader: bytes.NewReader(said)}, "")
		if cut {
			r.cutMessages(4)
		}
		c := redis.NewConn(teeConn{r, &passed}, 0, 0)
		took := allocated(func() {
			for c.Err() == nil {
				_, _ = c.Receive()
			}
		})
		if took > 16<<20+64*uint64(len(said)) {
			t.Errorf("want a few MiB taken, got %d bytes", took)
		}
		changed := bytes.HasPrefix(said, []byte("-")) || bytes.Contains(said, []byte("\n-")) // errors are made printable
		if !cut && !changed && !bytes.HasPrefix(said, passed.Bytes()) {
			t.Errorf("want nothing but what was said, got %q of %q", passed.Bytes(), said)
		}
	})
}

// A teeConn keeps what is read.
type teeConn struct {
	net.Conn
	read io.Writer
}

func (c teeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	_, _ = c.read.Write(p[:n])
	return n, err
}

func (c teeConn) Close() error { return nil }

// TestBadReplies: whoever talks to a server that answers badly says so, lives, and
// works again when the server does.
func TestBadReplies(t *testing.T) {
	t.Parallel()
	all := badReplies()
	for _, kind := range []string{"longest string", "longest array", "arrays in each other", "line without end", "HTTP"} {
		bad := all[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			fake := startFakeServer(t, func(to io.Writer, _ []string) { bad.write(to) })
			t.Run("subscriber", func(t *testing.T) { checkSubscriberRecovers(t, fake, r, bad) })
			t.Run("publisher", func(t *testing.T) { checkPublisherRecovers(t, fake, r, bad) })
			t.Run("others", func(t *testing.T) { checkOthersSay(t, fake, bad) })
		})
	}
}

// checkSubscriberRecovers expects that a subscriber says what is wrong with a server, and
// works with the one that comes after it.
func checkSubscriberRecovers(t *testing.T, fake string, r *testbed.Redis, bad badReply) {
	proxy := testbed.StartProxy(t, fake)
	messages, state := startSubscriber(t, &Server{Addresses: []string{proxy.Address}}, quietLog())
	testbed.Eventually(t, 30*time.Second, bad.culprit, func() bool { return strings.Contains(state(), bad.culprit) })
	proxy.Lead(r.Address())
	r.AwaitSubscribers(t, 20*time.Second, 1)
	checkReceives(t, r, messages)
}

// checkPublisherRecovers expects the same of a publisher.
func checkPublisherRecovers(t *testing.T, fake string, r *testbed.Redis, bad badReply) {
	heard := r.Hear(t, resultChannel)
	proxy := testbed.StartProxy(t, fake)
	var log testbed.Transcript
	p := newPublisher(t, &Server{Addresses: []string{proxy.Address}}, logTo(&log))
	publishNumbers(p, 1, 1)
	testbed.Eventually(t, 30*time.Second, bad.culprit, func() bool { return strings.Contains(log.String(), bad.culprit) })
	proxy.Lead(r.Address())
	checkNumbers(t, heard, 1, 1)
}

// checkOthersSay expects that whoever asks for something once gets the error.
func checkOthersSay(t *testing.T, fake string, bad badReply) {
	server := func() *Server { return &Server{Addresses: []string{fake}} }
	var asking sync.WaitGroup
	briefly := func(err *error, ask func(context.Context) error) {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			*err = ask(ctx)
		})
	}
	var store, fetch, remove error
	briefly(&store, func(ctx context.Context) error {
		_, err := server().Store(ctx, key, 1, plain([]byte("x")))
		return err
	})
	briefly(&fetch, func(ctx context.Context) error {
		_, err := server().Fetch(ctx, key, io.Discard)
		return err
	})
	briefly(&remove, func(ctx context.Context) error { return server().Remove(ctx, key) })
	asking.Wait()
	_, client := NewClient(t.Context(), server(), "capture", resultChannel)
	withPassword := server()
	withPassword.Password = "secret"
	_, auth := withPassword.dial(t.Context())
	sentinels := &Server{Addresses: []string{fake, fake}, Master: testbed.MasterName}
	_, sentinel := sentinels.dial(t.Context())
	for who, err := range map[string]error{"store": store, "fetch": fetch, "remove": remove,
		"client": client, "AUTH": auth, "sentinel": sentinel} {
		if !mentions(err, bad.culprit) || !mentions(err, fake) {
			t.Errorf("%s: want %q and %s in the error, got %v", who, bad.culprit, fake, err)
		}
	}
}
