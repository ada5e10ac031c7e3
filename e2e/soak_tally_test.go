//go:build soak

package e2e

import (
	"fmt"
	"sync"
	"testing"
)

// A tally is what was said of each capture. A result may come twice, when the
// server hangs before it says that it has it.
type tally struct {
	mu      sync.Mutex
	started map[string]bool
	shared  int               // of those that have started
	final   map[string]string // the text by id
	files   map[string]bool
	refused int
	failed  int
	twice   int
	wrong   []string
}

// newTally returns an empty tally.
func newTally() *tally {
	return &tally{started: map[string]bool{}, final: map[string]string{}, files: map[string]bool{}}
}

// take counts a result.
func (c *tally) take(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.State {
	case "started":
		if !c.started[r.ID] && r.said["shared"] != nil {
			c.shared++
		}
		c.started[r.ID] = true
		return
	case "refused":
		c.refused++
		return
	case "done", "failed":
	default:
		c.wrong = append(c.wrong, r.text)
		return
	}
	if before, repeated := c.final[r.ID]; repeated {
		c.twice++
		if before != r.text {
			c.wrong = append(c.wrong, before+" and then "+r.text)
		}
		return
	}
	c.final[r.ID] = r.text
	if r.State == "failed" {
		c.failed++
	}
	if r.File != "" {
		c.files[r.File] = true
	}
	if r.State == "done" && r.Packets > 0 && (r.File == "" || r.URL == "") {
		c.wrong = append(c.wrong, r.text)
	}
}

// running returns how many have started and not ended.
func (c *tally) running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.started) - len(c.final)
}

// judge compares with how many the daemon has begun.
func (c *tally) judge(t *testing.T, begun int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := len(c.started) - c.shared; got != begun {
		t.Errorf("%d captures were begun, %d are said to have started", begun, got)
	}
	for id := range c.started {
		if c.final[id] == "" {
			t.Errorf("%s: no final result", id)
		}
	}
	for id := range c.final {
		if !c.started[id] {
			t.Errorf("%s: ended without a start", id)
		}
	}
	for _, text := range c.wrong {
		t.Errorf("wrong: %s", text)
	}
}

// String returns the figures.
func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d requests served by %d captures, %d refused, %d failed, %d results twice, %d files",
		len(c.started), len(c.started)-c.shared, c.refused, c.failed, c.twice, len(c.files))
}
