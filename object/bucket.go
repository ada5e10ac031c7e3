package object

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"pcapdaemon/store"
	"pcapdaemon/text"
	"pcapdaemon/transfer"
)

// A bucket is one of an S3 service.
type bucket struct {
	region string
	keys   *Keys
}

// describe implements server. The checksum of the content is part of what is signed:
// the service refuses a content that has been changed on its way.
func (b *bucket) describe(ctx context.Context, r store.File) (http.Header, error) {
	hash := sha256.New()
	for content := r.Content(); ; {
		if _, err := io.CopyN(hash, content, 4<<20); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, errors.New("stopped")
		}
	}
	header := metadata(r)
	header.Set("X-Amz-Content-Sha256", hex.EncodeToString(hash.Sum(nil)))
	return header, nil
}

// authorize implements server.
func (b *bucket) authorize(r *http.Request) error {
	keys, err := b.keys.get()
	if err != nil {
		return err
	}
	signer.SignV4(*r, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, b.region)
	return nil
}

// Error codes of S3 whose statuses do not say what they mean for further tries.
var (
	againCodes = []string{"RequestTimeout", "ExpiredToken", "OperationAborted", "ConditionalRequestConflict"}
	keyCodes   = []string{"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "AccessDenied"}
)

// reason implements server.
func (b *bucket) reason(a transfer.Answer) (string, bool) {
	var said struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if xml.Unmarshal(a.Body, &said) != nil || said.Code == "" {
		return a.Reason(b.redact), false
	}
	if slices.Contains(keyCodes, said.Code) {
		b.keys.forget() // a file or a role may hold others by now
	}
	words := said.Code
	if said.Message != "" {
		words += ": " + said.Message
	}
	words = text.Printable(b.redact(words))
	if said.Code == "RequestTimeTooSkewed" {
		words += clockDifference(a.Header.Get("Date"))
	}
	return words, slices.Contains(againCodes, said.Code)
}

// clockDifference says how far the clock of this host is from the one that wrote a date.
func clockDifference(date string) string {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return "; the clock of this host is wrong"
	}
	difference, direction := time.Since(theirs).Round(time.Second), "ahead of"
	if difference < 0 {
		difference, direction = -difference, "behind"
	}
	return fmt.Sprintf("; the clock of this host is %s %s the server's", text.FormatDuration(difference), direction)
}

// redact implements server.
func (b *bucket) redact(said string) string {
	return transfer.Redact(said, "<secret>", b.keys.secrets()...)
}
