package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"pcapdaemon/capfile"
	"pcapdaemon/client"
	"pcapdaemon/flagvalue"
	"pcapdaemon/tap"
	"pcapdaemon/text"
)

// A mode is what the program is started for.
type mode int

const (
	serving     mode = iota // what comes from Redis
	requesting              // one request, here and without Redis
	publishing              // one request to others, as a client
	rollCalling             // who listens, as a client
	fetching                // what is left in Redis for an id, as a client
	versioning              // print versions
)

// delivers reports whether captures are made, and so have to go somewhere.
func (m mode) delivers() bool { return m == serving || m == requesting }

// usesRedis reports whether a server is needed.
func (m mode) usesRedis() bool { return m == serving || m == fetching || m.asks() }

// asks reports whether this is a client, who needs the answers.
func (m mode) asks() bool { return m == publishing || m == rollCalling }

// rawConfig is what must be looked at as a whole before it is a config.
type rawConfig struct {
	redisNode, redisURL, redisCAFile string
	redisPort                        int64
	csTokenFile, csCAFile            string
	storeURL, storeCAFile            string
	interfaces, record               string
	encrypt, identityFile            string
	request, publish, fetch          string
	version, rollCall                bool
	given                            map[string]bool // names of the flags that were set
}

// mode returns what the flags ask for, and the request that they, and the
// words behind them, hold.
func (raw rawConfig) mode(words []string) (m mode, request string, err error) {
	running, publish, fetch := raw.given["request"], raw.given["publish"], raw.given["fetch"]
	switch {
	case raw.version:
		m = versioning
	case running && publish:
		return 0, "", errors.New("-request runs a request here, -publish asks others: give one of them")
	case raw.rollCall && (running || publish):
		return 0, "", errors.New("-rollcall is a request of its own: give it without -request and -publish")
	case fetch && (running || publish || raw.rollCall):
		return 0, "", errors.New("-fetch asks nobody: give it without -request, -publish and -rollcall")
	case fetch && checkID(raw.fetch) != nil:
		return 0, "", fmt.Errorf("-fetch takes the id of a request: %w", checkID(raw.fetch))
	case running && raw.request == "", publish && raw.publish == "":
		return 0, "", errors.New("-request and -publish take a request as JSON, " +
			"- for standard input, or words such as node=web1")
	case running:
		m, request = requesting, raw.request
	case publish:
		m, request = publishing, raw.publish
	case raw.rollCall:
		m, request = rollCalling, "rollcall=true"
	case fetch:
		m, request = fetching, raw.fetch
	}
	if m.flag() != "" && m != fetching {
		if request, err = client.Spell(request, words); err != nil {
			return 0, "", fmt.Errorf("%s: %w", m.flag(), err)
		}
		return m, request, nil
	}
	if len(words) > 0 && strings.ContainsAny(words[0][:min(len(words[0]), 3)], "–—‒−") {
		return 0, "", fmt.Errorf("argument %q is no flag: flags begin with a plain dash (-), and not with a long one", words[0])
	}
	if len(words) > 0 {
		return 0, "", fmt.Errorf("argument %q is no flag: all options begin with a dash", words[0])
	}
	return m, request, nil
}

// checkID returns why no request can have an id, or nil.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("it is empty")
	case utf8.RuneCountInString(id) > maxID:
		return fmt.Errorf("it has more than %d characters", maxID)
	case strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("it holds a control character: %s", text.Quote(id))
	}
	return nil
}

// flag returns the flag that asks for a mode with a request or an id; empty for other modes.
func (m mode) flag() string {
	return map[mode]string{requesting: "-request", publishing: "-publish", rollCalling: "-rollcall",
		fetching: "-fetch"}[m]
}

// storeTokenVariable holds a bearer token for -storeurl. There is no flag for it,
// which would show it to every user.
const storeTokenVariable = "PCAPDAEMON_STORETOKEN"

// checkVariables refuses variables that look like flags and are none: a
// misspelt one would leave its flag at the default without a word.
func checkVariables(fs *flag.FlagSet) error {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name == storeTokenVariable {
			continue
		}
		if suffix, ours := strings.CutPrefix(name, "PCAPDAEMON_"); ours &&
			(fs.Lookup(strings.ToLower(suffix)) == nil || strings.ToUpper(suffix) != suffix) {
			return fmt.Errorf("%s in the environment is no flag", text.Quote(name))
		}
	}
	return nil
}

