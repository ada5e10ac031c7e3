package client

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
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

// drawTable draws a line for each interface. What hosts say is foreign text.
func (v *roll) drawTable(hosts map[string]int) {
	slices.SortStableFunc(v.present, func(a, b result.Result) int { return cmp.Compare(a.Node, b.Node) })
	table := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tVERSION\tFORMAT\tRUNNING\tAT MOST\tRETURNS\tINTERFACE\tLINK\tRECORDED")
	nth := map[string]int{}
	for _, p := range v.present {
		node := text.Printable(p.Node)
		if n := hosts[p.Node]; n > 1 {
			nth[p.Node]++
			node += fmt.Sprintf(" (%d of %d)", nth[p.Node], n)
		}
		host := []string{node, text.Printable(p.Version), text.Printable(p.Format),
			fmt.Sprintf("%d of %d", p.Running, p.Limits.Captures), describeLimits(*p.Limits), p.Limits.Returns()}
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
}

// describeLimits returns what a request may ask for.
func describeLimits(g result.Limits) string {
	s := fmt.Sprintf("%d packets, %s, %s", g.Packets, text.FormatSize(g.Bytes), text.FormatDuration(g.Duration()))
	if g.Snap != 0 && g.Snap != capfile.MaxSnap {
		s += fmt.Sprintf(", snap %d", g.Snap)
	}
	return s
}
