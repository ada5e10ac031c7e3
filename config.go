package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/peterbourgon/ff/v3"

	"pcapdaemon/capfile"
	"pcapdaemon/credential"
	"pcapdaemon/encrypt"
	"pcapdaemon/extcap"
	"pcapdaemon/object"
	"pcapdaemon/pubsub"
	"pcapdaemon/store"
	"pcapdaemon/text"
)

// defaultToken is what -cstoken holds when nobody has set it.
const defaultToken = "xxxxxxx"

// leastRecord is the smallest memory of a recorder, in bytes.
const leastRecord = 4 * humanize.MiByte

// mostReturned is the largest value that Redis takes, in bytes.
const mostReturned = 512 * humanize.MiByte

// noChannel is what -resultchannel takes for no results: an empty variable counts as not set.
const noChannel = "none"

// A config is what flags and environment say, checked: what parseConfig
// returns works. It is grouped by who takes it.
type config struct {
	mode    mode
	noWait  bool   // the client leaves as soon as the request is published
	request string // of -request, -publish or -rollcall: JSON, or - for standard input; of -fetch: the id
	// identities open encrypted captures that are fetched; nil: they stay as they are.
	identities *encrypt.Identities
	packets    string // file for the packets of all hosts, or - for standard output; empty: none
	node       string
	limits     limits
	capacity   capacity
	record     recordConfig
	filter     string // that every packet has to pass; empty: none
	redis      redisConfig
	delivery   deliveryConfig
	format     string // of capture files
	listen     string // host:port; empty: no endpoint
	log        logConfig
	// exposed names the flags that put a secret on the command line, where ps shows it.
	exposed []string
}

// A capacity is what all captures together may take.
type capacity struct {
	captures int64 // at one time
	memory   int64 // bytes
	buffer   int64 // of the kernel, for one capture, in bytes
	// share is how long after the first request equal ones share its capture.
	share time.Duration
}

// A recordConfig says what is recorded all the time.
type recordConfig struct {
	interfaces []string
	size       int64 // bytes for each of them
}

// A redisConfig says where requests come from and where results go.
type redisConfig struct {
	server            *pubsub.Server
	requests, results string // channels; no results: empty
}

// A deliveryConfig says where captures go.
type deliveryConfig struct {
	upload       bool
	shark        sharkConfig
	store        storeConfig
	writeLocal   bool
	dir          string        // absolute; empty: none
	dirSize      int64         // bytes of all captures there; 0: no bound
	dirAge       time.Duration // of a capture there; 0: no bound
	spool        string        // absolute; empty: none
	spoolSize    int64         // bytes
	drainTimeout time.Duration // for all that is left at a stop
	// encrypt are those who can open captures; nil: everybody can.
	encrypt *encrypt.Recipients
}

// A sharkConfig says how CloudShark is reached.
type sharkConfig struct {
	scheme, host, token string
	timeout             time.Duration  // for one capture, retries included
	cas                 *x509.CertPool // nil: the system's
	insecure            bool
}

// A storeConfig says where objects are stored.
type storeConfig struct {
	given   bool
	address object.Address
	keys    *object.Keys // of a bucket
	token   string       // of a web server; empty: none
	cas     *x509.CertPool
}

// A logConfig says what is logged and how.
type logConfig struct{ level, format string }

// parseConfig reads the command line and the environment. It returns
// flag.ErrHelp after printing the flags to stdout, with the reason if it could not; any
// other error is one line that names the flag and what it takes.
func parseConfig(args []string, stdout io.Writer) (config, error) {
	var c config
	var raw rawConfig
	fs := flags(&c, &raw)
	// Twice, because only after the first time it is known what stood on the command line.
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		if _, failed := io.WriteString(stdout, help(fs)); failed != nil {
			return c, fmt.Errorf("%w: %w", err, failed)
		}
		return c, err
	} else if err != nil {
		return c, err
	}
	words := fs.Args()
	fs.Visit(func(f *flag.Flag) {
		if f.Name == "cstoken" || f.Name == "redisurl" && pubsub.HoldsSecret(raw.redisURL) ||
			f.Name == "storeurl" && object.HoldsSecret(raw.storeURL) {
			c.exposed = append(c.exposed, f.Name)
		}
	})
	err := c.readVariables(fs)
	if err != nil {
		return c, err
	}
	raw.given = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { raw.given[f.Name] = true })
	if c.mode, c.request, err = raw.mode(words); err != nil || c.mode == versioning {
		return c, err
	}
	return c, c.check(raw)
}

