package main

import (
	"os"
	"testing"

	"pcapdaemon/testbed"
)

// The tests that run in parallel wait for clients, servers and hosts to lose patience.
func TestMain(m *testing.M) {
	testbed.RunAtOnce(8)
	os.Exit(m.Run())
}
