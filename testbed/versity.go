package testbed

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// A Versity is a real S3 service over a directory.
type Versity struct {
	*Process
	Port           int
	Root           string // a directory for each bucket, a file for each object
	Access, Secret string // who may do everything
}

// versityFile is where packaging/deps puts the program, below the user's cache.
const versityFile = "pcapdaemon/versitygw-1.8.0/versitygw"

// StartVersity starts an S3 service that has one bucket, with more options.
func StartVersity(t testing.TB, bucket string, options ...string) *Versity {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, versityFile)
	if _, err := os.Stat(path); err != nil {
		Lack(t, "versitygw, which 'make extra' builds")
	}
	v := &Versity{Port: FreePort(t), Root: t.TempDir(), Access: "root", Secret: "r00tsecret"}
	if err := os.Mkdir(filepath.Join(v.Root, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--port", v.Address(), "--access", v.Access, "--secret", v.Secret, "--iam-dir", t.TempDir(), "--quiet"},
		options...)
	args = append(args, "posix", "--sidecar", t.TempDir(), v.Root)
	v.Process = Start(t, exec.Command(path, args...))
	v.awaitListening(t, v.Address())
	return v
}

// AddUser adds a user who may do nothing yet.
func (v *Versity) AddUser(t testing.TB, access, secret string) {
	t.Helper()
	out, err := CombinedOutput(exec.Command(v.Path, "admin", "--access", v.Access, "--secret", v.Secret,
		"--endpoint-url", "http://"+v.Address(), "create-user", "--access", access, "--secret", secret, "--role", "user"))
	if err != nil {
		t.Fatalf("create-user: %v: %s", err, out)
	}
}

// Address returns host:port.
func (v *Versity) Address() string { return "127.0.0.1:" + strconv.Itoa(v.Port) }