// parseVariables reads the environment alone, for who has a command line of another kind. With
// an error, what could be read of it is there.
func parseVariables() (config, extcap.Settings, error) {
	var c config
	var raw rawConfig
	fs := flags(&c, &raw)
	err := c.readVariables(fs)
	if raw.redisURL == "" {
		raw.redisURL = "redis://" + net.JoinHostPort(strings.Trim(raw.redisNode, "[]"), strconv.FormatInt(raw.redisPort, 10))
	}
	return c, extcap.Settings{RedisURL: raw.redisURL, CAFile: raw.redisCAFile, Requests: c.redis.requests,
		Results: c.redis.results}, err
}

// readVariables sets what the command line has left from the environment. With an error,
// what could be read is there.
func (c *config) readVariables(fs *flag.FlagSet) error {
	err := ff.Parse(fs, nil, ff.WithEnvVarPrefix("PCAPDAEMON"))
	if c.redis.results == noChannel {
		c.redis.results = ""
	}
	if err != nil {
		return errors.Unwrap(err)
	}
	return checkVariables(fs)
}

// newServer returns the server of an address and of a file of CA certificates. Its error does not
// quote the address.
func newServer(address, caFile string) (*pubsub.Server, error) {
	var c redisConfig
	err := c.check(rawConfig{redisNode: "none", redisURL: address, redisCAFile: caFile})
	return c.server, err
}

// check completes the config from raw and refuses what cannot work together.
func (c *config) check(raw rawConfig) error {
	c.lowerDefaults(raw.given)
	c.delivery.store.given = raw.storeURL != ""
	c.limits.onlyReturns = !c.delivery.upload && !c.delivery.writeLocal && !c.delivery.store.given
	if err := cmp.Or(c.checkClient(), c.checkValues()); err != nil {
		return err
	}
	if c.listen != "" {
		if _, port, err := net.SplitHostPort(c.listen); err != nil || !isPort(port) {
			return fmt.Errorf("-listen takes host:port or :port, not %q", c.listen)
		}
	}
	if err := c.checkInterfaces(raw); err != nil {
		return err
	}
	if c.mode.usesRedis() {
		if err := c.redis.check(raw); err != nil {
			return err
		}
	}
	if err := c.checkEncryption(raw); err != nil {
		return err
	}
	switch {
	case c.mode.delivers():
		return c.delivery.check(raw)
	case c.mode == publishing || c.mode == fetching:
		return absoluteDirectory("-destdir", &c.delivery.dir)
	}
	return nil
}

// checkClient refuses what a client cannot do, or lacks.
func (c *config) checkClient() error {
	switch {
	case c.noWait && c.mode != publishing:
		return errors.New("-nowait needs a request to publish: give -publish")
	case c.packets != "" && (c.mode != publishing || c.noWait):
		return errors.New("-w writes the packets that hosts capture: give -publish, and not -nowait")
	case c.mode.asks() && !c.noWait && c.redis.results == "":
		return fmt.Errorf("%s waits for results and needs a -resultchannel", c.mode.flag())
	case c.mode == fetching && c.redis.results == "":
		return errors.New("-fetch looks for keys that begin with the -resultchannel, and needs one")
	case c.mode == fetching && c.delivery.dir == "":
		return errors.New("-fetch needs a -destdir to fetch captures into")
	}
	return nil
}

