package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// An entry is a capture in the spool: a file of its own, and a metadata file beside
// it with what else its uploads need.
type entry struct {
	mu sync.Mutex // held while the entry is being changed, on the disk too
	metadata
	whole bool         // the capture has been seen to be as it was kept
	clear func() error // takes the entry out of the spool; nil until it is settled

	file  string // name in the spool
	bytes int64  // of both files, under the lock of the spool
	// retries are what is to come, by the names of the destinations that are to get
	// the capture, under the lock of the spool.
	retries map[string]*retry
}

// A retry says when an entry may be brought to a destination.
type retry struct {
	next    time.Time
	backoff *backoff.ExponentialBackOff
	busy    bool // that is being tried, or has an answer
}

// A metadata is what there is to say about a capture that waits.
type metadata struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"` // of the file, for its destinations
	Tags     []string  `json:"tags"`
	Labels   []Label   `json:"labels,omitempty"`
	Comments string    `json:"comments"`
	Since    time.Time `json:"since"`
	Size     int64     `json:"size"`
	Checksum uint32    `json:"crc32c"`         // of the capture
	Note     []byte    `json:"note,omitempty"` // of whoever made the capture file
	fate
}

// A fate is what has become of a capture file so far, and what is to come.
type fate struct {
	File    string   `json:"file,omitempty"` // path in the archive
	URL     string   `json:"url,omitempty"`
	Stored  string   `json:"stored,omitempty"`
	Problem string   `json:"problem,omitempty"` // what has gone wrong for good
	Refused bool     `json:"refused,omitempty"` // by a remote destination
	Pending []string `json:"pending,omitempty"` // names of the destinations that are to get it
}

// firstDestination is who is to get the capture if the metadata does not say it:
// there was no other one once.
const firstDestination = "cloudshark"

// take notes what a remote destination has answered, if that was for good.
func (f *fate) take(a answer) {
	if !a.isFinal() || !slices.Contains(f.Pending, a.name) {
		return
	}
	f.Pending = slices.DeleteFunc(slices.Clone(f.Pending), func(name string) bool { return name == a.name })
	if a.err != nil {
		f.Refused = true
		f.fail(a.err)
		return
	}
	place := f.place()
	place.add(a.place.URL, a.first)
	f.URL, f.Stored = place.URL, place.Stored
}

// takeLocal notes what has become of the file in the archive.
func (f *fate) takeLocal(place Place, err error) {
	f.File = place.File
	f.fail(err)
}

// fail notes what has gone wrong for good, unless that is nil.
func (f *fate) fail(err error) {
	if err != nil {
		f.Problem = strings.TrimPrefix(f.Problem+"\n"+err.Error(), "\n")
	}
}

// place returns where the file is.
func (f *fate) place() Place { return Place{File: f.File, URL: f.URL, Stored: f.Stored} }

// problem returns what has gone wrong for good, or nil.
func (f *fate) problem() error {
	if f.Problem == "" {
		return nil
	}
	return errors.New(f.Problem)
}

// older reports whether an entry has waited longer than another one.
func (p *entry) older(other *entry) bool {
	return cmp.Or(p.Since.Compare(other.Since), strings.Compare(p.file, other.file)) < 0
}

// errDamaged is what an entry is that cannot be uploaded as it was kept.
var errDamaged = errors.New("damaged")

const (
	// maxMetadata is how long metadata may be, in bytes: 20,000 requests that share
	// a capture take less, unless all of them have very long texts.
	maxMetadata = 64 << 20
	// maxSize is more than any capture has, in bytes, and no more than can be added up.
	maxSize = 1 << 50
)

// checksums is the polynomial that processors know.
var checksums = crc32.MakeTable(crc32.Castagnoli)

// newEntry returns what a capture file becomes in the spool.
func newEntry(r File, so fate) (*entry, error) {
	p := &entry{metadata: metadata{ID: r.ID, Name: r.Name, Tags: r.Tags, Labels: r.Labels, Comments: r.Comments,
		Note: r.Note, Since: time.Now().UTC(), Size: r.Size, fate: so}}
	var err error
	p.Checksum, err = checksum(r.Content())
	text := len(p.encode())
	if text > maxMetadata { // then nobody is told of the end, but nothing is lost
		p.Note = nil
		text = len(p.encode())
	}
	p.bytes = p.Size + int64(text)
	p.plan()
	return p, err
}

// plan lets the entry be brought at once to all destinations that are to get it.
func (p *entry) plan() {
	p.retries = map[string]*retry{}
	for _, name := range p.Pending {
		p.retries[name] = &retry{backoff: newBackOff()}
	}
}

// longestWait is the longest wait between two uploads, whatever the server asks for.
const longestWait = 5 * time.Minute

// newBackOff returns the waits between the uploads of one entry to one destination.
func newBackOff() *backoff.ExponentialBackOff {
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

// checkLength is the length of what follows the JSON in a metadata file, in bytes.
const checkLength = int64(len("\n01234567\n"))

// readEntry reads a metadata file of some bytes. What is damaged is not kept in memory.
func readEntry(file *os.File, size int64) (*entry, error) {
	length := size - checkLength
	if length < 0 || size > maxMetadata {
		return nil, errDamaged
	}
	line := io.NewSectionReader(file, 0, length)
	sum, err := checksum(line)
	if err != nil {
		return nil, err
	}
	check := make([]byte, checkLength)
	if _, err := file.ReadAt(check, length); err != nil {
		return nil, err
	}
	if string(check) != fmt.Sprintf("\n%08x\n", sum) {
		return nil, errDamaged
	}
	text := make([]byte, length)
	if _, err := line.ReadAt(text, 0); err != nil {
		return nil, err
	}
	p := &entry{bytes: size}
	if err := json.Unmarshal(text, &p.metadata); err != nil || !p.isValid() {
		return nil, errDamaged // of another version, perhaps
	}
	if p.Pending == nil {
		p.Pending = []string{firstDestination}
	}
	p.plan()
	return p, nil
}

// isValid reports whether a capture can have this name, which may become that of a
// file elsewhere, and this size.
func (m metadata) isValid() bool {
	named := m.Name != "" && m.Name != "." && m.Name != ".." && m.Name == PlainName(m.Name)
	return named && m.Size >= 0 && m.Size <= maxSize
}

// open opens the capture and checks that it is as it was kept, unless the context ends.
func (p *entry) open(ctx context.Context, path string) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	file, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	if err := p.check(ctx, file, size); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// check returns errDamaged unless the capture is as it was kept. It is read only
// once for that: it may be large, and tried often.
func (p *entry) check(ctx context.Context, file *os.File, size int64) error {
	if size != p.Size {
		return errDamaged
	}
	if p.whole {
		return nil
	}
	sum, err := checksum(contextReader{ctx, io.NewSectionReader(file, 0, p.Size)})
	if err == nil && sum != p.Checksum {
		err = errDamaged
	}
	p.whole = err == nil
	return err
}

// A contextReader reads until its context ends.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// capture returns the capture file that the entry was made of.
func (p *entry) capture(file *os.File) File {
	return File{ID: p.ID, Name: p.Name, Size: p.Size, Tags: p.Tags, Labels: p.Labels, Comments: p.Comments, Note: p.Note,
		Content: func() io.Reader { return io.NewSectionReader(file, 0, p.Size) }}
}
