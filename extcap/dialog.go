package extcap

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// An argument is an option of Wireshark's dialog. What it is called on the command line
// is also what it is called in Wireshark's preferences, as in -o extcap.pcapdaemon.nodere:^web.
type argument struct {
	call, display, kind string
	group               string // a tab of the dialog
	initial             string
	more                []string // names and values of what only some have
	tooltip             string
}

// The tabs of the dialog.
const (
	whatTab  = "Capture"
	redisTab = "Redis"
)

// Arguments whose values are lists that a roll call fills.
const (
	hostList      = "node"
	interfaceList = "listed"
)

// arguments returns the options of the dialog. Wireshark 4.0 refuses a list that can be
// edited, so each list stands beside what is typed.
func (o options) arguments() []argument {
	list := []string{"reload", "true"}
	return []argument{
		{"nodere", "Hosts", "string", whatTab, o.hosts, []string{"required", "true", "placeholder", "any, or a pattern such as ^web"},
			"Which hosts capture: any for all, or a regular expression that their names match: " +
				"^web for all that begin with web, ^web1$ for web1 alone"},
		{hostList, "Of these, only", "selector", whatTab, "", list,
			"One of the hosts that answer a roll call: Reload data asks those that the pattern above names"},
		{"interface", "Interface", "string", whatTab, o.iface, []string{"validation", `\s*[^\s,]+(\s*,\s*[^\s,]+)*\s*`},
			"What the interface is called on the hosts, or several with commas; " +
				"default: the one with the default route; any: all at once"},
		{interfaceList, "Instead, this one", "selector", whatTab, "", list,
			"One of the interfaces of the hosts that answer a roll call: Reload data asks them"},
		{"lookback", "Look back (s)", "unsigned", whatTab, "0", []string{"range", "0,86400"},
			"So many seconds before the start the packets begin, on hosts that record the interface (-record)"},
		{"timeout", "Seconds", "unsigned", whatTab, strconv.Itoa(defaultSeconds), []string{"range", "0,31536000"},
			"How long each host captures, unless it is stopped; 0: as long as hosts do by themselves (-defaulttimeout)"},
		{"packets", "Packets", "unsigned", whatTab, "0", []string{"range", "0,2147483647"},
			"How many packets each host captures at most; 0: as many as it may (-maxpackets)"},

		{"redisurl", "Redis address", "string", redisTab, shown(o.settings.RedisURL),
			[]string{"validation", `\s*rediss?(\+sentinel)?://\S+\s*`},
			"redis://host:port, or rediss:// for TLS; several host:port with commas are tried in turn; " +
				"redis+sentinel://host:port,host:port/master for sentinels; a user as in redis://user@host"},
		{"password", "Password", "password", redisTab, "", nil,
			"Wireshark does not store it. A file, or PCAPDAEMON_REDISURL in the environment, need not be typed"},
		{"passwordfile", "Password file", "fileselect", redisTab, "", []string{"mustexist", "true"},
			"A file that holds the password and nothing else"},
		{"rediscafile", "CA file", "fileselect", redisTab, o.caFile, []string{"mustexist", "true"},
			"CA certificates for a rediss:// server; none: the system's"},
		{"redischannel", "Request channel", "string", redisTab, o.requests, nil, "Where the hosts listen (-redischannel)"},
		{"resultchannel", "Result channel", "string", redisTab, o.results, nil, "Where the hosts answer (-resultchannel)"},
	}
}

// dialog returns the sentences of all options, with what their lists hold before they are loaded.
func (o options) dialog() string {
	var b strings.Builder
	for n, a := range o.arguments() {
		pairs := []string{"number", strconv.Itoa(n), "call", "--" + a.call, "display", a.display, "type", a.kind}
		if a.initial != "" && isPlain(a.initial) {
			pairs = append(pairs, "default", a.initial)
		}
		pairs = append(append(pairs, a.more...), "tooltip", a.tooltip, "group", a.group)
		b.WriteString(sentence("arg", pairs...))
	}
	b.WriteString(o.value(hostList, choice{"", "all that match"}))
	b.WriteString(o.value(interfaceList, choice{"", "what is typed above"}))
	return b.String()
}

// A choice is an entry of a list. The one without a value stands for none.
type choice struct{ value, display string }

// value returns the sentence of an entry in the list of an option, or nothing if it cannot be said.
func (o options) value(call string, c choice) string {
	if !isPlain(c.value) {
		return ""
	}
	n := slices.IndexFunc(o.arguments(), func(a argument) bool { return a.call == call })
	return sentence("value", "arg", strconv.Itoa(n), "value", c.value, "display", c.display,
		"default", strconv.FormatBool(c.value == ""))
}

// sentence returns a line of the kind that Wireshark reads.
func sentence(kind string, pairs ...string) string {
	var b strings.Builder
	b.WriteString(kind + " ")
	for i := 0; i+1 < len(pairs); i += 2 {
		b.WriteString("{" + pairs[i] + "=" + strings.Map(plain, pairs[i+1]) + "}")
	}
	b.WriteByte('\n')
	return b.String()
}

// isPlain reports whether a text can stand in a sentence as it is: there are no escapes.
func isPlain(s string) bool { return s == strings.Map(plain, s) }

// plain returns what stands in a sentence for a character.
func plain(r rune) rune {
	switch {
	case r == '{':
		return '('
	case r == '}':
		return ')'
	case !unicode.IsPrint(r):
		return '.'
	}
	return r
}
