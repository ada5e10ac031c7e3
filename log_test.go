package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// A slowWriter takes a line only when it is let.
type slowWriter struct {
	let   chan struct{}
	lines []string
}

// Write implements io.Writer.
func (w *slowWriter) Write(line []byte) (int, error) {
	<-w.let
	w.lines = append(w.lines, string(line))
	return len(line), nil
}

// TestLogNeverBlocks: lines that nobody takes are dropped and counted, the others come in order.
func TestLogNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slowWriter{let: make(chan struct{})}
		var dropped int64
		q := newLogQueue(to, func(n int64) { dropped += n })
		const lines = maxLines + 500
		for n := range lines {
			fmt.Fprint(q, n)
			synctest.Wait()
		}
		close(to.let)
		q.flush()
		if want, got := int64(lines-len(to.lines)), dropped; want != got || want < 490 {
			t.Errorf("want %d lines said to be dropped, got %d", want, got)
		}
		for n, line := range to.lines {
			if line != fmt.Sprint(n) {
				t.Fatalf("want line %d, got %s", n, line)
			}
		}
	})
}

// TestLogGivesUp: a log that nobody reads does not hold up the end.
func TestLogGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slowWriter{let: make(chan struct{})}
		q := newLogQueue(to, func(int64) {})
		fmt.Fprint(q, "x")
		q.flush()
		close(to.let)
		<-q.done
		if got := strings.Join(to.lines, ""); got != "x" {
			t.Errorf("want the line in the end, got %q", got)
		}
	})
}
