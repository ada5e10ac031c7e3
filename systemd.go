package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd something about this service, in the words of
// sd_notify(3). Without systemd it does nothing.
func notify(state string) { _, _ = systemd.SdNotify(false, state) }

// watchdogTicker returns a channel that says when the watchdog wants to hear
// from us: twice as often as systemd asks for, never if it does not.
func watchdogTicker() (<-chan time.Time, func()) {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(interval / 2)
	return ticker.C, ticker.Stop
}

// notifyStopping announces a stop that may take a while.
func notifyStopping(atMost time.Duration) {
	const state = "STOPPING=1\nSTATUS=stopping, delivering what has been captured\nEXTEND_TIMEOUT_USEC=%d"
	notify(fmt.Sprintf(state, atMost.Microseconds()))
}

// extendStop asks for more time to stop.
func extendStop(atMost time.Duration) {
	notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", atMost.Microseconds()))
}

// storedPrefix begins the names under which systemd keeps descriptors for us.
const storedPrefix = "ring-"

// storedName returns the name for the descriptors of a recorded interface:
// systemd takes printable ASCII without a colon.
func storedName(iface string) string { return storedPrefix + url.QueryEscape(iface) }

// takeStored returns what systemd has kept for us (FileDescriptorStoreMax=), by
// name. It may be called once.
func takeStored() map[string][]*os.File {
	stored := activation.FilesWithNames()
	for name, files := range stored {
		if !strings.HasPrefix(name, storedPrefix) {
			closeAll(files)
			delete(stored, name)
		}
	}
	return stored
}

// storeDescriptors hands descriptors to systemd, which keeps them over a restart
// and a crash, instead of those that it has under that name. FDPOLL=0: an
// interface that goes down is an error of its socket, and no reason to close it.
func storeDescriptors(name string, files []*os.File) error {
	forgetDescriptors(name)
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("store descriptors: %w", err)
	}
	defer unix.Close(socket)
	var descriptors []int
	for _, f := range files {
		descriptors = append(descriptors, int(f.Fd()))
	}
	state := "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name
	to := &unix.SockaddrUnix{Name: address}
	if err := unix.Sendmsg(socket, []byte(state), unix.UnixRights(descriptors...), to, 0); err != nil {
		return fmt.Errorf("store descriptors: %w", err)
	}
	return nil
}

// forgetDescriptors lets systemd close what it keeps under a name.
func forgetDescriptors(name string) { notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// closeAll closes files.
func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
