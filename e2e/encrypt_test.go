package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// newIdentity makes a key with age-keygen and returns the file and its public key.
func newIdentity(t *testing.T) (file, public string) {
	t.Helper()
	testbed.NeedTools(t, "age", "age-keygen")
	file = filepath.Join(t.TempDir(), "key.txt")
	if said, err := exec.Command("age-keygen", "-o", file).CombinedOutput(); err != nil {
		t.Fatalf("age-keygen: %v: %s", err, said)
	}
	out, err := exec.Command("age-keygen", "-y", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(out))
}

// TestEncrypt: with -encrypt, nothing but encrypted files leaves the daemon's memory, of
// the size that the result says. age opens them, and -publish with the key does.
func TestEncrypt(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	key, public := newIdentity(t)
	r := testbed.StartRedis(t)
	local, dir := t.TempDir(), t.TempDir()
	startDaemon(t, r, "-maxreturn", "16MiB", "-encrypt", public, "-writelocal", "-destdir", local)
	stream := testbed.StartStream(t, time.Millisecond)
	words := []string{"-destdir", dir, "-publish", "node=any", "interface=lo", "packets=50", "bpf=" + stream.Filter()}

	got, stderr, code := publish(t, r, time.Minute, words...)
	if want := "started done fetched"; states(got) != want || code != 0 {
		t.Fatalf("want %s and exit code 0, got %s, %d, %s", want, states(got), code, stderr)
	}
	done, fetched := got[1], got[2].File
	kept, err := os.ReadFile(done.File)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(fetched); err != nil || !bytes.Equal(content, kept) {
		t.Errorf("want what is returned to be what is written, got %d and %d bytes, %v", len(content), len(kept), err)
	}
	if !strings.HasSuffix(done.File, ".pcap.age") || filepath.Base(fetched) != filepath.Base(done.File) {
		t.Errorf("want names with .pcap.age, got %s and %s", done.File, fetched)
	}
	if done.Bytes != int64(len(kept)) {
		t.Errorf("want the size of the file, got %d of %d bytes", done.Bytes, len(kept))
	}
	opened, err := exec.Command("age", "-d", "-i", key, done.File).Output()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := (sharktest.Upload{Content: opened}).Packets(); err != nil || n != 50 {
		t.Errorf("want 50 packets, got %d, %v", n, err)
	}

	t.Run("with the key", func(t *testing.T) {
		got, stderr, code := publish(t, r, time.Minute, append([]string{"-identityfile", key}, words...)...)
		if want := "started done fetched"; states(got) != want || code != 0 {
			t.Fatalf("want %s and exit code 0, got %s, %d, %s", want, states(got), code, stderr)
		}
		content, err := os.ReadFile(got[2].File)
		if err != nil || filepath.Ext(got[2].File) != ".pcap" {
			t.Fatalf("want a .pcap, got %s, %v", got[2].File, err)
		}
		if n, err := (sharktest.Upload{Content: content}).Packets(); err != nil || n != 50 {
			t.Errorf("want 50 packets, got %d, %v", n, err)
		}
	})
	t.Run("with another key", func(t *testing.T) {
		other, _ := newIdentity(t)
		got, stderr, code := publish(t, r, time.Minute, append([]string{"-identityfile", other}, words...)...)
		if code != 1 || !strings.Contains(stderr, "decrypt: identity did not match") {
			t.Errorf("want it said and exit code 1, got %s, %d, %s", states(got), code, stderr)
		}
		left := got[0].ID
		got, stderr, code = publish(t, r, time.Minute, "-identityfile", key, "-destdir", t.TempDir(), "-fetch", left)
		if code != 0 || states(got) != "fetched" || filepath.Ext(got[0].File) != ".pcap" {
			t.Errorf("want it fetched with the right key, got %s, %d, %s", states(got), code, stderr)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		got, stderr, code := publish(t, r, time.Minute, "-destdir", dir,
			"-publish", "node=any", "interface=lo", "bytes=3000", "bpf="+stream.Filter())
		if code != 0 || states(got) != "started done fetched" {
			t.Fatalf("want it returned, got %s, %d, %s", states(got), code, stderr)
		}
		info, err := os.Stat(got[2].File)
		if err != nil || info.Size() > 3000 || info.Size() < 2800 || info.Size() != got[1].Bytes || got[1].Stop != "bytes" {
			t.Errorf("want nearly 3000 bytes and no more, got %+v of %s, %v", info, got[1].text, err)
		}
	})
	t.Run("live", func(t *testing.T) {
		_, stderr, code := publish(t, r, time.Minute, "-w", "-", "-publish", "node=any", "interface=lo", "packets=1")
		if code != 1 || !strings.Contains(stderr, "live: captures are encrypted here") {
			t.Errorf("want it refused, got %d, %s", code, stderr)
		}
	})
}
