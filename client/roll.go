package client

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/text"
)

// A roll is a view of who answers a roll call.
type roll struct {
	out, err io.Writer
	table    bool // for people: all at the end; else JSON lines as they come
	present  []result.Result
}

// heard implements view.
func (v *roll) heard(message []byte) {
	p, err := result.Decode(message)
	if err != nil || p.State != result.Present {
		return
	}
	if p.Limits == nil {
		p.Limits = &result.Limits{}
	}
	v.present = append(v.present, p)
	if !v.table {
		jsonLines{v.out, v.err}.heard(message)
	}
}

// fetched implements view: nothing is.
func (*roll) fetched(result.Result, string) {}

// ended implements view: a host has refused to answer.
func (v *roll) ended(r result.Result, _ string) { v.say(r.Describe("")) }

// say implements view.
func (v *roll) say(text string) { fmt.Fprintln(v.err, text) }

// draw implements view: it does not take that long.
func (*roll) draw(*session, time.Time) {}

// close implements view: the table, and which names more than one host has.
func (v *roll) close() {
	hosts := map[string]int{}
	for _, p := range v.present {
		hosts[p.Node]++
	}
	defer v.sayTrouble()
	if v.table && len(v.present) > 0 {
		v.drawTable(hosts)
		return
	}
	for _, node := range slices.Sorted(maps.Keys(hosts)) {
		if n := hosts[node]; n > 1 {
			v.say(fmt.Sprintf("%s: %d hosts have this name", text.Printable(node), n))
		}
	}
}

// sayTrouble says which hosts can capture nothing, and why.
func (v *roll) sayTrouble() {
	for _, p := range v.present {
		if p.Trouble != "" {
			v.say(text.Printable(p.Node) + ": nothing can be captured: " + text.Printable(p.Trouble))
		}
	}
}

// drawTable draws a line for each interface, and below that what may be asked for: hosts that
// grant the same have a line together. What hosts say is foreign text.
func (v *roll) drawTable(hosts map[string]int) {
	slices.SortStableFunc(v.present, func(a, b result.Result) int { return cmp.Compare(a.Node, b.Node) })
	names := make([]string, len(v.present))
	nth := map[string]int{}
	for i, p := range v.present {
		names[i] = text.Printable(p.Node)
		if n := hosts[p.Node]; n > 1 {
			nth[p.Node]++
			names[i] += fmt.Sprintf(" (%d of %d)", nth[p.Node], n)
		}
	}
	table := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tFORMAT\tRUNNING\tINTERFACE\tLINK\tRECORDED")
	for i, p := range v.present {
		host := []string{names[i], text.Printable(p.Format), fmt.Sprintf("%d of %d", p.Running, p.Limits.Captures)}
		interfaces := [][]string{{"none", "-", "-"}}
		if len(p.Interfaces) > 0 {
			interfaces = nil
		}
		for _, i := range p.Interfaces {
			interfaces = append(interfaces, i.Cells())
		}
		for _, cells := range interfaces {
			fmt.Fprintln(table, strings.Join(slices.Concat(host, cells), "\t"))
			host = make([]string, len(host)) // is said once
		}
	}
	_ = table.Flush()
	v.drawGrants(names)
}

// drawGrants draws what may be asked for of hosts with these names.
func (v *roll) drawGrants(names []string) {
	var grants []string // as they come
	nodes := map[string][]string{}
	for i, p := range v.present {
		grant := describeGrant(p)
		if nodes[grant] == nil {
			grants = append(grants, grant)
		}
		nodes[grant] = append(nodes[grant], names[i])
	}
	if len(grants) == 1 && len(names) > 1 {
		nodes[grants[0]] = []string{"all"}
	}
	fmt.Fprintln(v.out)
	table := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VERSION\tPACKETS\tBYTES\tTIME\tSNAP\tRETURN\tNODES")
	for _, grant := range grants {
		for _, some := range wrap(nodes[grant], nodesColumns) {
			fmt.Fprintln(table, grant+"\t"+some)
			grant = strings.Repeat("\t", strings.Count(grant, "\t")) // is said once
		}
	}
	_ = table.Flush()
}

// nodesColumns is how wide the names are that stand in a line: the table then fits in 60 columns.
const nodesColumns = 12

// wrap lists words in lines of at most so many columns, unless a word is wider.
func wrap(words []string, columns int) (lines []string) {
	for _, word := range words {
		if n := len(lines) - 1; n >= 0 && width(lines[n]+", "+word) <= columns {
			lines[n] += ", " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}

// describeGrant returns the version of a host and the most that a request may ask of it, as cells.
func describeGrant(p result.Result) string {
	snap := "-"
	if s := p.Limits.Snap; s != 0 && s != capfile.MaxSnap {
		snap = strconv.FormatInt(s, 10)
	}
	return strings.Join([]string{text.Printable(p.Version), strconv.FormatInt(p.Limits.Packets, 10),
		text.FormatSize(p.Limits.Bytes), text.FormatDuration(p.Limits.Duration()), snap, p.Limits.Returns()}, "\t")
}
