package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"pcapdaemon/pubsub"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"golang.org/x/sys/unix"
)

const (
	// calm is how long a client waits for hosts that do not answer.
	calm = 3 * time.Second
	// gathering is the least time given to all hosts to start, so that a short
	// capture on one of them does not end the wait for another one.
	gathering = time.Second
	// lateness is what a capture's last result may take beyond its timeout and its delivery.
	lateness = 10 * time.Second
)

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

// A following is a published request whose results are awaited.
type following struct {
	id        string
	published time.Time
	answered  time.Time            // newest answer, or published
	running   map[string]time.Time // capture by node and interface, with its start
	lasting   time.Duration        // for one capture, from start to last result
	done, bad int                  // final results
	out       io.Writer
	live      bool // out is a terminal
}

// take notes and prints a result if it belongs to the request.
func (f *following) take(message []byte) {
	r, err := decodeResult(message)
	if err != nil || r.ID != f.id {
		return
	}
	f.answered = time.Now()
	capture := r.Node + " " + r.Interface
	switch r.State {
	case stateStarted:
		f.running[capture] = f.answered
	case stateDone:
		f.done++
		delete(f.running, capture)
	default:
		f.bad++
		delete(f.running, capture)
	}
	if f.live {
		fmt.Fprintf(f.out, "\r\x1b[K%s\n", r.describe())
	} else {
		fmt.Fprintf(f.out, "%s\n", message)
	}
}

// over tells whether no more results are to be expected.
func (f *following) over(now time.Time) bool {
	if len(f.running) > 0 {
		return now.Sub(f.answered) > f.lasting
	}
	if f.done == 0 {
		return now.Sub(f.answered) >= calm
	}
	return now.Sub(f.published) >= gathering
}

// show draws the captures in progress on the last line of a terminal.
func (f *following) show(now time.Time) {
	if !f.live {
		return
	}
	var captures []string
	for capture, since := range f.running {
		captures = append(captures, fmt.Sprintf("%s %ds", printable(capture), int(now.Sub(since).Seconds())))
	}
	slices.Sort(captures)
	line := ""
	if len(captures) > 0 {
		line = fmt.Sprintf("%d capturing: %s", len(captures), strings.Join(captures, ", "))
	}
	if width := terminalWidth(f.out); width > 0 && len(line) >= width { // a wrapped line cannot be redrawn
		line = line[:width-1]
	}
	fmt.Fprintf(f.out, "\r\x1b[K%s", line)
}

// follow is -publish: it publishes a request, prints the results and returns the exit code.
func follow(ctx context.Context, c config, stdin io.Reader, stdout, stderr io.Writer) int {
	f, err := publishAndFollow(ctx, c, stdin, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon:", err)
		return exitFailed
	}
	if f.done == 0 || f.bad > 0 || len(f.running) > 0 {
		return exitFailed
	}
	return exitOK
}

// publishAndFollow publishes a request and waits for the last of its results.
func publishAndFollow(ctx context.Context, c config, stdin io.Reader, stdout, stderr io.Writer) (*following, error) {
	text, err := readRequest(c.request, stdin)
	if err != nil {
		return nil, fmt.Errorf("-publish: %w", err)
	}
	message, id, err := identify(text)
	if err != nil {
		return nil, fmt.Errorf("-publish takes a JSON object: %w", err)
	}
	client, err := pubsub.NewClient(ctx, c.redis.server, c.redis.requests, c.redis.results)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", c.redis.server, err)
	}
	defer client.Close()
	listeners, err := client.Publish(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", c.redis.server, err)
	}
	fmt.Fprintf(stderr, "request %s: %d %s on %s\n", printable(id), listeners, english.PluralWord(listeners, "host listens", "hosts listen"), c.redis.requests)
	now := time.Now()
	f := &following{id: id, published: now, answered: now, running: map[string]time.Time{},
		lasting: c.limits.timeout + c.delivery.shark.timeout + lateness, out: stdout, live: terminalWidth(stdout) > 0}
	if listeners == 0 {
		return f, nil
	}
	ticker := time.NewTicker(gathering / 10)
	defer ticker.Stop()
	for !f.over(time.Now()) {
		select {
		case message := <-client.Answers():
			f.take(message)
		case now := <-ticker.C:
			f.show(now)
		case err := <-client.Changes():
			if err != nil {
				fmt.Fprintf(stderr, "redis %s: %v; trying again\n", c.redis.server, err)
			}
		case <-ctx.Done():
			return f, errors.New("stopped; captures go on")
		}
	}
	for capture := range f.running {
		fmt.Fprintf(stderr, "%s: no result\n", printable(capture))
	}
	if f.done+f.bad == 0 {
		fmt.Fprintln(stderr, "no host answered")
	}
	return f, nil
}

// identify returns a request that has an id, and the id.
func identify(text []byte) (message []byte, id string, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, "", err
	}
	if fields == nil {
		return nil, "", errors.New("not null")
	}
	if id, err = decodeText(fields["id"]); err != nil || utf8.RuneCountInString(id) > maxID {
		return nil, "", fmt.Errorf("id takes a string of at most %d characters", maxID)
	}
	if id != "" {
		return text, id, nil
	}
	id = rand.Text()
	fields["id"] = json.RawMessage(`"` + id + `"`)
	message, err = json.Marshal(fields)
	return message, id, err
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
