package e2e

import (
	"os"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// TestAlertsNameSeries: the alert rules use series that exist.
func TestAlertsNameSeries(t *testing.T) {
	rules, err := os.ReadFile("../examples/prometheus/pcapdaemon.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	args, port := listening(t)
	startDaemon(t, testbed.StartRedis(t), append(args, keeping(t.TempDir())...)...)
	_, body := get(t, port, "/metrics")
	expressions := 0
	for _, line := range testbed.ReadLines(string(rules)) {
		expression, found := strings.CutPrefix(strings.TrimSpace(line), "expr: ")
		if !found {
			continue
		}
		expressions++
		expression = strings.TrimPrefix(expression, "increase(")
		name := expression[:strings.IndexAny(expression, "[{ ")]
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no series %s", name)
		}
	}
	if expressions != 3 {
		t.Errorf("want 3 alerts, got %d", expressions)
	}
}
