package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"pcapdaemon/pubsub"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"golang.org/x/sys/unix"
)

// glance is how often a client looks at the clock.
const glance = 100 * time.Millisecond

// maxSeconds is the longest timeout that any host can be set to grant: a year.
const maxSeconds = 365 * 24 * 60 * 60

// A question is a request as its asker publishes it.
type question struct {
	message []byte
	id      string // of the results
	request request
}

// newQuestion judges a request and gives it an id, if it has none.
func newQuestion(text []byte) (question, error) {
	r, err := checkRequest(text)
	if err != nil {
		return question{}, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return question{}, err
	}
	q := question{message: text, request: r}
	if q.id, err = decodeText(fields["id"]); err != nil || q.id != "" {
		return q, err
	}
	q.id = rand.Text()
	fields["id"] = json.RawMessage(`"` + q.id + `"`)
	q.message, err = json.Marshal(fields)
	return q, err
}

// lasting returns what one capture takes at most, from its start to its last
// result: what was asked for, and where nothing was, what this client's own flags say of hosts.
func (q question) lasting(c config) time.Duration {
	timeout := c.limits.timeout
	if q.request.Timeout > 0 {
		timeout = time.Duration(min(q.request.Timeout, maxSeconds)) * time.Second
	}
	return timeout + c.delivery.shark.timeout + lateness
}

// An exchange is where a client asks and hears the answers.
type exchange interface {
	// Publish publishes a request and returns how many listen.
	Publish(ctx context.Context, request []byte) (listeners int, err error)
	// Answers returns what anybody answers to anything.
	Answers() <-chan []byte
	// Changes returns why nothing can be heard for the time being, and nil when it can again.
	Changes() <-chan error
}

// A client asks, and tells what it hears.
type client struct {
	exchange exchange
	channel  string // for people
	lasting  time.Duration
	out      io.Writer
	err      io.Writer
	live     bool // out is a terminal
}

// follow is -publish: it publishes a request, prints the results and returns the exit code.
func follow(ctx context.Context, c config, stdin io.Reader, stdout, stderr io.Writer) int {
	text, err := readRequest(c.request, stdin)
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon: -publish:", err)
		return exitFailed
	}
	q, err := newQuestion(text)
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon: -publish:", err)
		return exitUsage
	}
	server, err := pubsub.NewClient(ctx, c.redis.server, c.redis.requests, c.redis.results)
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: redis %s: %v\n", c.redis.server, err)
		return exitFailed
	}
	defer server.Close()
	asker := &client{exchange: server, channel: c.redis.requests, lasting: q.lasting(c),
		out: stdout, err: stderr, live: terminalWidth(stdout) > 0}
	code, err := asker.ask(ctx, q)
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: redis %s: %v\n", c.redis.server, err)
	}
	return code
}

// ask publishes a request, tells the results until the last one and returns
// the exit code. An error means that Redis does not take the request.
func (c *client) ask(ctx context.Context, q question) (int, error) {
	listeners, err := c.exchange.Publish(ctx, q.message)
	if err != nil {
		return exitFailed, err
	}
	fmt.Fprintf(c.err, "request %s: %d %s on %s\n", printable(q.id), listeners,
		english.PluralWord(listeners, "host listens", "hosts listen"), c.channel)
	f := newFollowing(q, listeners, c.lasting, time.Now())
	if !c.hear(ctx, f) {
		fmt.Fprintln(c.err, "stopped; captures go on")
		return exitFailed, nil
	}
	for _, t := range f.silent() {
		fmt.Fprintf(c.err, "%s %s: no result\n", printable(t.Node), printable(t.Interface))
	}
	code := f.exitCode()
	if code == exitNobody {
		fmt.Fprintln(c.err, "no host answered")
	}
	return code, nil
}

// hear takes what comes until nothing more is to be expected; false means
// that the context has ended before.
func (c *client) hear(ctx context.Context, f *following) bool {
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	for len(c.exchange.Answers()) > 0 || !f.over(time.Now()) {
		select {
		case message := <-c.exchange.Answers():
			if r, err := decodeResult(message); err == nil && f.take(r, time.Now()) {
				c.tell(r, message)
			}
		case now := <-ticker.C:
			c.show(f, now)
		case err := <-c.exchange.Changes():
			if err == nil {
				f.regain(time.Now())
				continue
			}
			f.lose(time.Now())
			fmt.Fprintf(c.err, "nothing is heard for the time being: %v\n", err)
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// tell prints a result.
func (c *client) tell(r result, message []byte) {
	if c.live {
		fmt.Fprintf(c.out, "\r\x1b[K%s\n", r.describe())
	} else {
		var line bytes.Buffer
		_ = json.Compact(&line, message) // has been decoded
		fmt.Fprintf(c.out, "%s\n", line.Bytes())
	}
}

// show draws the captures in progress on the last line of a terminal.
func (c *client) show(f *following, now time.Time) {
	if !c.live {
		return
	}
	var captures []string
	for _, t := range f.silent() {
		captures = append(captures, fmt.Sprintf("%s %s %ds", printable(t.Node), printable(t.Interface),
			int(now.Sub(time.Time(t.Started)).Seconds())))
	}
	line := ""
	if len(captures) > 0 {
		line = fmt.Sprintf("%d capturing: %s", len(captures), strings.Join(captures, ", "))
	}
	if width := terminalWidth(c.out); width > 0 && len(line) >= width { // a wrapped line cannot be redrawn
		line = line[:width-1]
	}
	fmt.Fprintf(c.out, "\r\x1b[K%s", line)
}

// describe returns a result in a line for people.
func (r result) describe() string {
	words := []string{r.Node, r.Interface, r.State}
	if r.Stop != "" {
		words = append(words, fmt.Sprintf("%d packets, %s, %d dropped, stopped by %s",
			r.Packets, humanize.Bytes(uint64(max(r.Bytes, 0))), r.Dropped, r.Stop))
	}
	words = append(words, r.URL, r.File, r.Error)
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	return printable(strings.Join(words, "  "))
}

// terminalWidth returns the columns of a terminal, or 0 for anything else.
func terminalWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80
	}
	return int(size.Col)
}
