package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"pcapdaemon/client"
)

// handlerPatience is the time that -nowait has for everything: whoever runs it
// handles events, and serves no other one meanwhile.
const handlerPatience = 3 * time.Second

// runAnnouncement is -publish with -nowait. It returns the exit code.
func runAnnouncement(c config, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), handlerPatience)
	defer cancel()
	request, err := readInTime(ctx, c.request, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: %s: %v\n", c.mode.flag(), err)
		return exitFailed
	}
	return exitCode(client.Announce(ctx, clientOptions(c), request, stdout, stderr))
}

// readInTime is readRequest for a standard input that may never end.
func readInTime(ctx context.Context, text string, stdin io.Reader) ([]byte, error) {
	type outcome struct {
		request []byte
		err     error
	}
	read := make(chan outcome, 1) // a read cannot be given up: it ends with the process
	go func() {
		request, err := readRequest(text, io.LimitReader(stdin, 2*maxMessage))
		read <- outcome{request, err}
	}()
	select {
	case o := <-read:
		return o.request, o.err
	case <-ctx.Done():
		return nil, errors.New("standard input has not ended in time")
	}
}
