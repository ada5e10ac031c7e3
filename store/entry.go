package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
)

// A entry is a capture in the spool: a file of its own, and a metadata file beside
// it with what else its upload needs.
type entry struct {
	metadata
	file    string // name in the spool
	next    time.Time
	backoff *backoff.ExponentialBackOff
	busy    bool // somebody has it in hand
	whole   bool // the capture has been seen to be as it was kept
	// clear takes the entry out of the spool; nil until it is settled.
	clear func() error
}

// A metadata is what there is to say about a capture that waits.
type metadata struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"` // of the file, for CloudShark
	Tags     []string  `json:"tags"`
	Comments string    `json:"comments"`
	Since    time.Time `json:"since"`
	Size     int64     `json:"size"`
	Checksum uint32    `json:"crc32c"`            // of the capture
	File     string    `json:"file,omitempty"`    // path where it is as well
	Problem  string    `json:"problem,omitempty"` // of writing it there
	Note     []byte    `json:"note,omitempty"`    // of whoever made the capture file
}

// older reports whether an entry has waited longer than another one.
func (p *entry) older(other *entry) bool {
	return cmp.Or(p.Since.Compare(other.Since), strings.Compare(p.file, other.file)) < 0
}

// problem returns what went wrong at the other destination, or nil.
func (p *entry) problem() error {
	if p.Problem == "" {
		return nil
	}
	return errors.New(p.Problem)
}

// bytes returns what the entry takes of the spool.
func (p *entry) bytes() int64 { return p.Size + int64(len(p.encode())) }

// errDamaged is what an entry is that cannot be uploaded as it was kept.
var errDamaged = errors.New("damaged")

// maxMetadata is how long metadata may be, in bytes: 20,000 requests that share
// a capture, with the longest texts that they may have, take less.
const maxMetadata = 256 << 20

// maxSize is more than any capture has, in bytes, and no more than can be added up.
const maxSize = 1 << 50

// openRegular opens a file that is neither a link nor a pipe nor a device, on
// which a read might wait for ever or never end, and returns its size. Anything
// else is damaged.
func openRegular(path string) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, errDamaged
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errDamaged
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// checksums is the polynomial that processors know.
var checksums = crc32.MakeTable(crc32.Castagnoli)

// newEntry returns what a capture file becomes in the spool.
func newEntry(r File, place Place, problem error) (*entry, error) {
	p := &entry{backoff: newEntryBackOff(), metadata: metadata{
		ID: r.ID, Name: r.Name, Tags: r.Tags, Comments: r.Comments, Note: r.Note,
		Since: time.Now().UTC(), Size: r.Size, File: place.File}}
	if problem != nil {
		p.Problem = problem.Error()
	}
	var err error
	p.Checksum, err = checksum(r.Content())
	return p, err
}

// longestWait is the longest wait between two uploads, whatever the server asks for.
const longestWait = 5 * time.Minute

// newEntryBackOff returns the waits between the uploads of one entry.
func newEntryBackOff() *backoff.ExponentialBackOff {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval = 5 * time.Second
	waits.Multiplier = 2
	waits.MaxInterval = 200 * time.Second // with half as much at random, five minutes
	return waits
}

// checksum reads content to its end.
func checksum(content io.Reader) (uint32, error) {
	sum := crc32.New(checksums)
	_, err := io.Copy(sum, content)
	return sum.Sum32(), err
}

// encode returns the metadata as a line of JSON, and a line that shows whether it is damaged.
func (w metadata) encode() []byte {
	line, err := json.Marshal(w)
	if err != nil {
		panic(err) // no field of a metadata file can fail to encode
	}
	return fmt.Appendf(line, "\n%08x\n", crc32.Checksum(line, checksums))
}

// readEntry reads a metadata file.
func readEntry(path string) (*entry, error) {
	file, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > maxMetadata {
		return nil, errDamaged
	}
	text, err := io.ReadAll(io.LimitReader(file, maxMetadata))
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	if string(rest) != fmt.Sprintf("%08x\n", crc32.Checksum(line, checksums)) {
		return nil, errDamaged
	}
	p := &entry{backoff: newEntryBackOff()}
	if err := json.Unmarshal(line, &p.metadata); err != nil || p.Size < 0 || p.Size > maxSize {
		return nil, errDamaged // of another version, perhaps
	}
	return p, nil
}

// open opens the capture and sees that it is as it was kept.
func (p *entry) open(path string) (*os.File, error) {
	file, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	if size != p.Size {
		file.Close()
		return nil, errDamaged
	}
	if !p.whole { // once is enough: it may be large, and tried often
		sum, err := checksum(io.LimitReader(file, p.Size+1))
		if err == nil && sum != p.Checksum {
			err = errDamaged
		}
		if err != nil {
			file.Close()
			return nil, err
		}
		p.whole = true
	}
	return file, nil
}

// capture returns the capture file that the entry was made of.
func (p *entry) capture(file *os.File) File {
	return File{ID: p.ID, Name: p.Name, Size: p.Size, Tags: p.Tags, Comments: p.Comments, Note: p.Note,
		Content: func() io.Reader { return io.NewSectionReader(file, 0, p.Size) }}
}
