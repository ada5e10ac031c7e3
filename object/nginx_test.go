package object

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pcapdaemon/store"
	"pcapdaemon/testbed"
)

// withUser lets a web server ask for the user u and the password s3cret.
func withUser(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("u:{PLAIN}s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("auth_basic captures; auth_basic_user_file %s;", file)
}

// TestNginx: a real web server with a user, many captures at once, over TLS with
// a certificate of one's own.
func TestNginx(t *testing.T) {
	t.Parallel()
	ca := testbed.NewCA(t)
	certificate, key := ca.Issue(t)
	port := testbed.FreePort(t)
	n := testbed.StartNginx(t, t.TempDir(), withUser(t),
		fmt.Sprintf("listen 127.0.0.1:%d ssl; ssl_certificate %s; ssl_certificate_key %s;", port, certificate, key))
	host := fmt.Sprintf("127.0.0.1:%d", port)
	d, _ := newDestination(t, "https://u:s3cret@"+host+"/captures", Options{CAs: ca.Pool(t)})
	r, content := newFile(200_000)
	var storing sync.WaitGroup
	for i := range 100 {
		storing.Go(func() {
			r := r
			r.Name = fmt.Sprintf("web1-eth%d.pcap", i)
			place, err := d.Store(t.Context(), r)
			if want := "https://" + host + "/captures/" + r.Name; err != nil || place.URL != want {
				t.Errorf("want %s, got %s, %v", want, place.URL, err)
			}
		})
	}
	storing.Wait()
	for i := range 100 {
		got, err := os.ReadFile(filepath.Join(n.Root, "captures", fmt.Sprintf("web1-eth%d.pcap", i)))
		if err != nil || !bytes.Equal(content, got) {
			t.Errorf("capture %d is not what was stored: %d bytes, %v", i, len(got), err)
		}
	}
	for address, want := range map[string]string{
		"https://u:wrong@" + host: "401 Unauthorized",
		"https://" + host:         "401 Unauthorized",
	} {
		d, _ := newDestination(t, address, Options{CAs: ca.Pool(t)})
		if _, err := d.Store(t.Context(), r); !store.IsRefusal(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %s at once, got %v", address, want, err)
		}
	}
	d, told := newDestination(t, "https://u:s3cret@"+host, Options{})
	if _, err := d.Store(t.Context(), r); err == nil || !strings.Contains(err.Error(), "certificate") || len(told.retries) > 0 {
		t.Errorf("want an unknown authority at once, got %v, %v", err, told.retries)
	}
}

// TestNginxFull: what is too large is refused for good; what a full disk does not
// take is tried again, and leaves nothing behind.
func TestNginxFull(t *testing.T) {
	testbed.NeedRoot(t)
	t.Parallel()
	disk := t.TempDir()
	testbed.MountTmpfs(t, disk, "size=4m")
	n := testbed.StartNginx(t, disk, "client_max_body_size 8m;", "")
	d, _ := newDestination(t, "http://"+n.Address(), Options{})
	r, _ := newFile(9 << 20)
	if _, err := d.Store(t.Context(), r); !store.IsRefusal(err) || !strings.Contains(err.Error(), "413") {
		t.Errorf("want 413 at once, got %v", err)
	}
	r, content := newFile(3 << 20)
	testbed.Fill(t, disk)
	d, told := newDestination(t, "http://"+n.Address(), Options{})
	told.first = func() { _ = os.Remove(filepath.Join(disk, "filler")) }
	if _, err := d.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(told.retries) == 0 || !strings.Contains(told.retries[0].Error(), "500") {
		t.Errorf("want a full disk told by 500, got %v", told.retries)
	}
	got, err := os.ReadFile(filepath.Join(disk, r.Name))
	if err != nil || !bytes.Equal(content, got) {
		t.Errorf("want the whole content, got %d bytes, %v", len(got), err)
	}
}

// A readerFunc is a reader that is a function.
type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestNginxCut: a server that ends in the middle and comes back has the whole capture at last.
func TestNginxCut(t *testing.T) {
	t.Parallel()
	n := testbed.StartNginx(t, t.TempDir(), "", "")
	proxy := testbed.StartProxy(t, n.Address())
	d, told := newDestination(t, "http://"+proxy.Address, Options{})
	r, content := newFile(24 << 20)
	var cut sync.Once
	r.Content = func() io.Reader {
		// What the kernel holds on its way is less than the first part.
		return io.MultiReader(bytes.NewReader(content[:20<<20]), readerFunc(func([]byte) (int, error) {
			cut.Do(proxy.Cut)
			return 0, io.EOF
		}), bytes.NewReader(content[20<<20:]))
	}
	if _, err := d.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(n.Root, r.Name))
	if err != nil || !bytes.Equal(content, got) || len(told.retries) != 1 {
		t.Errorf("want the whole content after one retry, got %d bytes, %v, %v", len(got), err, told.retries)
	}
}
