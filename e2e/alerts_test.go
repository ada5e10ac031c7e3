package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// TestAlertsNameSeries: the alert rules use series that exist.
func TestAlertsNameSeries(t *testing.T) {
	rules := read(t, "examples/prometheus/pcapdaemon.rules.yml")
	args, port := listening(t)
	args = append(args, "-record", "lo", "-upload", "-cstoken", "x", "-spooldir", t.TempDir())
	startDaemon(t, testbed.StartRedis(t), append(args, keeping(t.TempDir())...)...)
	_, body := get(t, port, "/metrics")
	series, expressions := regexp.MustCompile(`pcapdaemon_[a-z_]+`), 0
	for _, line := range testbed.ReadLines(rules) {
		expression, found := strings.CutPrefix(strings.TrimSpace(line), "expr: ")
		if !found {
			continue
		}
		expressions++
		for _, name := range series.FindAllString(expression, -1) {
			if !strings.Contains(body, "\n"+name) {
				t.Errorf("no series %s", name)
			}
		}
	}
	if expressions != 10 {
		t.Errorf("want 10 alerts, got %d", expressions)
	}
}

// TestAlertsFire has promtool try the alert rules on made-up series.
func TestAlertsFire(t *testing.T) {
	testbed.NeedTools(t, "promtool") // it comes with all of Prometheus
	if out, err := exec.Command("promtool", "test", "rules", "testdata/rules_test.yml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
