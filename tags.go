package main

import (
	"slices"
	"strconv"
	"strings"
)

// maxTags is the number of tags that CloudShark takes.
const maxTags = 30

// uploadTags returns the tags of a capture: all that the first request and its
// host give, where the request's own give way if they are too many, then what
// the others add.
func uploadTags(askers []asker, node, iface string) []string {
	first := askers[0].request
	ours := append(first.marks(), "node:"+flat(node), "interface:"+flat(iface))
	tags := first.tags()
	tags = append(tags[:min(len(tags), maxTags-len(ours))], ours...)
	for _, a := range askers[1:] {
		for _, tag := range slices.Concat(a.request.tags(), a.request.marks()) {
			if len(tags) == maxTags {
				return tags
			}
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// tags returns the request's own tags.
func (r request) tags() []string {
	var tags []string
	for tag := range strings.SplitSeq(r.Tags, ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// marks returns what else of a request becomes a tag.
func (r request) marks() []string {
	var marks []string
	if r.Customer != "" {
		marks = append(marks, "customer:"+flat(r.Customer))
	}
	if r.AlertID != nil {
		marks = append(marks, "alertid:"+strconv.FormatUint(*r.AlertID, 10))
	}
	return marks
}

// flat returns a text as a part of one tag, which commas would end.
func flat(text string) string { return strings.ReplaceAll(text, ",", "_") }
