package main

import (
	"fmt"
	"time"

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
