package client

import (
	"io"
	"time"

	"pcapdaemon/result"
)

// A view shows what a client hears. It is used from one goroutine.
type view interface {
	// heard shows what has come, word for word.
	heard(message []byte)
	// fetched shows where the file of a capture is now.
	fetched(r result.Result, file string)
	// ended shows the last word on a capture; the file is empty if none was fetched.
	ended(r result.Result, file string)
	// say shows what is no result.
	say(text string)
	// draw shows how everything stands.
	draw(s *session, now time.Time)
	// close shows what is left to be shown.
	close()
}

// newView returns a view that suits what is asked, and who looks.
func newView(q request, screen *terminal, stdout, stderr io.Writer) view {
	switch {
	case q.rollCall:
		return &roll{out: stdout, err: stderr, table: screen != nil}
	case screen != nil:
		return &display{terminal: screen, err: stderr}
	}
	return jsonLines{stdout, stderr}
}
