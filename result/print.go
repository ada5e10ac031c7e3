package result

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"pcapdaemon/text"
)

// Describe returns a result in a line for people, with the file that was fetched.
func (r Result) Describe(fetched string) string {
	words := []string{text.Printable(r.Node), text.Printable(r.Interface), text.Printable(r.State)}
	if r.Stop != "" {
		words = append(words, fmt.Sprintf("%d packets, %s, %d dropped, stopped by %s",
			r.Packets, humanize.IBytes(uint64(max(r.Bytes, 0))), r.Dropped+r.IfDropped, text.Printable(r.Stop)))
	}
	words = append(words, text.Escape(r.URL), text.Escape(r.Stored), text.Escape(r.File), fetched, text.Printable(r.Error))
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	return strings.Join(words, "  ")
}

// Cells returns what the table says of an interface.
func (i Interface) Cells() []string {
	name, link, recorded := text.Printable(i.Name), "down", "-"
	if i.Alias != "" {
		name += " (" + text.Printable(i.Alias) + ")"
	}
	if i.Up {
		link = "up"
	}
	if i.Recorded != nil {
		recorded = text.FormatDuration(Seconds(*i.Recorded).Round(time.Second))
	}
	return []string{name, link, recorded}
}

// Returns returns the size of what may be returned, or a dash.
func (g Limits) Returns() string {
	if g.Return == nil || *g.Return == 0 {
		return "-"
	}
	return text.FormatSize(*g.Return)
}
