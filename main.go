// Pcapdaemon captures packets on request. It subscribes to a Redis channel,
// captures with libpcap into memory, and delivers the captures to CloudShark, to
// a local directory, or through Redis to whoever asked.
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

	"github.com/sirupsen/logrus"

	"pcapdaemon/client"
	"pcapdaemon/extcap"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/status"
	"pcapdaemon/tap"
	"pcapdaemon/text"
)

// version is set by the linker.
var version = "devel"

// standardStream stands for standard input, or standard output, where a request or a file is named.
const standardStream = "-"

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitNobody // no host answered a client
)

// main runs the program and hands its exit code to the system.
func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout io.Writer, stderr *os.File) int {
	if extcap.Invoked(args) {
		return runExtcap(args, stdout, stderr)
	}
	signal.Ignore(syscall.SIGPIPE) // whoever reads results or the log ends no capture by leaving
	c, err := parseConfig(args, stdout)
	switch {
	case err == flag.ErrHelp:
		return exitOK
	case errors.Is(err, flag.ErrHelp): // it could not be printed
		fmt.Fprintln(stderr, "pcapdaemon:", err)
		return exitFailed
	case err != nil:
		fmt.Fprintln(stderr, "pcapdaemon:", text.Escape(err.Error()))
		return exitUsage
	case c.mode == versioning:
		return printVersion(stdout, stderr)
	}
	log, flush := newLogger(c.log, stderr)
	defer flush()
	if c.delivery.upload && c.delivery.shark.insecure {
		log.WithField("host", c.delivery.shark.host).Warn("certificate of CloudShark is not verified")
	}
	for _, name := range c.exposed {
		log.WithField("flag", "-"+name).Warn("secret on the command line, where every user can see it")
	}
	if c.mode.delivers() {
		policy := tap.NewCompiler()
		policy.Policy = c.filter
		if err := policy.CheckPolicy(context.Background()); err != nil {
			fmt.Fprintln(stderr, "pcapdaemon: -filter:", err)
			return exitUsage
		}
	}
	switch {
	case c.noWait:
		return runAnnouncement(c, stdin, stdout, stderr)
	case c.mode == fetching:
		return exitCode(client.Fetch(clientOptions(c), c.request, stdout, stderr))
	case c.mode.asks():
		return runClient(c, stdin, stdout, stderr)
	case c.mode == requesting:
		return runOnce(c, log, stdin, stdout)
	}
	ctx, cancel := untilSignal()
	defer cancel()
	return serve(ctx, c, log)
}

// printVersion is -version. It returns the exit code.
func printVersion(stdout, stderr io.Writer) int {
	if _, err := fmt.Fprintf(stdout, "pcapdaemon %s, %s, %s\n", version, runtime.Version(), tap.Version()); err != nil {
		fmt.Fprintln(stderr, "pcapdaemon: -version:", err)
		return exitFailed
	}
	return exitOK
}

// untilSignal returns a context that the first signal ends. By then a second
// one has its usual effect: the end of the program.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals()...)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
		}
		signal.Stop(signals)
		cancel()
	}()
	return ctx, cancel
}

// endSignals are the signals that end the program. A SIGHUP that is ignored at
// the start stays so: catching it would undo nohup.
func endSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// runOnce serves the request of -request and returns the exit code.
func runOnce(c config, log *logrus.Logger, stdin io.Reader, stdout io.Writer) int {
	message, err := readRequest(c.request, stdin)
	if err != nil {
		log.WithError(err).Error("request not read")
		return exitFailed
	}
	ctx, cancel := untilSignal() // not before: until then there is nothing to end
	defer cancel()
	life, end := newLifetime(ctx, c.delivery.drainTimeout)
	defer end()
	out := &printer{to: stdout}
	d, err := newDaemon(c, out, status.NewHealth(), log)
	if err != nil {
		log.WithError(err).Error("not started")
		return exitFailed
	}
	switch err := d.handle(life, pubsub.Message{Data: message}); {
	case errors.Is(err, errOtherNode):
		log.WithField("node", c.node).Error("request is for another node")
		return exitFailed
	case errors.Is(err, errMalformed):
		refusal := request{}.result(c.node, "", result.Refused)
		refusal.Error = err.Error()
		out.Publish(refusal)
		return exitFailed
	}
	d.jobs.working.Wait()
	if out.err != nil {
		log.WithError(out.err).Error("results not printed")
	}
	if out.err != nil || d.jobs.failed.Load()+d.jobs.refused.Load() > 0 {
		return exitFailed
	}
	return exitOK
}

