package tap

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// TestCheckPolicy: what can be right somewhere, or at another time, passes.
func TestCheckPolicy(t *testing.T) {
	for policy, culprit := range map[string]string{
		"": "", "not port 22": "", "ether host 00:11:22:33:44:55": "", "vlan 7": "", "inbound": "",
		"not host no-such-host.invalid": "", "net no-such-net": "", "port no-such-port": "",
		"not prot 22":  "syntax error",
		"tcp) or (udp": "syntax error",
		"type mgt":     "802.11",
		"arp and ip":   rejectsAll,
	} {
		c := newCompiler(t)
		c.Policy = policy
		err := c.CheckPolicy(t.Context())
		if (err == nil) != (culprit == "") || err != nil && !strings.Contains(err.Error(), culprit) {
			t.Errorf("%q: want %q in the error, got %v", policy, culprit, err)
		}
	}
}

// TestCheckCapability: it is named when it is missing.
func TestCheckCapability(t *testing.T) {
	testbed.NeedRoot(t)
	if err := CheckCapability(); err != nil {
		t.Error(err)
	}
	found := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			found <- err
			return
		}
		found <- CheckCapability()
	}()
	if err := <-found; !errors.Is(err, errNoRaw) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("want the capability named, got %v", err)
	}
}
