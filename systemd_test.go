package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/pubsub"
	"pcapdaemon/testbed"
)

func TestUnitHasRoomForTheDefaults(t *testing.T) {
	unit, err := os.ReadFile("pcapdaemon.service")
	if err != nil {
		t.Fatal(err)
	}
	setting := func(name string) string {
		t.Helper()
		match := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(string(unit))
		if match == nil {
			t.Fatalf("%s= is missing", name)
		}
		return match[1]
	}
	var c config
	flags(&c, &rawConfig{})

	stop, err := time.ParseDuration(setting("TimeoutStopSec"))
	if needed := c.delivery.drainTimeout + lateDelivery + pubsub.LastAttempt; err != nil || stop <= needed {
		t.Errorf("TimeoutStopSec=%v, want more than the %v of a slow delivery (%v)", stop, needed, err)
	}
	if interval, err := time.ParseDuration(setting("WatchdogSec")); err != nil || interval <= 0 {
		t.Errorf("WatchdogSec=%v, want some time (%v)", interval, err)
	}
	mebibytes, err := strconv.ParseInt(strings.TrimSuffix(setting("MemoryMax"), "M"), 10, 64)
	if needed := c.capacity.memory + c.capacity.captures*c.capacity.buffer; err != nil || mebibytes<<20 <= needed {
		t.Errorf("MemoryMax=%dM, want more than the %s of captures and their kernel buffers (%v)", mebibytes, formatSize(needed), err)
	}
}

// TestPackageSettings: every variable of the example settings is a flag, and what it is set to is accepted.
func TestPackageSettings(t *testing.T) {
	example, err := os.ReadFile("packaging/env")
	if err != nil {
		t.Fatal(err)
	}
	fs := flags(&config{}, &rawConfig{})
	var active []string
	for _, line := range testbed.ReadLines(string(example)) {
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if !ok || !strings.HasPrefix(name, "PCAPDAEMON_") {
			continue
		}
		if err := fs.Set(strings.ToLower(strings.TrimPrefix(name, "PCAPDAEMON_")), value); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if line[0] != '#' {
			active = append(active, line)
			t.Setenv(name, value)
		}
	}
	t.Setenv("PCAPDAEMON_DESTDIR", t.TempDir()) // by the unit
	if _, err := parseConfig(nil, nil); err != nil {
		t.Errorf("as installed, with %q: %v", active, err)
	}
}
