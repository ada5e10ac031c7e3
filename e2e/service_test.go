package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// unitSource is where the unit is.
const unitSource = "pcapdaemon.service"

// unitFile returns a copy of the unit that starts the program under test.
func unitFile(t testing.TB) string {
	t.Helper()
	unit := strings.ReplaceAll(read(t, unitSource), "/usr/bin/pcapdaemon", binary)
	file := filepath.Join(t.TempDir(), "pcapdaemon.service")
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestUnitIsValid(t *testing.T) {
	testbed.NeedTools(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unitFile(t)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "pcapdaemon") {
		t.Errorf("want no complaint, got %v:\n%s", err, out)
	}
}

func TestUnitIsConfined(t *testing.T) {
	testbed.NeedTools(t, "systemd-analyze")
	const tenths = "19"
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true",
		"--threshold="+tenths, unitFile(t)).CombinedOutput()
	if err != nil {
		t.Errorf("exposed more than %s tenths: %v:\n%s", tenths, err, out)
	}
}

// checkLimits compares the limits, as systemd understands them, with what the
// flags let the daemon take.
func checkLimits(t *testing.T, m *machine) {
	t.Helper()
	flags := map[string]string{}
	for _, f := range describeFlags(t) {
		flags[f.name] = f.initial
	}
	stop := parseDuration(t, flags["draintimeout"]) + afterDrain
	captures, err := strconv.ParseUint(flags["maxcaptures"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	memory := parseSize(t, flags["maxmemory"]) + captures*parseSize(t, flags["buffersize"])
	const mostCaptures = 1024 // that -maxcaptures takes, each with sockets and a file
	for property, least := range map[string]uint64{
		"TimeoutStopUSec": uint64(stop.Microseconds()),
		"MemoryMax":       memory + 64<<20, // and the program
		"LimitNOFILE":     4 * mostCaptures,
		"WatchdogUSec":    uint64(time.Second.Microseconds()),
	} {
		text := m.show(property)
		got, err := strconv.ParseUint(text, 10, 64)
		if strings.HasSuffix(property, "USec") {
			got, err = uint64(parseSpan(t, text).Microseconds()), nil
		}
		if err != nil || got < least {
			t.Errorf("%s: want at least %d, got %s (%v)", property, least, text, err)
		}
	}
	for property, want := range map[string]string{"LimitCORE": "0", "Restart": "always", "StartLimitIntervalUSec": "0"} {
		if got := m.show(property); got != want {
			t.Errorf("%s: want %s, got %s", property, want, got)
		}
	}
}

// parseSpan reads a time as systemd prints it: 1min 30s.
func parseSpan(t *testing.T, text string) time.Duration {
	t.Helper()
	return parseDuration(t, strings.NewReplacer("min", "m", " ", "").Replace(text))
}

// parseDuration reads a duration.
func parseDuration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// parseSize reads a size in bytes, with a unit or without.
func parseSize(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := humanize.ParseBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestUnitRuns: the unit as it is, started by systemd on a machine of its own.
func TestUnitRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	testbed.NeedTools(t, "redis-server", "redis-cli")
	copyFile(t, binary, m.path("/usr/bin/pcapdaemon"), 0o755)
	copyFile(t, filepath.Join(root, unitSource), m.path("/etc/systemd/system/pcapdaemon.service"), 0o644)
	if err := os.MkdirAll(m.path("/etc/pcapdaemon"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(root, settingsSource), m.path("/etc/pcapdaemon/env"), 0o640)
	set := func(text string) {
		t.Helper()
		file, err := os.OpenFile(m.path("/etc/pcapdaemon/env"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString(text + "\n")
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set("PCAPDAEMON_NODE=web1\nPCAPDAEMON_LISTEN=127.0.0.1:9478")
	status := func() string { return m.show("StatusText") }

	m.run(t, "systemctl", "start", "pcapdaemon") // returns when it is ready
	testbed.Eventually(t, time.Minute, "status says why there are no requests", func() bool {
		return strings.Contains(status(), "not subscribed: ") && strings.Contains(status(), "refused")
	})
	m.run(t, "systemd-run", "--unit=redis", "redis-server", "--save", "")
	testbed.Eventually(t, time.Minute, "status says what is subscribed", func() bool {
		return strings.HasPrefix(status(), "subscribed to capture at 127.0.0.1:6379;")
	})
	if main := m.show("MainPID"); m.field(t, main, "Uid") == "0" {
		t.Error("want another user than root")
	} else {
		const netRaw = "0000000000002000"
		for field, want := range map[string]string{
			"CapEff": netRaw, "CapBnd": netRaw, "CapPrm": netRaw, "Seccomp": "2", "NoNewPrivs": "1",
		} {
			if got := m.field(t, main, field); got != want {
				t.Errorf("%s: want %s, got %s", field, want, got)
			}
		}
	}

	// On lo there is Redis; any and a filter by name need more of the sandbox.
	for _, request := range []string{
		`{"node":"web1","interface":"lo","packets":5,"timeout":15,"bpf":"tcp port 6379"}`,
		`{"node":"any","interface":"any","packets":5,"timeout":15,"bpf":"host localhost and port redis"}`,
	} {
		result := m.run(t, "pcapdaemon", "-publish", request)
		file := regexp.MustCompile(`"file":"(/var/lib/pcapdaemon/[^"]+)"`).FindStringSubmatch(result)
		if file == nil {
			t.Fatalf("want a file in the state directory, got %s", result)
		}
		if got := strings.TrimSpace(m.run(t, "stat", "-Lc", "%a %U", file[1])); got != "640 pcapdaemon" {
			t.Errorf("want a file of mode 640 and user pcapdaemon, got %s", got)
		}
		if got := m.run(t, "tcpdump", "-nr", file[1]); !strings.Contains(got, "6379") {
			t.Errorf("want packets of Redis, got %s", got)
		}
	}
	metrics := m.get(t, "127.0.0.1:9478", "/metrics")
	for _, name := range []string{
		"process_start_time_seconds", "process_open_fds", "process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(metrics, "\n"+name+" ") {
			t.Errorf("/metrics has no %s", name)
		}
	}

	t.Run("its limits leave room for the defaults", func(t *testing.T) { checkLimits(t, m) })
	t.Run("a hanging process is replaced", func(t *testing.T) {
		m.configure(t, "WatchdogSec=1s\nRestartSec=100ms")
		before := m.show("MainPID")
		m.run(t, "kill", "-STOP", before)
		testbed.Eventually(t, 30*time.Second, "another process is ready", func() bool {
			return m.show("MainPID") != before && m.show("ActiveState") == "active"
		})
		if got := m.show("NRestarts"); got != "1" {
			t.Errorf("want 1 restart, got %s", got)
		}
	})
	t.Run("a slow delivery outlasts the stop timeout", func(t *testing.T) {
		m.configure(t, "TimeoutStopSec=1s\nEnvironment=PCAPDAEMON_DRAINTIMEOUT=3s")
		// Nothing listens on port 81: tried again until the end.
		set("PCAPDAEMON_WRITELOCAL=false\nPCAPDAEMON_UPLOAD=true\nPCAPDAEMON_CSSCHEME=http\n" +
			"PCAPDAEMON_CSHOST=127.0.0.1:81\nPCAPDAEMON_RESULTCHANNEL=")
		if out, err := m.command("systemctl", "restart", "pcapdaemon").CombinedOutput(); err == nil {
			t.Fatalf("want no start without a token, got %s", out)
		}
		if got := m.journal(t); !strings.Contains(got, "-upload needs the API token") {
			t.Errorf("want the log to ask for the token, got %s", got)
		}
		if err := os.WriteFile(m.path("/etc/pcapdaemon/cstoken"), []byte(sharktest.Token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.run(t, "systemctl", "restart", "pcapdaemon")
		m.awaitSubscribed(t)
		m.run(t, "redis-cli", "PUBLISH", "capture", `{"node":"web1","interface":"lo"}`)
		m.awaitCapture(t)
		m.run(t, "redis-cli", "PING")
		began := time.Now()
		m.run(t, "systemctl", "stop", "pcapdaemon")
		if took := time.Since(began); took < 2500*time.Millisecond {
			t.Errorf("stopped after %v", took)
		}
		kept, _ := filepath.Glob(m.path("/var/lib/private/pcapdaemon/spool/*.pcap"))
		if len(kept) != 1 {
			t.Errorf("want the capture kept in the spool, got %q", kept)
		}
		if got := m.show("Result"); got != "success" { // nothing is lost
			t.Errorf("want the result success, got %s", got)
		}
		if got := m.journal(t); strings.Contains(got, sharktest.Token) || strings.Contains(got, "time=") {
			t.Errorf("want a log without token and time stamps, got %s", got)
		}
	})
}