// flags ties every flag to its place, with defaults and, where one value
// suffices to judge it, limits.
func flags(c *config, raw *rawConfig) *flag.FlagSet {
	const day = 24 * time.Hour
	host, _ := os.Hostname() // without one, check asks for -node
	fs := flag.NewFlagSet("pcapdaemon", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}

	fs.StringVar(&c.delivery.shark.host, "cshost", "localhost", "CloudShark `host`, optionally host:port")
	fs.Var(flagvalue.Choice(&c.delivery.shark.scheme, "https", "http"), "csscheme", "`scheme` of CloudShark: http or https")
	fs.StringVar(&c.delivery.shark.token, "cstoken", defaultToken, "CloudShark API `token`")
	fs.StringVar(&c.redis.requests, "redischannel", "capture", "Redis `channel` to subscribe to")
	fs.StringVar(&raw.redisNode, "redisnode", "127.0.0.1", "`host` name or IP of the Redis server")
	fs.Var(flagvalue.Number(&raw.redisPort, 6379, 1, 65535), "redisport", "`port` of the Redis server")
	fs.Var(flagvalue.Switch(&c.delivery.upload), "upload", "upload captures to CloudShark")
	fs.Var(flagvalue.Switch(&c.delivery.writeLocal), "writelocal", "write captures to -destdir")
	fs.StringVar(&c.delivery.dir, "destdir", "", "`directory` for locally written captures")

	fs.StringVar(&c.node, "node", host, "this host's node `name`")
	fs.StringVar(&raw.interfaces, "interfaces", "all",
		"comma-separated `list` of interfaces that may be captured on; wan=eth0 gives eth0 a second name")
	fs.StringVar(&c.filter, "filter", "",
		"pcap-filter(7) `expression` that every packet must pass, whatever a request asks for")
	fs.Var(flagvalue.Number(&c.limits.snap, tap.MaxSnap, 1, tap.MaxSnap), "maxsnap",
		"longest snapshot `length` in bytes; a request that names none gets it")
	fs.StringVar(&raw.record, "record", "",
		"comma-separated `list` of interfaces, or their second names, that are always recorded in memory")
	fs.Var(flagvalue.Size(&c.record.size, 64*humanize.MiByte, leastRecord, math.MaxInt64), "recordsize",
		"`size` of the memory that each recorded interface has, beside -maxmemory")
	fs.Var(flagvalue.Number(&c.limits.packets, 100_000, 1, math.MaxInt32), "maxpackets",
		"`number` of packets that one capture may have")
	fs.Var(flagvalue.Size(&c.limits.bytes, 100*humanize.MiByte, capfile.HeaderSize, math.MaxInt64), "maxbytes",
		"`size` of the largest capture file; no more than -maxmemory")
	fs.Var(flagvalue.Size(&c.limits.returned, 0, 0, mostReturned), "maxreturn",
		"`size` of the largest capture that is returned to whoever asked, through Redis; 0: none is")
	fs.Var(flagvalue.Duration(&c.limits.defaultTimeout, time.Minute, time.Millisecond, 365*day), "defaulttimeout",
		"`duration` of a capture whose request names no timeout; no more than -maxtimeout")
	fs.Var(flagvalue.Duration(&c.limits.timeout, time.Hour, time.Second, 365*day), "maxtimeout",
		"`duration` that a request may ask for at most")
	fs.Var(flagvalue.Number(&c.capacity.captures, 16, 1, 1024), "maxcaptures", "`number` of captures at one time")
	fs.Var(flagvalue.Size(&c.capacity.memory, 512*humanize.MiByte, capfile.ChunkSize, math.MaxInt64), "maxmemory",
		"`size` of the memory that all captures together may hold, those being delivered included")
	fs.Var(flagvalue.Size(&c.capacity.buffer, 4*humanize.MiByte, 64*humanize.KiByte, math.MaxInt32), "buffersize",
		"`size` of the kernel buffer of one capture")
	fs.Var(flagvalue.Choice(&c.format, "pcap", "pcapng"), "format", "`format` of capture files: pcap or pcapng")
	fs.Var(flagvalue.Duration(&c.capacity.share, time.Second, 0, day), "share",
		"`duration` after a request within which equal ones share its capture; 0: never")
	fs.StringVar(&c.redis.results, "resultchannel", "capture-results",
		"`channel` on which results are published, not that of requests; empty or none: no results")
	fs.StringVar(&raw.redisURL, "redisurl", "",
		"redis:// or rediss:// `address` with user, password and one or more host:port, or redis+sentinel:// or "+
			"rediss+sentinel:// with the master's name as path; wins over -redisnode and -redisport")
	fs.StringVar(&raw.redisCAFile, "rediscafile", "", "`file` with CA certificates for a rediss:// server")
	fs.StringVar(&raw.csTokenFile, "cstokenfile", "", "`file` that holds the CloudShark token; wins over -cstoken")
	fs.StringVar(&raw.csCAFile, "cscafile", "", "`file` with CA certificates for CloudShark, beside the system's")
	fs.Var(flagvalue.Switch(&c.delivery.shark.insecure), "csinsecure", "do not verify CloudShark's certificate")
	fs.Var(flagvalue.Duration(&c.delivery.shark.timeout, 5*time.Minute, time.Millisecond, day), "cstimeout",
		"`duration` of one capture's upload at most, retries included")
	fs.StringVar(&raw.storeURL, "storeurl", "",
		"store captures at this `address`: https://host/dir/ (HTTP PUT) or s3://bucket/prefix; empty: nowhere")
	fs.StringVar(&raw.storeCAFile, "storecafile", "", "`file` with CA certificates for -storeurl, beside the system's")
	fs.StringVar(&raw.encrypt, "encrypt", "",
		"comma-separated `list` of public keys (age1… or of ssh): every capture is encrypted for them; empty: none is")
	fs.StringVar(&raw.identityFile, "identityfile", "",
		"with -publish or -fetch: `file` with the secret key that opens encrypted captures; empty: they stay encrypted")
	fs.Var(flagvalue.Size(&c.delivery.dirSize, 0, 0, math.MaxInt64), "destsize",
		"`size` of all captures in -destdir; the oldest make room; 0: no bound")
	fs.Var(flagvalue.Duration(&c.delivery.dirAge, 0, 0, 100*365*day), "destage",
		"`duration` for which captures stay in -destdir; 0: for ever")
	fs.StringVar(&c.delivery.spool, "spooldir", "", "`directory` for captures whose upload has to wait; empty: none")
	fs.Var(flagvalue.Size(&c.delivery.spoolSize, humanize.GiByte, 0, math.MaxInt64), "spoolsize",
		"`size` of all captures in -spooldir")
	fs.Var(flagvalue.Duration(&c.delivery.drainTimeout, 30*time.Second, time.Millisecond, day), "draintimeout",
		"`duration` of delivering at most, after a stop signal")
	fs.StringVar(&c.listen, "listen", "",
		"`address` of the HTTP endpoint with a page for people, /metrics and /healthz; empty: none")
	fs.StringVar(&raw.request, "request", "",
		"run this one `request` (JSON, - for standard input, or words) without Redis, print its results, exit")
	fs.StringVar(&raw.publish, "publish", "",
		"publish this `request` (JSON, - for standard input, or words), follow its results, exit")
	fs.StringVar(&raw.fetch, "fetch", "",
		"with -destdir: fetch what is still in Redis for this `id`, exit")
	fs.Var(flagvalue.Switch(&c.noWait), "nowait",
		"with -publish: leave as soon as the request is published, after 3s at most")
	fs.StringVar(&c.packets, "w", "",
		"with -publish: write the packets of all hosts, while they are captured, into this one pcapng `file`; "+
			"-: to standard output")
	fs.Var(flagvalue.Choice(&c.log.level, "info", "debug", "warn", "error"), "loglevel",
		"`level` of the log: debug, info, warn or error")
	fs.Var(flagvalue.Choice(&c.log.format, "text", "json"), "logformat", "`format` of the log: text or json")
	fs.Var(flagvalue.Switch(&raw.rollCall), "rollcall",
		"ask who listens, print a table (JSON lines if standard output is no terminal), exit")
	fs.Var(flagvalue.Switch(&raw.version), "version", "print version, Go version and libpcap version, exit")
	return fs
}