// checkValues refuses values that are wrong, or do not go together.
func (c *config) checkValues() error {
	switch {
	case c.limits.returned > 0 && c.limits.returned < capfile.HeaderSize:
		return fmt.Errorf("-maxreturn takes 0, or %d bytes to %s", capfile.HeaderSize, text.FormatSize(mostReturned))
	case c.limits.returned > 0 && c.redis.results == "":
		return errors.New("-maxreturn returns captures beside the results and needs a -resultchannel")
	case c.mode == requesting && c.limits.onlyReturns:
		return errors.New("nowhere to deliver the capture to: give -upload, -storeurl, or -writelocal with -destdir")
	case c.mode.delivers() && c.limits.onlyReturns && c.limits.returned == 0:
		return errors.New("nowhere to deliver captures to: give -upload, -storeurl, -writelocal with -destdir, or -maxreturn")
	case c.redis.requests == "":
		return errors.New("-redischannel takes the name of a channel")
	case c.redis.requests == c.redis.results: // each result would be refused, with a result
		return fmt.Errorf("-resultchannel takes another channel than -redischannel %s", text.Quote(c.redis.requests))
	case strings.ContainsFunc(c.filter, unicode.IsControl) || utf8.RuneCountInString(c.filter) > maxFilter:
		return fmt.Errorf("-filter takes a pcap-filter(7) expression of at most %d characters, "+
			"without control characters", maxFilter)
	case c.node == "" || utf8.RuneCountInString(c.node) > maxName || strings.ContainsFunc(c.node, unicode.IsControl):
		return fmt.Errorf("-node takes a name of 1 to %d characters, without control characters", maxName)
	case c.delivery.writeLocal && c.delivery.dir == "":
		return errors.New("-writelocal needs a -destdir")
	case c.limits.defaultTimeout > c.limits.timeout:
		return fmt.Errorf("-defaulttimeout %s is above -maxtimeout %s",
			text.FormatDuration(c.limits.defaultTimeout), text.FormatDuration(c.limits.timeout))
	case c.limits.bytes > c.capacity.memory:
		return fmt.Errorf("-maxbytes %s is above -maxmemory %s",
			text.FormatSize(c.limits.bytes), text.FormatSize(c.capacity.memory))
	}
	return nil
}

// checkEncryption reads the keys for captures: the daemon's, and those of a client.
func (c *config) checkEncryption(raw rawConfig) error {
	var err error
	if raw.encrypt != "" && c.mode.delivers() {
		if c.delivery.encrypt, err = encrypt.ParseRecipients(raw.encrypt); err != nil {
			return fmt.Errorf("-encrypt: %w", err)
		}
		c.limits.encrypted = c.delivery.encrypt
		if c.delivery.upload {
			return errors.New("-encrypt: CloudShark cannot read what is encrypted: give no -upload")
		}
	}
	if raw.identityFile != "" && (c.mode == publishing || c.mode == fetching) {
		if c.identities, err = encrypt.ReadIdentities(raw.identityFile); err != nil {
			return fmt.Errorf("-identityfile %s: %w", raw.identityFile, err)
		}
	}
	return nil
}

// hosts returns the names by which the endpoint may be asked.
func (c config) hosts() []string {
	listens, _, _ := net.SplitHostPort(c.listen)
	host, _ := os.Hostname()
	return []string{listens, host, c.node}
}

// checkInterfaces completes the lists of interfaces.
func (c *config) checkInterfaces(raw rawConfig) error {
	if raw.interfaces != "all" {
		if err := c.limits.nameInterfaces(raw.interfaces); err != nil {
			return err
		}
	}
	if raw.record == "" || c.mode != serving {
		return nil
	}
	names, ok := splitNames(raw.record)
	if !ok {
		return fmt.Errorf("-record takes interface names separated by commas, not %q", raw.record)
	}
	for _, name := range names {
		device := cmp.Or(c.limits.aliases[name], name)
		own := ownName(device)
		if !c.limits.allows(device) && !c.limits.allows(own) {
			return fmt.Errorf("-record takes interfaces that are in -interfaces, and %q is not", name)
		}
		if !slices.Contains(c.record.interfaces, own) {
			c.record.interfaces = append(c.record.interfaces, own)
		}
	}
	c.limits.recorded = c.record.interfaces
	return nil
}

// lowerDefaults keeps a default from being above a maximum that was given.
func (c *config) lowerDefaults(given map[string]bool) {
	if !given["defaulttimeout"] {
		c.limits.defaultTimeout = min(c.limits.defaultTimeout, c.limits.timeout)
	}
	if !given["maxbytes"] {
		c.limits.bytes = min(c.limits.bytes, c.capacity.memory)
	}
}

