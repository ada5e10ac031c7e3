// Package descriptors divides what a process may have open, so that what it begins can also end:
// a capture that finds no descriptor for its file would be lost. It knows no file and no socket.
package descriptors

import (
	"math"

	"golang.org/x/sys/unix"
)

// passingShare is the part of the limit that what is open for a moment may have: below some
// hundred descriptors, captures count more.
const passingShare = 8

// Limit returns how many descriptors this process may have at one time. The Go runtime has
// raised that to the hard limit at the start.
func Limit() int64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int64(limit.Cur)
}

// A Budget says how many descriptors are needed, at most.
type Budget struct {
	Always  int64 // all the time
	Passing int64 // for a moment, whatever is captured: look-ups, filters, connections of others
	Capture int64 // by one capture, from its beginning until it is delivered; more than 0
}

// Captures returns how many captures a limit allows at one time, those being delivered included.
func (b Budget) Captures(limit int64) int64 {
	return max(0, (limit-b.Always-min(b.Passing, limit/passingShare))/b.Capture)
}
