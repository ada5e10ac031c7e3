package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTriggersHaveLimits: every action of an example has a limit against storms, also those that are to
// be chosen, and what has passed asks nobody.
func TestTriggersHaveLimits(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"alertmanager/alertmanager.yml": {"    send_resolved: false\n", "    max_alerts: 1 "},
		"fail2ban/pcapdaemon.conf":      {"\nnorestored = 1\n"}, // bans of before its start
		"syslog-ng/pcapdaemon.conf":     {`rate-limit(template("$HOST") rate(1))`},
		"nagios/pcapdaemon.cfg":         {"'$SERVICESTATE$' '$SERVICEATTEMPT$'", "'$HOSTSTATE$' '$HOSTATTEMPT$'"},
		"icinga2/pcapdaemon.conf": {`"$service.state$", "$service.check_attempt$"`,
			`"$host.state$", "$host.check_attempt$"`},
		"systemd/" + failureUnit: {"\nStartLimitBurst=1\n", "\nEnvironmentFile=-/etc/pcapdaemon/triggers\n"},
	} {
		text := read(t, filepath.Join(triggers, name))
		for _, line := range lines {
			if !strings.Contains(text, line) {
				t.Errorf("%s: want %q", name, line)
			}
		}
	}
	const rsyslog = "rsyslog/pcapdaemon.conf"
	action := regexp.MustCompile(`(?s)\n  action\(type="omhiredis".*?\n}`)
	actions := action.FindAllString(read(t, filepath.Join(triggers, rsyslog)), -1)
	if len(actions) != 2 {
		t.Errorf("%s: want two actions, got %d", rsyslog, len(actions))
	}
	for _, action := range actions {
		for _, limit := range []string{`action.execOnlyOnceEveryInterval="10"`, `queue.size="2"`, `queue.timeoutEnqueue="0"`,
			`action.resumeRetryCount="0"`} {
			if !strings.Contains(action, limit) {
				t.Errorf("%s: want %s in %s", rsyslog, limit, action)
			}
		}
	}
}
