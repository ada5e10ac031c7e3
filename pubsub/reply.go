package pubsub

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"time"

	"pcapdaemon/text"
)

// What a reply may be. A server is believed neither a length nor a number of
// elements: redigo takes the memory for both before anything of them has come, and
// calls itself for each array within another one.
const (
	maxLine     = 16 << 10  // bytes of a line, its end included
	maxString   = 512 << 10 // bytes of a string; those of values come in pieces of half of that
	maxReply    = 2 << 20   // bytes of a whole reply
	maxElements = 4096      // elements of a reply, those of arrays within it included
	maxDepth    = 8         // arrays within each other
	// maxSkipped is the longest message whose end is waited for. Servers take no
	// more than 512 MB in one string unless they are told to.
	maxSkipped = 1 << 30
	// skipTimeout is the time for the end of a message that is cut off.
	skipTimeout = 30 * time.Second
)

// Errors of what a server says.
var (
	errNotRedis = errors.New("not a Redis server")
	errReply    = errors.New("answer given up")
)

// A replyReader is a connection to a server from which nothing can be read but
// replies within bounds. The first thing beyond them ends the connection. It is read
// from one goroutine.
type replyReader struct {
	net.Conn
	address string // for errors
	from    *bufio.Reader
	err     error // what ended the reading

	line     []byte // judged and not read yet; memory of from
	body     int64  // bytes of a string that come next
	excess   int64  // bytes after those that nobody reads
	deadline time.Time
	ending   bool // the end of a string comes next

	open     []int // elements that are missing in each array that has begun
	elements int   // of this reply so far
	size     int64 // bytes of this reply so far
	spoken   bool  // the server has answered before

	longest int64   // of messages, in bytes; 0: none are expected
	lengths []int64 // of the messages that were cut off, and not asked for yet
}

// newReplyReader returns a reader of the replies that come from conn.
func newReplyReader(conn net.Conn, address string) *replyReader {
	return &replyReader{Conn: conn, address: address, from: bufio.NewReaderSize(conn, maxLine)}
}

// cutMessages lets messages of a channel be of any length. Of one with more than
// longest bytes longest+1 are read, so that it can be told from others, and
// cutLength returns how many there were.
func (r *replyReader) cutMessages(longest int64) { r.longest = longest }

// cutLength returns the length of the oldest message that was cut off and that it
// was not called for yet.
func (r *replyReader) cutLength() int64 {
	length := r.lengths[0]
	r.lengths = r.lengths[1:]
	return length
}

// Read implements net.Conn.
func (r *replyReader) Read(p []byte) (int, error) {
	for r.err == nil {
		switch {
		case len(r.line) > 0:
			n := copy(p, r.line)
			r.line = r.line[n:]
			return n, nil
		case r.body > 0:
			n, err := r.from.Read(p[:min(int64(len(p)), r.body)])
			r.body -= int64(n)
			return n, err
		}
		r.err = r.next()
	}
	return 0, r.err
}

// next reads and judges what comes after all that was read.
func (r *replyReader) next() error {
	switch {
	case r.excess > 0:
		return r.skip()
	case r.ending:
		return r.endString()
	}
	switch first, err := r.from.Peek(1); {
	case err == io.EOF && !r.spoken:
		return fmt.Errorf("%s: connection closed without an answer: %w", r.address, err)
	case err != nil:
		return err
	case bytes.IndexByte([]byte("+-:$*"), first[0]) < 0:
		return r.stranger()
	}
	line, err := r.from.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull:
		return r.giveUp("a line of more than %d bytes", maxLine)
	case err != nil:
		return err
	case !bytes.HasSuffix(line, []byte("\r\n")):
		return r.stranger()
	}
	r.line = line
	if r.elements++; r.elements > maxElements {
		return r.giveUp("more than %d elements", maxElements)
	}
	if err := r.count(int64(len(line))); err != nil {
		return err
	}
	switch line[0] {
	case '-': // shown to people, who see neither what controls their terminal nor pages of it
		r.line = []byte("-" + text.Printable(string(line[1:len(line)-len("\r\n")])) + "\r\n")
	case '$':
		return r.beginString()
	case '*':
		return r.beginArray()
	}
	r.endElement()
	return nil
}

