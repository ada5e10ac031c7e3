package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"pcapdaemon/tap"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A roster is a view of who answers a roll call.
type roster struct {
	out, err io.Writer
	table    bool // for people: all at the end; else JSON lines as they come
	present  []result
}

// heard implements view.
func (v *roster) heard(message []byte) {
	p, err := decodeResult(message)
	if err != nil || p.State != statePresent {
		return
	}
	if p.Limits == nil {
		p.Limits = &granted{}
	}
	v.present = append(v.present, p)
	if !v.table {
		jsonLines{v.out, v.err}.heard(message)
	}
}

// fetched implements view: nothing is.
func (*roster) fetched(result, string) {}

// ended implements view: a host has refused to answer.
func (v *roster) ended(r result, _ string) { v.say(r.describe("")) }

// say implements view.
func (v *roster) say(text string) { fmt.Fprintln(v.err, text) }

// draw implements view: it does not take that long.
func (*roster) draw(*following, time.Time) {}

// close implements view: the table, and which names more than one host has.
func (v *roster) close() {
	hosts := map[string]int{}
	for _, p := range v.present {
		hosts[p.Node]++
	}
	if v.table && len(v.present) > 0 {
		v.drawTable(hosts)
		return
	}
	for _, node := range slices.Sorted(maps.Keys(hosts)) {
		if n := hosts[node]; n > 1 {
			v.say(fmt.Sprintf("%s: %d hosts have this name", printable(node), n))
		}
	}
}

// drawTable draws a line for each interface. What hosts say is foreign text.
func (v *roster) drawTable(hosts map[string]int) {
	slices.SortStableFunc(v.present, func(a, b result) int { return cmp.Compare(a.Node, b.Node) })
	table := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tVERSION\tFORMAT\tRUNNING\tAT MOST\tRETURNS\tINTERFACE\tLINK\tRECORDED")
	nth := map[string]int{}
	for _, p := range v.present {
		node := printable(p.Node)
		if n := hosts[p.Node]; n > 1 {
			nth[p.Node]++
			node += fmt.Sprintf(" (%d of %d)", nth[p.Node], n)
		}
		host := []string{node, printable(p.Version), printable(p.Format),
			fmt.Sprintf("%d of %d", p.Running, p.Limits.Captures), p.Limits.String(), p.Limits.returns()}
		interfaces := [][]string{{"none", "-", "-"}}
		if len(p.Interfaces) > 0 {
			interfaces = nil
		}
		for _, i := range p.Interfaces {
			interfaces = append(interfaces, i.cells())
		}
		for _, cells := range interfaces {
			fmt.Fprintln(table, strings.Join(slices.Concat(host, cells), "\t"))
			host = make([]string, len(host)) // is said once
		}
	}
	_ = table.Flush()
}

// cells returns what the table says of an interface.
func (i presented) cells() []string {
	name, link, recorded := printable(i.Name), "down", "-"
	if i.Alias != "" {
		name += " (" + printable(i.Alias) + ")"
	}
	if i.Up {
		link = "up"
	}
	if i.Recorded != nil {
		recorded = formatDuration(fromSeconds(*i.Recorded).Round(time.Second))
	}
	return []string{name, link, recorded}
}

// String returns what a request may ask for.
func (g granted) String() string {
	s := fmt.Sprintf("%d packets, %s, %s", g.Packets, formatSize(g.Bytes), formatDuration(g.span()))
	if g.Snap != 0 && g.Snap != tap.MaxSnap {
		s += fmt.Sprintf(", snap %d", g.Snap)
	}
	return s
}

// returns returns the size of what may be returned, or a dash.
func (g granted) returns() string {
	if g.Return == nil || *g.Return == 0 {
		return "-"
	}
	return formatSize(*g.Return)
}
