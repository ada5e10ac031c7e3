package store

import (
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/encrypt"
)

// fileTime is the start of a capture as its file's name tells it.
const fileTime = "20060102T150405.000000000Z"

// FileName returns the name of a capture's file: node, interface and time of
// the start.
func FileName(node, iface string, start time.Time, extension string) string {
	return PlainName(node + "-" + iface + "-" + start.UTC().Format(fileTime) + extension)
}

// PlainName returns a text without characters that mean something to a shell or a file system.
func PlainName(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '_'
	}, text)
}

// freeName returns the name, with -2, -3 … before its extension if it is taken.
func freeName(name string, taken func(string) bool) string {
	free := name
	for n := 2; taken(free); n++ {
		free = NumberedName(name, n)
	}
	return free
}

// NumberedName returns the name with a number before its extension: where the first
// file of a name is, the next one gets -2.
func NumberedName(name string, n int) string {
	extension := Extension(name)
	return strings.TrimSuffix(name, extension) + "-" + strconv.Itoa(n) + extension
}

// Extension returns what the name of a capture file ends in: .pcap or .pcapng, and .age
// if it is encrypted; or what another name has after its last dot.
func Extension(name string) string {
	plain := strings.TrimSuffix(name, encrypt.Extension)
	return filepath.Ext(plain) + name[len(plain):]
}

// captureTime returns the start that the name of a capture's file tells; false
// means that this node does not name captures so.
func captureTime(node, name string) (time.Time, bool) {
	rest, found := strings.CutPrefix(name, PlainName(node)+"-")
	if !found {
		return time.Time{}, false
	}
	if !isCapture(rest) {
		return time.Time{}, false
	}
	rest = strings.TrimSuffix(rest, Extension(rest))
	if before, number, found := cutLast(rest, "Z-"); found {
		if n, err := strconv.ParseUint(number, 10, 32); err == nil && n > 1 {
			rest = before + "Z" // one of several that would bear the name
		}
	}
	iface, stamp, _ := cutLast(rest, "-")
	start, err := time.Parse(fileTime, stamp)
	return start, err == nil && iface != "" && len(iface) < unix.IFNAMSIZ
}

// isCapture reports whether the name of a file ends as those of captures do.
func isCapture(name string) bool {
	extension := strings.TrimSuffix(Extension(name), encrypt.Extension)
	return extension == ".pcap" || extension == ".pcapng"
}

// cutLast cuts a text around the last separator.
func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}
