package extcap

import (
	"bytes"

	"pcapdaemon/result"
)

// lines takes what is written line by line. It holds no more than one of them.
type lines struct {
	take func(line []byte)
	rest []byte // of the line that has not ended
}

// results returns what takes results that are written as lines of JSON.
func results(take func(result.Result)) *lines {
	return &lines{take: func(line []byte) {
		if r, err := result.Decode(line); err == nil {
			take(r)
		}
	}}
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.take(line)
		l.rest = bytes.Clone(rest)
	}
}
