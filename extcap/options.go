package extcap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
	"pcapdaemon/text"
)

// defaultSeconds is how long hosts capture if nothing else is chosen: who looks at
// packets does not want that to end by itself after a minute.
const defaultSeconds = 600

// anyHost names all hosts.
const anyHost = "any"

// options are what Wireshark says on the command line.
type options struct {
	settings Settings

	listInterfaces, listLinks, configure, capture bool
	reload                                        string // option whose values are to be loaded
	filter                                        string // a capture filter
	checks                                        bool   // whether it is one
	fifo                                          string

	hosts, host   string // a pattern, or any; one of them
	iface, listed string // what is typed, and what is picked from a list
	lookback      int64  // seconds
	seconds       int64  // 0: the host's default
	packets       int64  // 0: the host's limit

	redisURL, caFile       string
	requests, results      string // channels
	password, passwordFile string
}

// parse reads the command line. With an error, the options before it are there.
func parse(args []string, s Settings) (options, error) {
	o := options{settings: s}
	var iface, version string
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.BoolVar(&o.listInterfaces, "extcap-interfaces", false, "")
	fs.StringVar(&version, "extcap-version", "", "")
	fs.BoolVar(&o.listLinks, "extcap-dlts", false, "")
	fs.BoolVar(&o.configure, "extcap-config", false, "")
	fs.StringVar(&o.reload, "extcap-reload-option", "", "")
	fs.StringVar(&o.filter, "extcap-capture-filter", "", "")
	fs.StringVar(&iface, "extcap-interface", "", "")
	fs.BoolVar(&o.capture, "capture", false, "")
	fs.StringVar(&o.fifo, "fifo", "", "")

	fs.StringVar(&o.hosts, "nodere", "", "")
	fs.StringVar(&o.host, "node", "", "")
	fs.StringVar(&o.iface, "interface", "default", "")
	fs.StringVar(&o.listed, "listed", "", "")
	fs.Int64Var(&o.lookback, "lookback", 0, "")
	fs.Int64Var(&o.seconds, "timeout", defaultSeconds, "")
	fs.Int64Var(&o.packets, "packets", 0, "")
	fs.StringVar(&o.redisURL, "redisurl", "", "")
	fs.StringVar(&o.caFile, "rediscafile", s.CAFile, "")
	fs.StringVar(&o.requests, "redischannel", s.Requests, "")
	fs.StringVar(&o.results, "resultchannel", s.Results, "")
	fs.StringVar(&o.password, "password", "", "")
	fs.StringVar(&o.passwordFile, "passwordfile", "", "")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	fs.Visit(func(f *flag.Flag) { o.checks = o.checks || f.Name == "extcap-capture-filter" })
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("argument %s is no option", text.Quote(fs.Arg(0)))
	case !o.listInterfaces && iface != name:
		return o, fmt.Errorf("--extcap-interface takes %s, not %s", name, text.Quote(iface))
	case o.capture && o.fifo == "":
		return o, errors.New("--capture needs a --fifo")
	}
	return o, nil
}

// request returns what the hosts are asked for.
func (o options) request() ([]byte, error) {
	fields, err := o.addressees()
	if err != nil {
		return nil, err
	}
	fields["interface"] = o.iface
	if o.listed != "" {
		fields["interface"] = o.listed
	} else if strings.Contains(o.iface, ",") {
		fields["interface"] = strings.Split(strings.ReplaceAll(o.iface, " ", ""), ",")
	}
	if o.filter != "" {
		fields["bpf"] = o.filter
	}
	for field, n := range map[string]int64{"lookback": o.lookback, "timeout": o.seconds, "packets": o.packets} {
		if n != 0 {
			fields[field] = n
		}
	}
	return text.JSON(fields), nil
}

// addressees returns the fields of a request that say which hosts are meant.
func (o options) addressees() (map[string]any, error) {
	switch {
	case o.host != "":
		return map[string]any{"node": o.host}, nil
	case o.hosts == anyHost:
		return map[string]any{"node": anyHost}, nil
	case o.hosts != "":
		return map[string]any{"nodere": o.hosts}, nil
	}
	return nil, errors.New("no hosts are chosen: say in the options of " + name +
		" (the wheel beside it) which hosts capture; any is all of them")
}

// client returns how to ask, with the options filled in.
func (o options) client(p Program) (client.Options, error) {
	ask := p.Client
	ask.Name, ask.Dir, ask.Requests, ask.Results = "options", "", o.requests, o.results
	switch {
	case o.requests == "":
		return ask, errors.New("no channel for requests is given")
	case o.results == "":
		return ask, errors.New("no channel for results is given: hosts that publish none cannot be followed")
	}
	var err error
	ask.Server, err = o.server(p)
	return ask, err
}

// server returns the server of the options. Secrets of the settings go to their own server alone.
func (o options) server(p Program) (*pubsub.Server, error) {
	address := o.settings.RedisURL
	isTyped := o.redisURL != "" && o.redisURL != shown(address)
	if isTyped {
		address = o.redisURL
	}
	s, err := p.Server(address, o.caFile)
	if err != nil {
		return nil, err
	}
	password := o.password
	if password == "" && o.passwordFile != "" {
		content, err := os.ReadFile(o.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("password: %w", err)
		}
		password = strings.TrimSpace(string(content))
	}
	if password == "" {
		return s, nil
	}
	if isTyped && s.User == "" {
		s.User = s.Password // a single name before the @ is the password, unless that is given apart
	}
	s.Password = password
	return s, nil
}

// shown returns an address without its secrets, and nothing of what is no address.
func shown(address string) string {
	s, err := pubsub.ParseURL(address)
	if err != nil {
		return ""
	}
	return s.URL(false)
}
