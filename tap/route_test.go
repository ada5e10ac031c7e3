package tap

import (
	"errors"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

func TestFindDefaultRoute(t *testing.T) {
	const v4Head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	zeros := strings.Repeat("0", 32)
	v6 := func(destination, length, metric, device string) string {
		return destination + " " + length + " " + zeros + " 00 " + zeros + " " +
			metric + " 00000001 00000000 00000003     " + device + "\n"
	}
	tables := routeTables()
	for name, test := range map[string]struct {
		table routeTable
		text  string
		want  string
	}{
		"none": {tables[0], v4Head + "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", ""},
		"one":  {tables[0], v4Head + "eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "eth0"},
		"two": {tables[0], v4Head + "eth0\t00000000\t01\t0003\t0\t0\t200\t00000000\t0\t0\t0\n" +
			"wlan0\t00000000\t01\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "wlan0"},
		"two of one metric": {tables[0], v4Head + "eth0\t00000000\t01\t0003\t0\t0\t100\t00000000\t0\t0\t0\n" +
			"wlan0\t00000000\t01\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "eth0"},
		"half of it": {tables[0], v4Head + "tun0\t00000000\t01\t0003\t0\t0\t0\t00000080\t0\t0\t0\n", ""},
		"IPv6":       {tables[1], v6(zeros, "00", "00000400", "eth1") + v6(zeros, "00", "ffffffff", "lo"), "eth1"},
		"IPv6 two":   {tables[1], v6(zeros, "00", "00000400", "eth1") + v6(zeros, "00", "00000064", "eth2"), "eth2"},
		"IPv6 none": {tables[1], v6(strings.Repeat("f", 32), "80", "00000001", "eth1") +
			v6(zeros, "00", "ffffffff", "lo"), ""},
		// As "ip route add unreachable default" makes it.
		"without interface": {tables[0], v4Head + "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth0\t00000000\t01\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "eth0"},
		"nonsense": {tables[0], "x\n\n", ""},
	} {
		if got := test.table.find(strings.NewReader(test.text)); got != test.want {
			t.Errorf("%s: want %q, got %q", name, test.want, got)
		}
	}
}

// TestFindDefaultRouteHere compares with the kernel's own tables, of a namespace that this test makes.
func TestFindDefaultRouteHere(t *testing.T) {
	ns, far := testbed.NewNamespace(t, "route"), testbed.NewNamespace(t, "routefar")
	ns.Pair(t, far)
	find := func() (device string, err error) {
		ns.Do(t, func() {
			for _, table := range routeTables() {
				table.path = strings.Replace(table.path, "/proc/self/", "/proc/thread-self/", 1)
				if device, err = findIn([]routeTable{table}); err == nil {
					return
				}
			}
		})
		return device, err
	}
	if device, err := find(); !errors.Is(err, errNoRoute) {
		t.Errorf("want no route, got %s, %v", device, err)
	}
	ns.IP(t, "-6", "addr", "add", "fd00:99::1/64", "dev", "v0", "nodad")
	ns.IP(t, "-6", "route", "add", "default", "via", "fd00:99::2", "dev", "v0")
	if device, err := find(); device != "v0" || err != nil {
		t.Errorf("IPv6: want v0, got %s, %v", device, err)
	}
	ns.IP(t, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ns.IP(t, "addr", "add", "10.97.0.1/24", "dev", "d0")
	ns.IP(t, "link", "set", "d0", "up")
	ns.IP(t, "link", "set", "d1", "up")
	ns.IP(t, "route", "add", "default", "via", "10.97.0.2", "dev", "d0", "metric", "50")
	if device, err := find(); device != "d0" || err != nil {
		t.Errorf("IPv4 before IPv6: want d0, got %s, %v", device, err)
	}
	ns.IP(t, "route", "add", "default", "via", "10.99.0.2", "dev", "v0", "metric", "10")
	if device, err := find(); device != "v0" || err != nil {
		t.Errorf("lowest metric: want v0, got %s, %v", device, err)
	}
}
