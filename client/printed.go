package client

import (
	"fmt"
	"io"
)

// A printed is where results are printed. After a failure it prints no more: what
// comes later would be taken for all there is.
type printed struct {
	to  io.Writer
	err error // the first one
}

// Write implements io.Writer.
func (p *printed) Write(data []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.to.Write(data)
	p.err = err
	return n, err
}

// complain says why not all was printed, if so, and reports whether it was not.
func (p *printed) complain(stderr io.Writer, name string) bool {
	if p.err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: %s: results not printed: %v\n", name, p.err)
	}
	return p.err != nil
}
