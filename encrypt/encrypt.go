// Package encrypt makes age files (age-encryption.org/v1) of capture files, and opens
// them. The key of a file is made once, so that its content can be read several times
// and is the same each time, without a copy of it in memory.
package encrypt

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/chacha20poly1305"

	"pcapdaemon/text"
)

// Extension is what the names of encrypted files end in.
const Extension = ".age"

// Sizes of an age file, in bytes: what is encrypted at a time, what that grows by, and
// the nonce behind the header.
const (
	chunkSize = 64 << 10
	tagSize   = chacha20poly1305.Overhead
	nonceSize = 16
)

// Recipients are those who can open a file, each alone. A nil value encrypts nothing.
type Recipients struct {
	all  []age.Recipient
	head int64 // bytes before the first chunk
}

// ParseRecipients reads a list of recipients, separated by commas: public keys of age
// (age1…) or of ssh (ssh-ed25519 …, ssh-rsa …).
func ParseRecipients(list string) (*Recipients, error) {
	r := &Recipients{}
	for _, word := range strings.Split(list, ",") {
		one, err := parseRecipient(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		r.all = append(r.all, one)
	}
	f, err := r.NewFile()
	if err != nil {
		return nil, err
	}
	r.head = int64(len(f.head))
	return r, nil
}

// parseRecipient reads one public key.
func parseRecipient(word string) (age.Recipient, error) {
	if strings.HasPrefix(word, "AGE-SECRET-KEY-") {
		return nil, errors.New("a secret key is no recipient: age-keygen -y prints its public key")
	}
	if strings.HasPrefix(word, "ssh-") {
		one, err := agessh.ParseRecipient(word)
		if err != nil {
			return nil, fmt.Errorf("%s is no ssh public key that age takes", text.Quote(word))
		}
		return one, nil
	}
	parsed, err := age.ParseRecipients(strings.NewReader(word))
	if err != nil || len(parsed) != 1 {
		return nil, fmt.Errorf("%s is no public key of age or ssh", text.Quote(word))
	}
	return parsed[0], nil
}

// Size returns how long a file of so many bytes is when it is encrypted.
func (r *Recipients) Size(plain int64) int64 {
	if r == nil {
		return plain
	}
	chunks := max(1, (plain+chunkSize-1)/chunkSize)
	return r.head + plain + chunks*tagSize
}

// Fit returns how long a file may be that has at most so many bytes when it is
// encrypted; less than 0 if there is none.
func (r *Recipients) Fit(size int64) int64 {
	if r == nil {
		return size
	}
	full, rest := (size-r.head)/(chunkSize+tagSize), (size-r.head)%(chunkSize+tagSize)
	if full > 0 {
		rest = max(rest, tagSize) // a chunk of nothing is none
	}
	return full*chunkSize + rest - tagSize
}

// A File is what makes an encrypted file of one plain file: never of two, whose
// content would be given away.
type File struct {
	head []byte // header and nonce
	aead cipher.AEAD
}

// NewFile makes the key of a file, and its header for all recipients.
func (r *Recipients) NewFile() (*File, error) {
	first := &listener{Recipient: r.all[0]}
	all := slices.Concat([]age.Recipient{first}, r.all[1:])
	var empty bytes.Buffer
	w, err := age.Encrypt(&empty, all...)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	head, end := empty.Bytes()[:empty.Len()-tagSize], empty.Bytes()[empty.Len()-tagSize:]
	key, err := hkdf.Key(sha256.New, first.key, head[len(head)-nonceSize:], "payload", chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if !bytes.Equal(end, aead.Seal(nil, chunkNonce(0, true), nil, nil)) {
		return nil, errors.New("encrypt: the library encrypts otherwise than version 1 of age")
	}
	return &File{head, aead}, nil
}

// A listener is a recipient that remembers the key of the file, which the library
// makes anew for each reader and shows to recipients alone.
type listener struct {
	age.Recipient
	key []byte
}

// Wrap implements age.Recipient.
func (l *listener) Wrap(key []byte) ([]*age.Stanza, error) {
	stanzas, _, err := l.WrapWithLabels(key)
	return stanzas, err
}

// WrapWithLabels implements age.RecipientWithLabels.
func (l *listener) WrapWithLabels(key []byte) ([]*age.Stanza, []string, error) {
	l.key = slices.Clone(key)
	if labelled, ok := l.Recipient.(age.RecipientWithLabels); ok {
		return labelled.WrapWithLabels(key)
	}
	stanzas, err := l.Recipient.Wrap(key)
	return stanzas, nil, err
}

// chunkNonce returns the nonce of a chunk: its number, and whether it is the last one.
func chunkNonce(number uint64, last bool) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(nonce[3:], number)
	if last {
		nonce[len(nonce)-1] = 1
	}
	return nonce
}

// Reader returns the encrypted content of a plain file of so many bytes.
func (f *File) Reader(plain io.Reader, size int64) io.Reader {
	return io.MultiReader(bytes.NewReader(f.head), &chunks{aead: f.aead, plain: plain, missing: size})
}

// A chunks reads a plain file encrypted, chunk by chunk.
type chunks struct {
	aead    cipher.AEAD
	plain   io.Reader
	missing int64 // bytes that were not read of it
	number  uint64
	ended   bool // the last chunk is ready
	room    []byte
	ready   []byte // of the room
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	if len(c.ready) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// next encrypts the next chunk.
func (c *chunks) next() error {
	size := min(c.missing, chunkSize)
	if c.room == nil {
		c.room = make([]byte, size+tagSize)
	}
	if _, err := io.ReadFull(c.plain, c.room[:size]); err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	c.missing -= size
	c.ended = c.missing == 0
	c.ready = c.aead.Seal(c.room[:0], chunkNonce(c.number, c.ended), c.room[:size], nil)
	c.number++
	return nil
}
