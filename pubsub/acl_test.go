package pubsub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leastACL is what the README gives as the least for a host.
const leastACL = "resetchannels &capture &capture-results -@all +subscribe +unsubscribe +ping +publish"

// publisherACL is what the README gives as the least for one who asks.
const publisherACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"

// TestReadmeACL: what the README says of permissions is what is tested here.
func TestReadmeACL(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, acl := range []string{leastACL, publisherACL} {
		if !strings.Contains(strings.ReplaceAll(string(readme), "'", ""), acl) { // the shell wants quotes
			t.Errorf("the README does not hold %q", acl)
		}
	}
}
