package object

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"pcapdaemon/transfer"
)

// keysTime is how long a service that gives out keys may take for one answer.
const keysTime = 3 * time.Second

// maxKeys is how much of such an answer is read, in bytes.
const maxKeys = 1 << 20

// Keys are what a bucket knows us by. Those of a role are renewed before they end.
type Keys struct {
	found *credentials.Credentials

	mu   sync.Mutex
	last credentials.Value
}

// FindKeys finds the keys for a bucket where every S3 client does: AWS_ variables, the
// shared credentials file, then the role of the instance, container or pod. The error
// names where there are none. It blocks for some seconds at most.
func FindKeys(cas *x509.CertPool) (*Keys, error) {
	k := &Keys{found: credentials.New(&chain{client: newKeysClient(cas)})}
	_, err := k.get()
	return k, err
}

// newKeysClient returns the client for services that give out keys. Those of an
// instance are here, and never behind a proxy.
func newKeysClient(cas *x509.CertPool) *http.Client {
	transport := transfer.NewClient(cas, false, transfer.NewStallTimeouts(keysTime))
	transport.Proxy = func(r *http.Request) (proxy *url.URL, err error) {
		if r.URL.Scheme == "http" {
			return nil, nil
		}
		return http.ProxyFromEnvironment(r)
	}
	return &http.Client{Transport: bounded{transport}, Timeout: keysTime}
}

// bounded is a transport whose answers are cut when they are too long.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxKeys), response.Body}
	}
	return response, err
}

// get returns keys that are valid now.
func (k *Keys) get() (credentials.Value, error) {
	keys, err := k.found.GetWithContext(&credentials.CredContext{})
	if err != nil {
		return credentials.Value{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = keys
	return keys, nil
}

// forget lets the keys be looked for again when they are needed next.
func (k *Keys) forget() { k.found.Expire() }

// secrets returns what no error may show.
func (k *Keys) secrets() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return []string{k.last.AccessKeyID, k.last.SecretAccessKey, k.last.SessionToken}
}

// A chain finds keys in several places, in order. Unlike the library's own, it says
// why there are none.
type chain struct {
	client *http.Client
	source credentials.Provider // of the newest keys
}

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.source == nil || c.source.IsExpired() }

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	var nowhere []string
	for _, place := range c.places() {
		keys, err := place.RetrieveWithCredContext(&credentials.CredContext{Client: c.client})
		if err == nil && keys.AccessKeyID != "" && keys.SecretAccessKey != "" {
			c.source = place
			return keys, nil
		}
		if err == nil {
			err = errors.New("a key or its secret is missing")
		}
		nowhere = append(nowhere, fmt.Sprintf("%s: %v", place.name, err))
	}
	return credentials.Value{}, fmt.Errorf("no keys found: %s", strings.Join(nowhere, "; "))
}

// A place is where keys may be.
type place struct {
	name string
	credentials.Provider
}

// places returns where keys are looked for.
func (c *chain) places() []place {
	file := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if file == "" {
		home, _ := os.UserHomeDir()
		file = filepath.Join(home, ".aws", "credentials")
	}
	places := []place{
		{"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", &credentials.EnvAWS{}},
		{fmt.Sprintf("%s, profile %s", file, cmp.Or(os.Getenv("AWS_PROFILE"), "default")),
			&credentials.FileAWSCredentials{Filename: file}},
	}
	if !strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		places = append(places, place{"role of the instance", &credentials.IAM{Client: c.client}})
	}
	return places
}
