// Pcapdaemon captures packets on request. It subscribes to a Redis channel,
// captures with libpcap into memory, and delivers the captures to CloudShark
// or a local directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

// version is set by the linker.
var version = "devel"

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout io.Writer, stderr *os.File) int {
	c, err := parseConfig(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "pcapdaemon:", err)
		return exitUsage
	case c.version:
		fmt.Fprintf(stdout, "pcapdaemon %s, %s, %s\n", version, runtime.Version(), libpcapVersion())
		return exitOK
	}
	log := newLogger(c, stderr)
	if c.upload && c.csInsecure {
		log.WithField("host", c.csHost).Warn("certificate of CloudShark is not verified")
	}
	for _, name := range c.exposed {
		log.WithField("flag", "-"+name).Warn("secret on the command line, where every user can see it")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal has its usual effect: the end
	if c.publish != "" {
		return follow(ctx, c, stdin, stdout, stderr)
	}
	d := newDaemon(c, log)
	if c.request != "" {
		return d.runOnce(ctx, stdin, stdout)
	}
	return d.runAlways(ctx)
}

// newLogger returns the log: no time stamps where the journal adds its own.
func newLogger(c config, to *os.File) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(to)
	journaled, _ := journal.StderrIsJournalStream()
	if c.logFormat == "json" {
		log.SetFormatter(&logrus.JSONFormatter{DisableTimestamp: journaled, TimestampFormat: time.RFC3339Nano})
	} else {
		log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: journaled, FullTimestamp: true, TimestampFormat: time.RFC3339Nano})
	}
	level, _ := logrus.ParseLevel(c.logLevel) // one of ours
	log.SetLevel(level)
	return log
}

// runOnce serves the request of -request and returns the exit code.
func (d *daemon) runOnce(ctx context.Context, stdin io.Reader, stdout io.Writer) int {
	message, err := readRequest(d.config.request, stdin)
	if err != nil {
		d.log.WithError(err).Error("request not read")
		return exitFailed
	}
	var printing sync.Mutex
	code, results := exitOK, 0
	d.report = func(r result) {
		printing.Lock()
		defer printing.Unlock()
		fmt.Fprintf(stdout, "%s\n", r.encode())
		if results++; r.State == stateFailed || r.State == stateRefused {
			code = exitFailed
		}
	}
	if err := d.handle(ctx, message); errors.Is(err, errMalformed) {
		d.refuse(request{}, "", err)
	}
	d.working.Wait()
	if results == 0 {
		d.log.WithField("node", d.config.node).Error("request is for another node")
		return exitFailed
	}
	return code
}

// readRequest returns the text of -request or -publish; a dash stands for standard input.
func readRequest(text string, stdin io.Reader) ([]byte, error) {
	if text != "-" {
		return []byte(text), nil
	}
	return io.ReadAll(stdin)
}
