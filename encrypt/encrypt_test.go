package encrypt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"pcapdaemon/testbed"
)

// A keyPair is the public key of a recipient, and a file with the private one.
type keyPair struct{ public, file string }

// newAgeKey returns a key pair of age.
func newAgeKey(t *testing.T) keyPair {
	t.Helper()
	one, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{one.Recipient().String(), write(t, "# a key\n"+one.String()+"\n")}
}

// newSSHKey returns a key pair of ssh.
func newSSHKey(t *testing.T, private any, public any) keyPair {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return keyPair{line + " ops@example", write(t, string(pem.EncodeToMemory(block)))}
}

// newKeys returns a key pair of each kind.
func newKeys(t *testing.T) []keyPair {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return []keyPair{newAgeKey(t), newSSHKey(t, private, public), newSSHKey(t, long, &long.PublicKey)}
}

// write writes a file and returns its path.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFile: whatever its size, a file has the size that was computed, is the same each
// time it is read, and each recipient can open it, with age as well.
func TestFile(t *testing.T) {
	tool, err := exec.LookPath("age")
	if err != nil {
		t.Log("not tried with the age tool, which is not installed")
	}
	keys := newKeys(t)
	to, err := ParseRecipients(keys[0].public + "," + keys[1].public + ", " + keys[2].public)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 24, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, 5*chunkSize + 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			plain := testbed.RandomBytes(size)
			f, err := to.NewFile()
			if err != nil {
				t.Fatal(err)
			}
			read := func(wrap func(io.Reader) io.Reader) []byte {
				sealed, err := io.ReadAll(wrap(f.Reader(wrap(bytes.NewReader(plain)), int64(size))))
				if err != nil {
					t.Fatal(err)
				}
				return sealed
			}
			sealed := read(func(r io.Reader) io.Reader { return r })
			if want := to.Size(int64(size)); want != int64(len(sealed)) {
				t.Errorf("want %d bytes, got %d", want, len(sealed))
			}
			if !bytes.Equal(sealed, read(iotest.HalfReader)) {
				t.Error("it differs when it is read again")
			}
			path := write(t, string(sealed))
			for _, key := range keys {
				checkOpens(t, key.file, sealed, plain)
				if tool == "" {
					continue
				}
				if got, err := exec.Command(tool, "-d", "-i", key.file, path).Output(); err != nil || !bytes.Equal(plain, got) {
					t.Errorf("age -d: got %d bytes, %v", len(got), err)
				}
			}
		})
	}
}

// checkOpens fails unless the identities of a file open what is sealed, and nothing but
// all of it.
func checkOpens(t *testing.T, file string, sealed, plain []byte) {
	t.Helper()
	who, err := ReadIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	open := func(sealed []byte) ([]byte, error) {
		r, err := who.Open(bytes.NewReader(sealed))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	if got, err := open(sealed); err != nil || !bytes.Equal(plain, got) {
		t.Errorf("want the content, got %d bytes, %v", len(got), err)
	}
	if _, err := open(sealed[:len(sealed)-1]); err == nil {
		t.Error("want an error for what was cut")
	}
}

// TestFilesDiffer: no key is used twice, and nothing of the content shows.
func TestFilesDiffer(t *testing.T) {
	to, err := ParseRecipients(newAgeKey(t).public)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("secret"), 1000)
	var all [2][]byte
	for i := range all {
		f, err := to.NewFile()
		if err != nil {
			t.Fatal(err)
		}
		if all[i], err = io.ReadAll(f.Reader(bytes.NewReader(plain), int64(len(plain)))); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(all[0][to.head:], all[1][to.head:]) || bytes.Contains(all[0], []byte("secret")) {
		t.Error("want files that have nothing in common with each other or with their content")
	}
	if _, err := ReadIdentities(newAgeKey(t).file); err != nil {
		t.Fatal(err)
	}
	who, _ := ReadIdentities(newAgeKey(t).file)
	if _, err := who.Open(bytes.NewReader(all[0])); !errors.As(err, new(*age.NoIdentityMatchError)) {
		t.Errorf("want it closed for others, got %v", err)
	}
}

// TestFileThatIsShort: content that ends early, or fails, is an error, and no shorter file.
func TestFileThatIsShort(t *testing.T) {
	to, err := ParseRecipients(newAgeKey(t).public)
	if err != nil {
		t.Fatal(err)
	}
	f, err := to.NewFile()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f.Reader(strings.NewReader("abc"), 4)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("want the end to be unexpected, got %v", err)
	}
	broken := errors.New("broken")
	if _, err := io.ReadAll(f.Reader(iotest.ErrReader(broken), 4)); !errors.Is(err, broken) {
		t.Errorf("want the error of the content, got %v", err)
	}
}

// TestFit: what fits is the most that does.
func TestFit(t *testing.T) {
	to, err := ParseRecipients(newAgeKey(t).public)
	if err != nil {
		t.Fatal(err)
	}
	least := to.Size(0)
	sizes := []int64{least, least + 1, 100_000_000}
	for _, chunks := range []int64{1, 2, 3} {
		for d := int64(-40); d <= 40; d++ {
			sizes = append(sizes, to.head+chunks*(chunkSize+tagSize)+d)
		}
	}
	for _, size := range sizes {
		if fit := to.Fit(size); to.Size(fit) > size || to.Size(fit+1) <= size {
			t.Errorf("%d bytes: want the most that fits, got %d, which takes %d", size, fit, to.Size(fit))
		}
	}
	if fit := to.Fit(least - 1); fit >= 0 {
		t.Errorf("want nothing to fit, got %d", fit)
	}
	if none := (*Recipients)(nil); none.Size(7) != 7 || none.Fit(7) != 7 {
		t.Error("want sizes as they are without recipients")
	}
}

// TestWrongKeys: what is no public key is refused, and no secret is shown.
func TestWrongKeys(t *testing.T) {
	one, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	good := newAgeKey(t).public
	for _, list := range []string{"", ",", good + ",", "age1", "x", one.String(), "ssh-ed25519 AAAA", good + "\n" + good,
		"# comment", good + " " + good, "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"} {
		if _, err := ParseRecipients(list); err == nil || strings.Contains(err.Error(), one.String()) {
			t.Errorf("%q: want it refused, got %v", list, err)
		}
	}
	for name, content := range map[string]string{"empty": "", "a public key": good, "binary": "\x00\x01",
		"a broken ssh key": "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n-----END OPENSSH PRIVATE KEY-----\n"} {
		if _, err := ReadIdentities(write(t, content)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: want it refused, got %v", name, err)
		}
	}
	if _, err := ReadIdentities(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("want the missing file named so, got %v", err)
	}
}

// TestKeyBehindALine: an ssh key is one behind an empty line, as editors leave it.
func TestKeyBehindALine(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(newSSHKey(t, private, public).file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIdentities(write(t, "\n \n"+string(content))); err != nil {
		t.Errorf("want it taken, got %v", err)
	}
}

// TestIdentitiesAreBounded: another file, however long, is not kept in memory.
func TestIdentitiesAreBounded(t *testing.T) {
	path := write(t, "")
	if err := os.Truncate(path, 64*maxIdentities); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadIdentities(path)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 16*maxIdentities {
		t.Errorf("want it refused, and not kept, got %v with %d bytes", err, took)
	}
}
