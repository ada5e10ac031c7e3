package credential

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// write writes a file and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestReadToken: a token is what the file holds, without the space around it.
func TestReadToken(t *testing.T) {
	for content, want := range map[string]string{"abc": "abc", " abc\n": "abc", "": "", " \n": ""} {
		file := write(t, "token", content)
		got, err := ReadToken(file)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: want %q, got %q, %v", content, want, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("%q: want an error that names the file, got %v", content, err)
		}
	}
}

// TestReadCAs: a file without a certificate is refused, and its content is not shown.
func TestReadCAs(t *testing.T) {
	ca := testbed.NewCA(t)
	if _, err := ReadCAs(ca.File); err != nil {
		t.Error(err)
	}
	system, err := x509.SystemCertPool()
	if err != nil {
		system = x509.NewCertPool()
	}
	pem, _ := os.ReadFile(ca.File)
	system.AppendCertsFromPEM(pem)
	if cas, err := ReadCAsBesideSystem(ca.File); err != nil || !cas.Equal(system) {
		t.Errorf("want the system's certificates and one more, got %v, %v", cas, err)
	}
	if cas, err := ReadCAsBesideSystem(""); cas != nil || err != nil {
		t.Errorf("want the system's, got %v, %v", cas, err)
	}
	file := write(t, "ca.pem", "s3cret")
	if _, err := ReadCAs(file); err == nil || err.Error() != file+" holds no PEM certificate" {
		t.Errorf("want an error, got %v", err)
	}
}

// TestFind: a credential of systemd is found by its name.
func TestFind(t *testing.T) {
	file := write(t, "cstoken", "abc")
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(file))
	if got := [2]string{Find("cstoken"), Find("other")}; got != [2]string{file} {
		t.Errorf("want %s and nothing, got %q", file, got)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if got := Find("cstoken"); got != "" {
		t.Errorf("want nothing, got %s", got)
	}
}
