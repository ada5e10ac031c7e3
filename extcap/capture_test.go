package extcap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
)

func TestNotes(t *testing.T) {
	var n notes
	fmt.Fprintln(&lines{take: n.say}, "no host answered")
	for _, r := range []result.Result{
		{Node: "web1", Interface: "lo", State: result.Done},
		{Node: "web2", Interface: "eth\a0", State: result.Refused, Error: "lookback: eth0 is not in -record"},
		{Node: "web3", State: result.Failed, Error: "gone"},
	} {
		if _, err := results(n.hear).Write(append(r.Encode(), '\n')); err != nil {
			t.Fatal(err)
		}
	}
	want := "web2 eth\\a0: lookback: eth0 is not in -record\nweb3: gone\nno host answered"
	if got := n.text(); got != want {
		t.Errorf("want %q, got %q", want, got)
	}
}

// TestNotesAreBounded: Wireshark shows the first kilobyte.
func TestNotesAreBounded(t *testing.T) {
	var n notes
	for i := range 100_000 {
		n.hear(result.Result{Node: fmt.Sprint("web", i), State: result.Refused, Error: strings.Repeat("x", 150)})
	}
	got := n.text()
	if len(got) > 1024 || !strings.HasPrefix(got, "web0: xxx") || !strings.HasSuffix(got, " more") {
		t.Errorf("want the first ones and how many more, got %q", got)
	}
	if len(n.hosts) > mostSaid {
		t.Errorf("want few of them kept, got %d", len(n.hosts))
	}
}

// TestNotesOfShortLines: the end of each line counts as well.
func TestNotesOfShortLines(t *testing.T) {
	var n notes
	for range mostSaid {
		n.say([]byte("x"))
	}
	shown, rest, _ := strings.Cut(n.text(), "and ")
	if len(shown) > mostSaid || len(shown) < mostSaid-2 || rest != "500 more" {
		t.Errorf("want %d bytes shown and the rest counted, got %d, %q", mostSaid, len(shown), rest)
	}
}

// TestCaptureWithAWrongEnvironment: nobody is asked, and Wireshark is told why.
func TestCaptureWithAWrongEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := Program{Wrong: errors.New("PCAPDAEMON_WINGS in the environment is no flag")}
	p.Server = func(string, string) (*pubsub.Server, error) { return nil, errors.New("a server is looked for") }
	var errs strings.Builder
	args := slices.Concat(ours, []string{"--capture", "--fifo", path, "--nodere", "any"})
	if got := Run(p, args, io.Discard, &errs); got != client.Misused || errs.String() != p.Wrong.Error()+"\n" {
		t.Errorf("want outcome %d and %q, got %d, %q", client.Misused, p.Wrong, got, errs.String())
	}
}

// TestFifoThatNobodyReads: a signal ends the waiting for Wireshark.
func TestFifoThatNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	held := make(chan os.Signal, 1)
	signal.Notify(held, unix.SIGUSR1) // which would end the test
	defer signal.Stop(held)
	began := time.Now()
	ended := make(chan error, 1)
	go func() {
		_, err := Program{Client: client.Options{Ends: []os.Signal{unix.SIGUSR1}}}.openFifo(path)
		ended <- err
	}()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "stopped") || took > openTime/2 {
				t.Errorf("want it stopped at once, got %v after %v", err, took)
			}
			return
		case <-again.C:
			_ = unix.Kill(os.Getpid(), unix.SIGUSR1)
		}
	}
}
