// Package object stores capture files as objects: by HTTP PUT at a web server, or
// in a bucket of an S3 service. Each is a store.Destination. It is apart from
// package store, which knows the host's own disk and Redis, and no HTTP.
package object

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"pcapdaemon/text"
)

// An Address is where capture files are stored.
type Address struct {
	// directory is where objects are put: https://host/dir/, or endpoint/bucket/prefix/.
	directory *url.URL // without user and password
	// shown is the same for people: s3://bucket/prefix/ for a bucket.
	shown  string
	user   *url.Userinfo // of a web server; nil: none
	bucket string        // empty: a web server
	region string        // of the bucket
}

// errAddress says what an address is.
var errAddress = errors.New("takes https://host/dir/, http://host/dir/, or s3://bucket/prefix")

// ParseAddress reads an address as -storeurl takes it. Errors say what it takes, and
// quote nothing that may be a secret.
func ParseAddress(address string) (Address, error) {
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" {
		return Address{}, errAddress
	}
	switch u.Scheme {
	case "http", "https":
		return parseWeb(u)
	case "s3":
		return parseBucket(u)
	case "":
		return Address{}, errAddress
	}
	return Address{}, fmt.Errorf("%w, not %s://", errAddress, u.Scheme)
}

// parseWeb reads the address of a directory of a web server.
func parseWeb(u *url.URL) (Address, error) {
	switch {
	case u.Hostname() == "":
		return Address{}, fmt.Errorf("%w: there is no host", errAddress)
	case !hasPort(u):
		return Address{}, fmt.Errorf("%w: the port is out of range", errAddress)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return Address{}, fmt.Errorf("%w: nothing may stand behind the directory", errAddress)
	}
	a := Address{user: u.User, directory: &url.URL{Scheme: u.Scheme, Host: u.Host}}
	a.directory = a.directory.JoinPath(u.EscapedPath(), "/")
	a.shown = a.directory.String()
	return a, nil
}

// parseBucket reads the address of a bucket.
func parseBucket(u *url.URL) (Address, error) {
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil || u.Fragment != "":
		return Address{}, errors.New("takes s3://bucket/prefix?endpoint=https://host&region=name")
	case u.User != nil:
		return Address{}, errors.New("takes no user or password for a bucket: keys are taken from AWS_ACCESS_KEY_ID and " +
			"AWS_SECRET_ACCESS_KEY, the shared credentials file, or the role of the instance")
	case u.Host == "":
		return Address{}, errors.New("takes s3://bucket/prefix: there is no bucket")
	}
	for name, values := range query {
		switch {
		case !slices.Contains([]string{"endpoint", "region"}, name):
			return Address{}, fmt.Errorf("takes endpoint and region behind a bucket, not %s", text.Quote(name))
		case len(values) > 1:
			return Address{}, fmt.Errorf("takes %s once", name)
		}
	}
	if err := s3utils.CheckValidBucketName(u.Host); err != nil || strings.Contains(u.Host, ":") {
		return Address{}, fmt.Errorf("takes the name of a bucket, not %s", text.Quote(u.Host))
	}
	a := Address{bucket: u.Host,
		region: cmp.Or(query.Get("region"), os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), "us-east-1")}
	if a.directory, err = a.endpoint(query); err != nil {
		return Address{}, err
	}
	prefix := strings.Trim(u.Path, "/") + "/"
	a.shown = "s3://" + u.Host + "/"
	if prefix != "/" {
		if strings.Contains("/"+prefix, "//") || strings.Contains("/"+prefix, "/./") || strings.Contains("/"+prefix, "/../") {
			return Address{}, errors.New("takes a prefix without empty parts, and without dots alone between two slashes")
		}
		a.directory = within(a.directory, prefix)
		a.shown += s3utils.EncodePath(prefix)
	}
	return a, nil
}

// endpoint returns the address of a bucket. Its name is part of the path where an
// endpoint is given, or else would hold a dot, for which there are no certificates.
func (a Address) endpoint(query url.Values) (*url.URL, error) {
	given := query.Get("endpoint")
	if !query.Has("endpoint") {
		host := "s3." + a.region + ".amazonaws.com"
		if strings.HasPrefix(a.region, "cn-") {
			host += ".cn"
		}
		if !isLabel(a.region) {
			return nil, fmt.Errorf("takes the name of a region, not %s", text.Quote(a.region))
		}
		if strings.Contains(a.bucket, ".") {
			return &url.URL{Scheme: "https", Host: host, Path: "/" + a.bucket + "/"}, nil
		}
		return &url.URL{Scheme: "https", Host: a.bucket + "." + host, Path: "/"}, nil
	}
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !hasPort(u) || u.Opaque != "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("takes an endpoint such as https://s3.example:9000, without user and query")
	}
	return within(&url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/") + "/"}, a.bucket+"/"), nil
}

// hasPort reports whether an address has no port, or one that there may be. Without
// brackets, which part of an IPv6 address is the port would be a guess.
func hasPort(u *url.URL) bool {
	if strings.Contains(u.Hostname(), ":") && u.Host[0] != '[' {
		return false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" || err == nil && port > 0
}

// isLabel reports whether a text may be a part of a host's name.
func isLabel(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	})
}

// within returns the address of something in a directory, escaped as S3 signs it.
func within(directory *url.URL, name string) *url.URL {
	u := *directory
	u.Path += name
	u.RawPath = s3utils.EncodePath(u.Path)
	return &u
}

// HoldsSecret reports whether an address holds a password.
func HoldsSecret(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false // and so it is refused
	}
	_, holds := u.User.Password()
	return holds
}

// TakesToken reports whether a bearer token may be sent to the address.
func (a Address) TakesToken() bool { return !a.IsBucket() && a.user == nil }

// IsBucket reports whether objects go to a bucket.
func (a Address) IsBucket() bool { return a.bucket != "" }

// String returns the address without password.
func (a Address) String() string { return a.shown }
