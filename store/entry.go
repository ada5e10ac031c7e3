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
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	if string(rest) != fmt.Sprintf("%08x\n", crc32.Checksum(line, checksums)) {
		return nil, errDamaged
	}
	p := &entry{backoff: newEntryBackOff()}
	if err := json.Unmarshal(line, &p.metadata); err != nil {
		return nil, errDamaged // of another version, perhaps
	}
	return p, nil
}

// open opens the capture and sees that it is as it was kept.
func (p *entry) open(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
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
