package extcap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"

	"pcapdaemon/client"
	"pcapdaemon/result"
	"pcapdaemon/text"
)

// mostListed is how many entries a list has: nobody looks through more.
const mostListed = 1000

// load returns the sentences of a list, from a roll call. What goes wrong stands in the
// entry for none: Wireshark shows nothing else.
func (p Program) load(o options) string {
	var entries []choice
	call := strings.TrimLeft(o.reload, "-")
	present, err := p.rollCall(o)
	none := map[string]string{hostList: "all that match", interfaceList: "what is typed above"}[call]
	switch {
	case none == "":
		return ""
	case err != nil:
		none += " (" + text.Printable(err.Error()) + ")"
	case call == hostList:
		entries = listHosts(present)
	default:
		entries = listInterfaces(present)
	}
	return o.list(call, none, entries)
}

// list returns the sentences of a list, with what stands for none, as far as anybody looks through it.
func (o options) list(call, none string, entries []choice) string {
	var b strings.Builder
	for _, c := range append([]choice{{"", none}}, entries[:min(len(entries), mostListed)]...) {
		b.WriteString(o.value(call, c))
	}
	return b.String()
}

// rollCall returns the answers of the hosts that a pattern names, or of all if there is none.
func (p Program) rollCall(o options) ([]result.Result, error) {
	o.host = ""
	if o.hosts == "" {
		o.hosts = anyHost
	}
	fields, err := o.addressees()
	if err != nil {
		return nil, err
	}
	ask, err := o.client(p)
	if err != nil {
		return nil, err
	}
	fields["rollcall"] = true
	var present []result.Result
	var said bytes.Buffer
	answers := results(func(r result.Result) {
		if r.State == result.Present && len(present) < mostListed {
			present = append(present, r)
		}
	})
	switch client.Ask(ask, text.JSON(fields), answers, &said) {
	case client.Unanswered:
		return nil, errors.New("no host answers")
	case client.Done:
		return present, nil
	}
	all := strings.Split(strings.TrimSpace(said.String()), "\n")
	return present, errors.New(strings.TrimPrefix(all[len(all)-1], "pcapdaemon: "))
}

// listHosts returns an entry for each host that has answered.
func listHosts(present []result.Result) []choice {
	hosts := map[string]string{}
	for _, p := range present {
		hosts[p.Node] = fmt.Sprintf("%s: %s", text.Printable(p.Node),
			english.Plural(len(p.Interfaces), "interface", "interfaces"))
	}
	return choices(hosts)
}

// listInterfaces returns an entry for each name by which interfaces can be asked for.
func listInterfaces(present []result.Result) []choice {
	hosts, recorded := map[string]int{}, map[string]int{}
	for _, p := range present {
		for _, i := range p.Interfaces {
			for _, name := range slices.Compact([]string{i.Name, i.Alias}) {
				hosts[name]++
				if i.Recorded != nil {
					recorded[name]++
				}
			}
		}
	}
	delete(hosts, "") // those without a second name
	displays := map[string]string{}
	for name, n := range hosts {
		displays[name] = fmt.Sprintf("%s: on %d of %s", text.Printable(name), n,
			english.Plural(len(present), "host", "hosts"))
		if recorded[name] > 0 {
			displays[name] += fmt.Sprintf(", recorded on %d", recorded[name])
		}
	}
	return choices(displays)
}

// choices returns entries in the order of their values.
func choices(displays map[string]string) []choice {
	var all []choice
	for _, value := range slices.Sorted(maps.Keys(displays)) {
		all = append(all, choice{value, displays[value]})
	}
	return all
}
