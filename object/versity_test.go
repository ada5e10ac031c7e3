package object

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"pcapdaemon/store"
	"pcapdaemon/testbed"
)

// newKeys returns keys that stay.
func newKeys(access, secret string) *Keys {
	return &Keys{found: credentials.NewStaticV4(access, secret, "")}
}

// ask makes a request as the one who may do everything, and returns the answer.
func ask(t *testing.T, v *testbed.Versity, method, path, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+v.Address()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	response, err := http.DefaultClient.Do(signer.SignV4(*r, v.Access, v.Secret, "", "us-east-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s %v", method, path, response.Status, said, err)
	}
	return response, string(said)
}

// writeOnly is the policy of docs/operations.md, for a user of this service.
const writeOnly = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["writer"]},
	"Action": "s3:PutObject", "Resource": "arn:aws:s3:::captures/hosts/*"}]}`

// startBucket starts a service whose user may write below captures/hosts, and no more.
func startBucket(t *testing.T) (*testbed.Versity, string) {
	t.Helper()
	v := testbed.StartVersity(t, "captures")
	v.AddUser(t, "writer", "wr1tersecret")
	ask(t, v, http.MethodPut, "/captures?policy=", writeOnly)
	return v, "s3://captures/hosts/web 1?endpoint=http://" + v.Address()
}

// TestVersity: a real S3 service takes what we sign, with metadata, from a user who
// may only write; no name is taken twice.
func TestVersity(t *testing.T) {
	t.Parallel()
	v, address := startBucket(t)
	d, told := newDestination(t, address, Options{Keys: newKeys("writer", "wr1tersecret")})
	r, content := newFile(200_000)
	r.Labels = append(r.Labels, store.Label{Name: "interface", Value: "  größe  7\n"})
	r.Comments = strings.Repeat("filter: ä  b; ", 1000)
	var storing sync.WaitGroup
	for i := range 100 {
		storing.Go(func() {
			r := r
			r.Name = fmt.Sprintf("web1-eth%d.pcap", i/2) // each one twice
			if _, err := d.Store(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	storing.Wait()
	for i := range 50 {
		for _, name := range []string{"web1-eth%d.pcap", "web1-eth%d-2.pcap"} {
			name = fmt.Sprintf(name, i)
			got, err := os.ReadFile(filepath.Join(v.Root, "captures/hosts/web 1", name))
			if err != nil || !bytes.Equal(content, got) {
				t.Errorf("%s is not what was stored: %d bytes, %v", name, len(got), err)
			}
		}
	}
	response, _ := ask(t, v, http.MethodHead, "/captures/hosts/web%201/web1-eth0.pcap", "")
	for name, want := range map[string]string{"Content-Type": "application/vnd.tcpdump.pcap", "X-Amz-Meta-Node": "web1",
		"X-Amz-Meta-Customer": "A,B", "X-Amz-Meta-Tags": "a,b", "X-Amz-Meta-Id": "r1",
		"X-Amz-Meta-Interface": "=?utf-8?q?gr=C3=B6=C3=9Fe__7?="} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: want %q, got %q", name, want, got)
		}
	}
	if len(told.retries) > 0 {
		t.Errorf("want no retry, got %v", told.retries)
	}
}

// TestVersityRefuses: what is refused for good, in the service's own words.
func TestVersityRefuses(t *testing.T) {
	t.Parallel()
	v, address := startBucket(t)
	endpoint := "?endpoint=http://" + v.Address()
	for name, test := range map[string]struct {
		address, access, secret string
		want                    string
	}{
		"a key that is not there": {address, "nobody", "wr1tersecret", "403 Forbidden: InvalidAccessKeyId: "},
		"a wrong secret":          {address, "writer", "wr0ngsecret", "403 Forbidden: SignatureDoesNotMatch: "},
		"another prefix":          {"s3://captures/other" + endpoint, "writer", "wr1tersecret", "403 Forbidden: AccessDenied: "},
		"no such bucket":          {"s3://no-bucket/x" + endpoint, "root", "r00tsecret", "404 Not Found: NoSuchBucket: "},
		"another region":          {address + "&region=eu-central-1", "writer", "wr1tersecret", "AuthorizationHeaderMalformed: "},
	} {
		d, told := newDestination(t, test.address, Options{Keys: newKeys(test.access, test.secret)})
		r, _ := newFile(1000)
		_, err := d.Store(t.Context(), r)
		if !store.IsRefusal(err) || !strings.Contains(err.Error(), test.want) || len(told.retries) > 0 {
			t.Errorf("%s: want %s at once, got %v, %v", name, test.want, err, told.retries)
		}
		if strings.Contains(err.Error(), test.secret) {
			t.Errorf("%s: the secret is shown: %v", name, err)
		}
	}
}