// helpHead is what -h says first.
const helpHead = `usage, with any flags before the words:
  pcapdaemon -upload | -writelocal | -storeurl | -maxreturn     serve requests from Redis
  pcapdaemon [-destdir DIR | -w FILE] -publish WORD... | JSON   ask hosts, and fetch what they capture
  pcapdaemon -rollcall [WORD...]                                ask who listens
  pcapdaemon -writelocal -destdir DIR -request WORD... | JSON   try it here, without Redis

examples:
  pcapdaemon -maxreturn 16MiB
  pcapdaemon -destdir . -publish node=any interface=default timeout=10

Every flag is also a variable, PCAPDAEMON_<FLAG IN CAPITALS>.
`

// A flagGroup is flags that serve one purpose.
type flagGroup struct{ purpose, names string }

// flagGroups are the flags by purpose, in the order in which -h shows them. What is in no other group is in the last.
var flagGroups = []flagGroup{
	{"Asking", "publish w fetch identityfile nowait rollcall request"},
	{"Which captures are made", "node interfaces filter maxsnap maxpackets maxbytes defaulttimeout maxtimeout maxcaptures " +
		"maxmemory buffersize share format"},
	{"Recorder", "record recordsize"},
	{"Redis", "redisnode redisport redisurl rediscafile redischannel resultchannel maxreturn"},
	{"Where captures go", "upload writelocal destdir destsize destage spooldir spoolsize encrypt storeurl storecafile"},
	{"CloudShark", "cshost csscheme cstoken cstokenfile cscafile csinsecure cstimeout"},
	{"The program", "draintimeout listen loglevel logformat version"},
}

// help returns what -h prints.
func help(fs *flag.FlagSet) string {
	var out strings.Builder
	out.WriteString(helpHead)
	shown := map[string]bool{}
	for n, group := range flagGroups {
		one := flag.NewFlagSet("", flag.ContinueOnError)
		show := func(f *flag.Flag) {
			if f != nil && !shown[f.Name] {
				shown[f.Name] = true
				one.Var(f.Value, f.Name, f.Usage)
				one.Lookup(f.Name).DefValue = f.DefValue
			}
		}
		for name := range strings.FieldsSeq(group.names) {
			show(fs.Lookup(name))
		}
		if n == len(flagGroups)-1 {
			fs.VisitAll(show)
		}
		fmt.Fprintf(&out, "\n%s:\n", group.purpose)
		one.SetOutput(&out)
		one.PrintDefaults()
	}
	return out.String()
}
