package encrypt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// maxIdentities is how long a file of identities may be, in bytes.
const maxIdentities = 1 << 20

// Identities open what was encrypted for one of them.
type Identities struct{ all []age.Identity }

// ReadIdentities reads a file that age-keygen has made, or an ssh private key without
// passphrase. The error does not name the file, and shows nothing of it.
func ReadIdentities(path string) (*Identities, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxIdentities))
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN")) {
		one, err := agessh.ParseIdentity(content)
		if err != nil {
			return nil, errors.New("no ssh private key without passphrase that age takes")
		}
		return &Identities{[]age.Identity{one}}, nil
	}
	all, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, errors.New("no identities as age-keygen makes them")
	}
	return &Identities{all}, nil
}

// IsEncrypted reports whether a file begins as those do that are encrypted.
func IsEncrypted(head []byte) bool { return bytes.HasPrefix(head, []byte("age-encryption.org/v1\n")) }

// Open returns the plain content of an encrypted file, all of it or an error.
func (i *Identities) Open(encrypted io.Reader) (io.Reader, error) {
	plain, err := age.Decrypt(encrypted, i.all...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return plain, nil
}
