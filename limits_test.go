package main

import (
	"pcapdaemon/tap"
	"strings"
	"testing"
	"time"
)

func TestLimits(t *testing.T) {
	l := limits{snap: tap.MaxSnap, packets: 1000, bytes: 5000, timeout: 90 * time.Second,
		defaultTimeout: 1500 * time.Millisecond, interfaces: []string{"eth0"}}
	eth0 := []string{"eth0"}
	for name, test := range map[string]struct {
		request request
		want    bounds
		culprit string
	}{
		"nothing asked": {request{Interfaces: eth0}, bounds{1000, 5000, 1500 * time.Millisecond}, ""},
		"all asked": {request{Interfaces: eth0, Packets: 1, Bytes: 24, Timeout: 2, Snap: 262144},
			bounds{1, 24, 2 * time.Second}, ""},
		"all at the limit": {request{Interfaces: eth0, Packets: 1000, Bytes: 5000, Timeout: 90},
			bounds{1000, 5000, 90 * time.Second}, ""},
		"no interface":     {request{}, bounds{}, "interface"},
		"too many packets": {request{Interfaces: eth0, Packets: 1001}, bounds{}, "packets: 1001 is above -maxpackets 1000"},
		"too many bytes":   {request{Interfaces: eth0, Bytes: 5001}, bounds{}, "-maxbytes"},
		"too long":         {request{Interfaces: eth0, Timeout: 91}, bounds{}, "timeout: 91 s is above -maxtimeout 1m30s"},
		"longer than time": {request{Interfaces: eth0, Timeout: 1 << 62}, bounds{}, "-maxtimeout"},
		"snap too large":   {request{Interfaces: eth0, Snap: 262145}, bounds{}, "snap"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := l.bounds(test.request)
			if mentions(err, test.culprit) != (test.culprit != "") {
				t.Errorf("want %q in the error, got %v", test.culprit, err)
			}
			if got != test.want {
				t.Errorf("want %+v, got %+v", test.want, got)
			}
		})
	}
}

// TestLimitsDevice: names are resolved, and what is not in the list is refused.
func TestLimitsDevice(t *testing.T) {
	var l limits
	if err := l.nameInterfaces("wan=eth0, eth1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"eth0": "eth0", "wan": "eth0", "eth1": "eth1", "eth2": "", "lan": "", "any": "",
	} {
		got, err := l.device(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: want %q, got %q, %v", name, want, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "-interfaces") {
			t.Errorf("%s: want -interfaces in the error, got %v", name, err)
		}
	}
	if got := l.alias("eth0") + l.alias("eth1"); got != "wan" {
		t.Errorf("want the second name of eth0 alone, got %q", got)
	}
	if got, err := (limits{}).device("anything0"); got != "anything0" || err != nil {
		t.Errorf("without a list: want every name taken, got %q, %v", got, err)
	}
}

// TestNameInterfaces: what cannot be meant is refused.
func TestNameInterfaces(t *testing.T) {
	for _, list := range []string{
		"a,,b", "wan=", "=eth0", "a=b=c", "any=eth0", "default=eth0", "a=eth0,a=eth1", "a=eth0,a",
	} {
		if err := new(limits).nameInterfaces(list); err == nil {
			t.Errorf("%s: want it refused", list)
		}
	}
}

// mentions tells whether there is an error with these words in it.
func mentions(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
