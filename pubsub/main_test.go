package pubsub

import (
	"os"
	"testing"

	"pcapdaemon/testbed"
)

// Most of the tests wait for a server to be missed.
func TestMain(m *testing.M) {
	testbed.RunAtOnce(32)
	os.Exit(m.Run())
}
