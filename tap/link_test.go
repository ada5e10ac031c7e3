package tap

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// TestDevice: an interface is found by its own and its alternative names.
func TestDevice(t *testing.T) {
	ns := testbed.NewNamespace(t, "device")
	long := strings.Repeat("x", maxLinkName)
	ns.IP(t, "link", "add", "va", "type", "veth", "peer", "name", "vb")
	for _, name := range []string{"x-alt", "x-fifteen-bytes", "x-sixteen-bytes-", long} {
		ns.IP(t, "link", "property", "add", "dev", "va", "altname", name)
	}
	ns.Do(t, func() {
		for name, want := range map[string]string{"va": "va", "vb": "vb", "lo": "lo", AnyInterface: AnyInterface,
			"x-alt": "va", "x-fifteen-bytes": "va", "x-sixteen-bytes-": "va", long: "va",
			"": "", "va\x00": "", "x-al": "", "x-alt2": "", "eth9": "", "va:1": "", "../va": "",
			"x-sixteen-bytes": "", "rpcap://127.0.0.1/lo": "", strings.Repeat("x", 128): "", strings.Repeat("x", 1<<17): "",
		} {
			got, err := Device(name)
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%.30q: want %q, got %q, %v", name, want, got, err)
			}
			if err != nil && !strings.Contains(err.Error(), `interface: "`) {
				t.Errorf("%.30q: want the interface named, got %v", name, err)
			}
		}
		ns.IP(t, "link", "set", "va", "name", "vc") // it keeps its alternative names
		if got, err := Device("x-alt"); got != "vc" || err != nil {
			t.Errorf("want vc, got %q, %v", got, err)
		}
	})
}

// TestDeviceSaysWhy: an error of the look-up is no word about the interface.
func TestDeviceSaysWhy(t *testing.T) {
	if !testbed.Inside(t, "emfile", "") {
		return
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	full := limit
	full.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &full); err != nil {
		t.Fatal(err)
	}
	_, err = Device("lo")
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("%d descriptors: want %v said, got %v", len(descriptors), unix.EMFILE, err)
	}
}

// TestLinkError: kernels that know no long names say that such a name is wrong; it is
// none then. Anything else is no word about the interface.
func TestLinkError(t *testing.T) {
	const short, long = "x-fifteen-bytes", "x-sixteen-bytes-"
	for _, test := range []struct {
		name      string
		err, want error
	}{
		{short, unix.ENODEV, errNoLink}, {long, unix.ENODEV, errNoLink},
		{short, unix.EINVAL, unix.EINVAL}, {long, unix.EINVAL, errNoLink},
		{short, unix.EPERM, unix.EPERM}, {long, unix.EPERM, unix.EPERM},
	} {
		if got := linkError(test.name, test.err.(unix.Errno)); got != test.want {
			t.Errorf("%s, %v: want %v, got %v", test.name, test.err, test.want, got)
		}
	}
}