// runClient is -publish and -rollcall. It returns the exit code.
func runClient(c config, stdin io.Reader, stdout, stderr io.Writer) int {
	request, err := readRequest(c.request, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "pcapdaemon: %s: %v\n", c.mode.flag(), err)
		return exitFailed
	}
	o := clientOptions(c)
	switch {
	case c.packets == standardStream:
		// Standard output is for packets alone.
		o.Packets, stdout = os.Stdout, stderr
		if client.IsTerminal(o.Packets) {
			fmt.Fprintln(stderr, "pcapdaemon: -w - writes packets, and standard output is a terminal")
			return exitUsage
		}
	case c.packets != "":
		if o.Packets, err = os.OpenFile(c.packets, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640); err != nil {
			fmt.Fprintln(stderr, "pcapdaemon: -w:", err)
			return exitFailed
		}
	}
	return closePackets(o.Packets, c.packets, client.Ask(o, request, stdout, stderr), stderr)
}

// closePackets closes the file of -w, if there is one, removes it if nobody was asked, and returns the exit code.
func closePackets(file *os.File, name string, o client.Outcome, stderr io.Writer) int {
	if name == "" || name == standardStream {
		return exitCode(o)
	}
	err := file.Close()
	if o == client.Misused || o == client.Unpublished {
		err = os.Remove(name)
	}
	if err != nil {
		fmt.Fprintln(stderr, "pcapdaemon: -w:", err)
		return max(exitCode(o), exitFailed)
	}
	return exitCode(o)
}

// clientOptions returns what a client takes from the flags.
func clientOptions(c config) client.Options {
	return client.Options{Server: c.redis.server, Requests: c.redis.requests, Results: c.redis.results,
		Dir: c.delivery.dir, Identities: c.identities, Capture: c.limits.timeout, Delivery: c.delivery.shark.timeout,
		Application: "pcapdaemon " + version, Judge: judgeForClient, Ends: endSignals(), Name: c.mode.flag()}
}

// runExtcap is what Wireshark starts. It returns the exit code.
func runExtcap(args []string, stdout, stderr io.Writer) int {
	c, settings, err := parseVariables()
	return exitCode(extcap.Run(extcap.Program{Version: version, Settings: settings, Wrong: err,
		Server: newServer, CheckFilter: tap.NewCompiler().CheckSyntax, Client: clientOptions(c)}, args, stdout, stderr))
}

// exitCode returns the exit code of an outcome.
func exitCode(o client.Outcome) int {
	switch o {
	case client.Done:
		return exitOK
	case client.Misused:
		return exitUsage
	case client.Unanswered:
		return exitNobody
	}
	return exitFailed
}

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

// judgeForClient judges a request as the hosts will that it names.
func judgeForClient(message []byte) (client.Asked, error) {
	r, fields, err := checkRequest(message)
	if err == nil && r.Stop == "" && !r.RollCall && len(r.Interfaces) == 0 {
		err = errNoInterface
	}
	if err != nil {
		return client.Asked{}, err
	}
	text := func(name string) (value string) {
		for _, raw := range fields.values(name) { // no more than one: it has been judged
			value, _ = decodeText(raw)
		}
		return value
	}
	return client.Asked{ID: r.ID, By: r.By, Node: text("node"), NodeRE: text("nodere"), Interfaces: r.Interfaces,
		Timeout: r.Timeout, Progress: r.Progress, Packets: r.Packets, Bytes: r.Bytes, Stop: r.Stop, RollCall: r.RollCall}, nil
}

// A printer is the outlet of -request.
type printer struct {
	to  io.Writer
	mu  sync.Mutex
	err error // the first one of printing
}

// Publish implements outlet.
func (p *printer) Publish(r result.Result) {
	line := r.Encode()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintf(p.to, "%s\n", line); err != nil && p.err == nil {
		p.err = err
	}
}

// readRequest returns the text of -request or -publish; a dash stands for standard input.
func readRequest(text string, stdin io.Reader) ([]byte, error) {
	if text != standardStream {
		return []byte(text), nil
	}
	return io.ReadAll(stdin)
}
