package extcap

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/client"
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
