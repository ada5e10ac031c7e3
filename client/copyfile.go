package client

import (
	"context"
	"io"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/store"
)

// A copyFile is the file of one capture that is also merged with others. It is used from one goroutine.
type copyFile struct {
	to    *io.PipeWriter
	done  chan struct{}
	place store.Place
	err   error // of the directory; it keeps nothing else from going on
}

// newCopyFile begins the file of a capture, under a temporary name. Its first piece says what format it has.
func newCopyFile(dir *store.Directory, r result.Result, first []byte) *copyFile {
	if r.Name == "" {
		extension, _ := capfile.Identify(first)
		r.Name = store.FileName(r.Node, r.Interface, time.Time(r.Started), extension)
	}
	from, to := io.Pipe()
	c := &copyFile{to: to, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer from.Close() // what else is written is dropped
		c.place, c.err = dir.Store(context.Background(), store.File{ID: r.ID, Name: localName(r),
			Content: func() io.Reader { return from }})
	}()
	return c
}

// write appends a piece.
func (c *copyFile) write(piece []byte) { _, _ = c.to.Write(piece) }

// end gives the file its name if the capture is whole, and removes it if it is not. It returns
// where the file is, or why it is not there.
func (c *copyFile) end(err error) (string, error) {
	c.to.CloseWithError(err) // nil: io.EOF
	<-c.done
	if err == nil {
		err = c.err
	}
	return c.place.File, err
}
