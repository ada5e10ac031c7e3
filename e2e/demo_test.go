package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestDemo makes the demonstration, which leaves nothing behind, while somebody
// else sends to its port: in a network namespace, and where none can be made.
func TestDemo(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "redis-server", "redis-cli", "tcpdump", "go", "unshare")
	sources := newTree(t)
	sendTo514(t)
	built := "GOTMPDIR=" + t.TempDir()
	for name, test := range map[string]struct {
		path string
		want string
	}{
		"alone":  {os.Getenv("PATH"), `"bpf":"udp port 514"`},
		"shared": {withoutNamespaces(t), `"bpf":"udp port 514 and udp[12:4] = 0x70636170"`},
	} {
		t.Run(name, func(t *testing.T) {
			left := t.TempDir()
			s := tree{sources.dir, []string{built, "TMPDIR=" + left, "PATH=" + test.path}}
			out := s.make(t, "demo")
			for _, want := range []string{
				test.want, "CloudShark got ", ".pcap: 50 packets", "… 50 packets in all",
				"s before the request, and its last packet came ", "Nothing is left running.",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("want %q, got %s", want, out)
				}
			}
			if got := strings.Count(out, `"state":`); got != 1 { // people read sentences
				t.Errorf("want one result as JSON, got %d: %s", got, out)
			}
			files, err := os.ReadDir(left)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) > 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

// withoutNamespaces returns a PATH whose unshare(1) refuses.
func withoutNamespaces(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "unshare"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + ":" + os.Getenv("PATH")
}

// sendTo514 sends packets to port 514 of the loopback interface until the test ends.
func sendTo514(t *testing.T) {
	t.Helper()
	conn := testbed.DialUDP(t, 514)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for ticker := time.NewTicker(3 * time.Millisecond); ; {
			select {
			case <-done:
				ticker.Stop()
				return
			case <-ticker.C:
				_, _ = conn.Write([]byte("<13>somebody else")) // every other one is refused
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
}

// TestDemoNeedsRights: who cannot capture is told so before anything is built.
func TestDemoNeedsRights(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "setpriv")
	s := newTree(t)
	for dir := s.dir; dir != os.TempDir(); dir = filepath.Dir(dir) { // for nobody to get there
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("setpriv", "--pdeathsig=keep", "--reuid=65534", "--regid=65534",
		"--clear-groups", filepath.Join(s.dir, "packaging/demo"))
	cmd.Env = []string{"PATH=" + onlyTools(t, "env", "bash", "dirname", "id")}
	p := testbed.Start(t, cmd)
	if code := p.Wait(t, time.Minute); code != 1 || !strings.Contains(p.Output.String(), "or install sudo") {
		t.Errorf("want to be told of sudo, got %d: %s", code, p.Output.String())
	}
}

// onlyTools returns a PATH that leads to these programs and no others.
func onlyTools(t *testing.T, names ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pcapdaemon-tools-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
