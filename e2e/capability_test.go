package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// nobody is a user without any rights.
const nobody = 65534

// unprivileged returns a copy of the program that everyone may run, and a directory where nobody may write.
func unprivileged(t testing.TB) (program, dir string) {
	t.Helper()
	base, err := os.MkdirTemp("", "pcapdaemon-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	program, dir = filepath.Join(base, "pcapdaemon"), filepath.Join(base, "captures")
	copyFile(t, binary, program, 0o755)
	for _, err := range []error{os.Chmod(base, 0o755), os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return program, dir
}

func TestCapabilities(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "setpriv")
	tests := []struct {
		name string
		caps []string
		want says
	}{
		{"without any", []string{"--inh-caps=-all", "--bounding-set=-all"},
			says{"state": "refused", "error": about("CAP_NET_RAW")}},
		{"with CAP_NET_RAW alone",
			[]string{"--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw"},
			says{"state": "done"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			program, dir := unprivileged(t)
			r, packets := testbed.StartRedis(t), testbed.StartStream(t, time.Millisecond)
			args := append(test.caps, "--pdeathsig=keep", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", program,
				"-node", "web1", "-redisport", strconv.Itoa(r.Port), "-writelocal", "-destdir", dir)
			testbed.Start(t, exec.Command("setpriv", args...))
			r.AwaitSubscribers(t, time.Minute, 1)
			results := listen(t, r)
			r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","packets":20,"timeout":60,"bpf":%q}`, packets.Filter()))
			got := results.final(t, time.Minute)
			got.check(t, test.want)
			if got.State != "done" {
				return
			}
			info, err := os.Stat(got.File)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nobody {
				t.Errorf("want a file of nobody, got one of user %d", owner)
			}
		})
	}
}

// TestDirectoryOfSomebodyElse: a directory where this user cannot write is wrong usage at the start.
func TestDirectoryOfSomebodyElse(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "setpriv")
	program, dir := unprivileged(t)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	p := testbed.Start(t, exec.Command("setpriv", "--pdeathsig=keep", "--reuid=65534", "--regid=65534", "--clear-groups", program,
		"-writelocal", "-destdir", dir))
	if code := p.Wait(t, time.Minute); code != 2 {
		t.Errorf("want exit code 2, got %d", code)
	}
	checkComplaint(t, p.Output.String(), "permission denied")
}
