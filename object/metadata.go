package object

import (
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"pcapdaemon/store"
)

// maxMetadata is how much an object may bear of what we say of it, in bytes: S3 takes
// 2 KB of names and values.
const maxMetadata = 2000

// metadataPrefix begins the names of headers that become metadata.
const metadataPrefix = "X-Amz-Meta-"

// metadata returns what there is to say about a capture file, as the header that
// makes it an object's metadata. What is short comes first; what does not fit is cut.
func metadata(r store.File) http.Header {
	header, left := http.Header{}, maxMetadata
	add := func(name, value string) {
		value = fitting(value, left-len(metadataPrefix)-len(name))
		if value == "" {
			return
		}
		header.Set(metadataPrefix+name, value)
		left -= len(metadataPrefix) + len(name) + len(value)
	}
	for _, label := range r.Labels {
		add(label.Name, cut(label.Value, 300))
	}
	add("id", r.ID)
	add("tags", cut(strings.Join(otherTags(r), ","), 800))
	add("comments", r.Comments)
	return header
}

// otherTags returns the tags of a capture file that are no labels.
func otherTags(r store.File) []string {
	return slices.DeleteFunc(slices.Clone(r.Tags), func(tag string) bool {
		return slices.ContainsFunc(r.Labels, func(l store.Label) bool {
			return tag == l.Name+":"+strings.ReplaceAll(l.Value, ",", "_")
		})
	})
}

// fitting returns a text as a header takes it, without its end if it is longer
// than so many bytes. What is not ASCII becomes encoded words (RFC 2047), as S3
// itself gives it back.
func fitting(value string, most int) string {
	for value = strings.TrimSpace(value); value != ""; value = cut(value, len(value)*9/10) {
		encoded := mime.QEncoding.Encode("utf-8", strings.ToValidUTF8(value, "\uFFFD"))
		if len(encoded) <= most {
			return strings.Join(strings.Fields(encoded), " ")
		}
	}
	return ""
}

// cut returns the beginning of a text, in bytes, without half a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return strings.TrimSpace(s[:most])
}