// check completes what is needed to reach Redis. Its errors do not quote
// the address, which may hold a password.
func (c *redisConfig) check(raw rawConfig) error {
	host := strings.TrimSuffix(strings.TrimPrefix(raw.redisNode, "["), "]")
	if host == "" || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return fmt.Errorf("-redisnode takes a host name or IP address, and -redisport the port, not %q", raw.redisNode)
	}
	c.server = &pubsub.Server{Addresses: []string{net.JoinHostPort(host, strconv.FormatInt(raw.redisPort, 10))}}
	var err error
	if raw.redisURL != "" {
		if c.server, err = pubsub.ParseURL(raw.redisURL); err != nil {
			return fmt.Errorf("-redisurl %w", err)
		}
	}
	if raw.redisCAFile != "" {
		c.server.CAs, err = credential.ReadCAs(raw.redisCAFile)
	}
	if err != nil {
		return fmt.Errorf("-rediscafile: %w", err)
	}
	return nil
}

// absoluteDirectory makes what a flag holds, if anything, the absolute path of a
// directory that can be written.
func absoluteDirectory(flag string, path *string) error {
	if *path == "" {
		return nil
	}
	absolute, err := filepath.Abs(*path)
	if err == nil {
		err = store.CheckWritable(absolute)
	}
	if err != nil {
		return fmt.Errorf("%s takes a directory that can be written: %s: %w", flag, *path, err)
	}
	*path = absolute
	return nil
}

// makeState makes a directory in one that systemd has made for what the daemon
// keeps (systemd.exec(5)). Elsewhere a directory that is missing is a mistake.
func makeState(dir string) {
	if slices.Contains(filepath.SplitList(os.Getenv("STATE_DIRECTORY")), filepath.Dir(dir)) {
		_ = os.Mkdir(dir, 0o750) // what is wrong with it is said by whoever needs it
	}
}

// check completes what is needed to deliver captures.
func (c *deliveryConfig) check(raw rawConfig) error {
	if err := absoluteDirectory("-destdir", &c.dir); err != nil {
		return err
	}
	makeState(c.spool)
	if err := absoluteDirectory("-spooldir", &c.spool); err != nil {
		return err
	}
	if c.dir != "" && c.dir == c.spool {
		return errors.New("-spooldir takes another directory than -destdir: " +
			"captures there would be removed with the old ones")
	}
	if raw.csTokenFile == "" && c.shark.token == defaultToken {
		raw.csTokenFile = credential.Find("cstoken")
	}
	if raw.csTokenFile != "" {
		var err error
		if c.shark.token, err = credential.ReadToken(raw.csTokenFile); err != nil {
			return fmt.Errorf("-cstokenfile: %w", err)
		}
	}
	if c.upload && (c.shark.token == defaultToken || c.shark.token == "") {
		return errors.New("-upload needs the API token of CloudShark in -cstoken or -cstokenfile")
	}
	if !isHost(c.shark.host) {
		return fmt.Errorf("-cshost takes host or host:port, not %q", c.shark.host)
	}
	var err error
	if c.shark.cas, err = credential.ReadCAsBesideSystem(raw.csCAFile); err != nil {
		return fmt.Errorf("-cscafile: %w", err)
	}
	return c.store.check(raw)
}

// check completes what is needed to store objects. Its errors do not quote the
// address, which may hold a password.
func (c *storeConfig) check(raw rawConfig) error {
	var err error
	if c.cas, err = credential.ReadCAsBesideSystem(raw.storeCAFile); err != nil {
		return fmt.Errorf("-storecafile: %w", err)
	}
	if !c.given {
		return nil
	}
	if c.address, err = object.ParseAddress(raw.storeURL); err != nil {
		return fmt.Errorf("-storeurl %w", err)
	}
	if c.token = os.Getenv(storeTokenVariable); c.token != "" && !c.address.TakesToken() {
		return fmt.Errorf("%s is for a -storeurl of http or https without a user", storeTokenVariable)
	}
	if strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%s takes a token of printable ASCII, without spaces", storeTokenVariable)
	}
	if c.address.IsBucket() {
		if c.keys, err = object.FindKeys(c.cas); err != nil {
			return fmt.Errorf("-storeurl: %w", err)
		}
	}
	return nil
}

// isHost reports whether s is a host, or a host and a port, and nothing else that
// a URL may have.
func isHost(s string) bool {
	u, err := url.Parse("http://" + s)
	if err != nil || u.Host != s || u.Hostname() == "" || strings.Contains(u.Hostname(), ":") && s[0] != '[' {
		return false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return u.Port() == "" || err == nil && port > 0
}

// isPort reports whether s is a port number.
func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
