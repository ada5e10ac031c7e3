package tap

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxRoutes is how many routes are looked at, default ones come first: a
// router may have a million, and requests wait meanwhile.
const maxRoutes = 1000

// errNoRoute says that there is no interface with a default route.
var errNoRoute = errors.New("interface: default: there is no default route")

// A routeTable is how the kernel writes one of its tables to /proc/net.
type routeTable struct {
	path   string
	fields int // in a line
	// The columns of what matters, counted from 0.
	destination, mask, metric, device int
	// anywhere and nothing are the destination and the mask of a default route.
	anywhere, nothing string
	base              int // of the metric's digits
}

// routeTables are the tables of IPv4 and IPv6 (proc_pid_net(5)).
func routeTables() []routeTable {
	return []routeTable{
		{"/proc/self/net/route", 11, 1, 7, 6, 0, "00000000", "00000000", 10},
		{"/proc/self/net/ipv6_route", 10, 0, 1, 5, 9, strings.Repeat("0", 32), "00", 16},
	}
}

// FindDefault returns the interface of the default route with the lowest
// metric, IPv4 first, then IPv6.
func FindDefault() (string, error) { return findIn(routeTables()) }

// findIn looks into tables, one after the other.
func findIn(tables []routeTable) (string, error) {
	for _, table := range tables {
		file, err := os.Open(table.path)
		if err != nil {
			continue // no such protocol here
		}
		device := table.find(file)
		file.Close()
		if device != "" {
			return device, nil
		}
	}
	return "", errNoRoute
}

// find returns the interface of the table's best default route, or nothing.
func (t routeTable) find(text io.Reader) (device string) {
	lines := bufio.NewScanner(text)
	var best uint64
	for n := 0; n < maxRoutes && lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) < t.fields || fields[t.destination] != t.anywhere || fields[t.mask] != t.nothing {
			continue
		}
		metric, err := strconv.ParseUint(fields[t.metric], t.base, 64)
		// The loopback interface has a default route that leads nowhere; so does one
		// without interface, as made by "ip route add unreachable default".
		if err == nil && fields[t.device] != "lo" && fields[t.device] != "*" && (device == "" || metric < best) {
			device, best = fields[t.device], metric
		}
	}
	return device
}
