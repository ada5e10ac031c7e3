package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// oldestSystemd is the oldest version that starts the unit.
const oldestSystemd = 247

// directives are what the unit may have, and the version of systemd that each
// needs: "Added in version" of its man pages, else its NEWS. 0 is older than all.
var directives = map[string]int{
	"After": 0, "Description": 0, "Documentation": 0, "Wants": 0, "WantedBy": 0, "StartLimitIntervalSec": 229,
	"Type": 0, "NotifyAccess": 0, "ExecStart": 0, "Restart": 0, "RestartSec": 0, "WatchdogSec": 0, "TimeoutStopSec": 188,
	"FileDescriptorStoreMax": 219, "Environment": 0, "EnvironmentFile": 0, "LoadCredential": 247, "SetCredential": 247,
	"DynamicUser": 235, "StateDirectory": 235, "StateDirectoryMode": 235, "UMask": 0,
	"AmbientCapabilities": 229, "CapabilityBoundingSet": 0, "NoNewPrivileges": 187,
	"MemoryMax": 231, "LimitCORE": 0, "LimitNOFILE": 0,
	"ProtectSystem": 214, "ProtectHome": 214, "PrivateTmp": 0, "PrivateMounts": 239, "PrivateDevices": 209,
	"DevicePolicy": 208, "NoExecPaths": 248, "ExecPaths": 248, "ProtectProc": 247, "ProtectKernelTunables": 232,
	"ProtectKernelModules": 232, "ProtectKernelLogs": 244, "ProtectControlGroups": 232, "ProtectClock": 245,
	"ProtectHostname": 242, "RestrictNamespaces": 233, "RestrictRealtime": 231, "RestrictSUIDSGID": 242,
	"LockPersonality": 235, "MemoryDenyWriteExecute": 231, "KeyringMode": 235, "RemoveIPC": 232,
	"RestrictAddressFamilies": 211, "SystemCallArchitectures": 209, "SystemCallFilter": 187, "SystemCallErrorNumber": 209,
}

// ignored are directives that older versions do not know, say so, and do without.
var ignored = []string{"NoExecPaths", "ExecPaths"}

// specifiers are what the unit may have resolved, and the version that does it.
var specifiers = map[string]int{"%S": 232, "%d": 251}

// TestUnitNeedsNoFile: without settings and without a token, systemd starts the unit, and
// the daemon says what it needs.
func TestUnitNeedsNoFile(t *testing.T) {
	unit := read(t, unitSource)
	for _, match := range regexp.MustCompile(`(?m)^(EnvironmentFile=|LoadCredential=(\w+):)(.*)$`).FindAllStringSubmatch(unit, -1) {
		needed := match[2] == "" && !strings.HasPrefix(match[3], "-") ||
			match[2] != "" && !strings.Contains(unit, "\nSetCredential="+match[2]+":")
		if needed {
			t.Errorf("%s: there may be no such file", match[0])
		}
	}
}

// TestUnitNeedsNoNewerSystemd looks up what each line of the unit needs, and
// whether packages and papers name the version.
func TestUnitNeedsNoNewerSystemd(t *testing.T) {
	unit := read(t, unitSource)
	for _, match := range regexp.MustCompile(`(?m)^([A-Z]\w+)=(.*)$`).FindAllStringSubmatch(unit, -1) {
		needed, known := directives[match[1]]
		if !known {
			t.Errorf("%s: look up which systemd knows it", match[0])
		}
		if needed > oldestSystemd && !slices.Contains(ignored, match[1]) {
			t.Errorf("%s needs systemd %d, want %d at most", match[0], needed, oldestSystemd)
		}
		for _, specifier := range regexp.MustCompile(`%.`).FindAllString(match[2], -1) {
			if needed, known := specifiers[specifier]; !known || needed > oldestSystemd {
				t.Errorf("%s: %s needs systemd %d, want %d at most", match[0], specifier, needed, oldestSystemd)
			}
		}
	}
	// Before 252, a dynamic user and a directory in another one of these start nothing.
	if dirs := regexp.MustCompile(`(?m)^StateDirectory=(.*)$`).FindStringSubmatch(unit); dirs == nil ||
		strings.ContainsAny(dirs[1], " /") {
		t.Errorf("want one state directory, got %q", dirs)
	}
	for name, words := range map[string]string{
		"packaging/nfpm.yaml": "- systemd (<< 247~)",
		unitSource:            "# For systemd 247 and newer.",
		operations:            "systemd 247",
	} {
		if !strings.Contains(read(t, name), words) {
			t.Errorf("%s: want %q", name, words)
		}
	}
}

// TestUnitSays: what no machine here would miss, and another one would.
func TestUnitSays(t *testing.T) {
	unit := read(t, unitSource)
	for line, why := range map[string]string{
		"StateDirectoryMode=0750":    "captures are not for everybody",
		"UMask=0077":                 "what has no mode of its own is not for everybody",
		"KeyringMode=private":        "other services have keys",
		"WantedBy=multi-user.target": "servers have no other target",
		"ExecPaths=/usr/bin/pcapdaemon /usr/lib -/usr/lib64":                    "not every system has /usr/lib64",
		"RestrictAddressFamilies=AF_PACKET AF_NETLINK AF_INET AF_INET6 AF_UNIX": "servers may have IPv6 alone",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("want %s: %s", line, why)
		}
	}
}
