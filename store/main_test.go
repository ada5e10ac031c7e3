package store

import (
	"os"
	"testing"

	"pcapdaemon/testbed"
)

// Whatever goes wrong with files, none of them is left open.
func TestMain(m *testing.M) { os.Exit(testbed.RunTidy(m)) }