// count counts bytes of a reply.
func (r *replyReader) count(bytes int64) error {
	if r.size += bytes; r.size > maxReply {
		return r.giveUp("more than %d bytes", maxReply)
	}
	return nil
}

// beginString judges the length of a string.
func (r *replyReader) beginString() error {
	length, err := parseLength(r.line)
	isMessage := len(r.open) == 1 && r.open[0] == 1 && r.elements == 4 // an array and three elements
	switch {
	case err != nil:
		return r.stranger()
	case length < 0:
		r.endElement()
		return nil
	case r.longest > 0 && isMessage && length > r.longest && length <= maxSkipped:
		r.lengths = append(r.lengths, length)
		r.body, r.excess = r.longest+1, length-r.longest-1
		r.line = fmt.Appendf(nil, "$%d\r\n", r.body)
		r.deadline = time.Now().Add(skipTimeout)
	case length > maxString:
		return r.giveUp("a string of %d bytes, more than %d", length, maxString)
	default:
		r.body = length
	}
	r.ending = true
	return r.count(r.body)
}

// skip reads a part of what nobody reads. As long as something comes the connection
// lives, for a while.
func (r *replyReader) skip() error {
	n, err := r.from.Discard(int(min(r.excess, maxLine)))
	r.excess -= int64(n)
	if err != nil {
		return err
	}
	now := time.Now()
	if now.After(r.deadline) {
		return r.giveUp("a message that has not ended within %v", skipTimeout)
	}
	return r.SetReadDeadline(now.Add(pingPeriod + pongMargin))
}

// endString reads the end of a string.
func (r *replyReader) endString() error {
	end, err := r.from.Peek(2)
	if err != nil {
		return err
	}
	if string(end) != "\r\n" {
		return r.giveUp("a string that is longer than announced")
	}
	_, _ = r.from.Discard(2) // are there
	r.line = []byte("\r\n")
	r.ending = false
	r.endElement()
	return nil
}

// beginArray judges the number of elements of an array.
func (r *replyReader) beginArray() error {
	length, err := parseLength(r.line)
	switch {
	case err != nil:
		return r.stranger()
	case length <= 0:
		r.endElement()
	case length > maxElements:
		return r.giveUp("an array of %d elements, more than %d", length, maxElements)
	case len(r.open) == maxDepth:
		return r.giveUp("more than %d arrays within each other", maxDepth)
	default:
		r.open = append(r.open, int(length))
	}
	return nil
}

// endElement takes note that an element has ended, and with it perhaps arrays, and the reply.
func (r *replyReader) endElement() {
	for len(r.open) > 0 {
		last := len(r.open) - 1
		if r.open[last]--; r.open[last] > 0 {
			return
		}
		r.open = r.open[:last]
	}
	r.elements, r.size, r.spoken = 0, 0, true
}

// parseLength returns the length in the line that begins a string or an array; -1 stands for nil.
func parseLength(line []byte) (int64, error) {
	digits := string(line[1 : len(line)-2])
	if digits == "-1" {
		return -1, nil
	}
	length, err := strconv.ParseUint(digits, 10, 63)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt64, nil
	}
	return int64(length), err
}

// giveUp returns an error that says what was wrong with a reply.
func (r *replyReader) giveUp(format string, args ...any) error {
	r.line = nil
	return fmt.Errorf("%s: %w: %s", r.address, errReply, fmt.Sprintf(format, args...))
}

// stranger returns an error that says who answers. What was answered is not quoted:
// some servers repeat what they do not understand, a password for one.
func (r *replyReader) stranger() error {
	r.line = nil
	if r.spoken {
		return r.giveUp("not in the protocol of Redis")
	}
	n := min(r.from.Buffered(), 5)
	begin, _ := r.from.Peek(n)
	hint := ""
	switch {
	case bytes.HasPrefix(begin, []byte("HTTP/")):
		hint = ", it speaks HTTP"
	case bytes.HasPrefix(begin, []byte("SSH-")):
		hint = ", it speaks SSH"
	case bytes.HasPrefix(begin, []byte("\x15\x03")): // an alert (RFC 8446, 6)
		hint = ", or one that wants TLS (rediss://)"
	}
	return fmt.Errorf("%s: %w%s", r.address, errNotRedis, hint)
}
