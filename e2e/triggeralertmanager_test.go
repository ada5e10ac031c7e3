package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// startWebhook starts a real webhook with the hook of the example, and returns its address.
func startWebhook(t testing.TB, env []string) (address string) {
	t.Helper()
	testbed.NeedTools(t, "webhook")
	port := testbed.FreePort(t)
	hooks := writeFile(t, t.TempDir(), "hooks.json", adapt(t, "alertmanager/hooks.json", installedTriggers,
		triggerPath(t, "")))
	cmd := exec.Command("webhook", "-ip", "127.0.0.1", "-port", fmt.Sprint(port), "-hooks", hooks, "-verbose")
	cmd.Env = env
	p := testbed.Start(t, cmd)
	testbed.Eventually(t, time.Minute, "webhook listens", func() bool {
		return strings.Contains(p.Output.String(), "serving hooks on")
	})
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// startAlertmanager starts a real Alertmanager with the lines of the example, and
// returns its address.
func startAlertmanager(t testing.TB, webhook string) (address string) {
	t.Helper()
	testbed.NeedTools(t, "prometheus-alertmanager", "amtool")
	dir := t.TempDir()
	address = fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
	config := writeFile(t, dir, "alertmanager.yml", adapt(t, "alertmanager/alertmanager.yml", "127.0.0.1:9000",
		webhook))
	if out, err := exec.Command("amtool", "check-config", config).CombinedOutput(); err != nil {
		t.Fatalf("amtool refuses the configuration: %s", out)
	}
	testbed.Start(t, exec.Command("prometheus-alertmanager", "--config.file="+config, "--cluster.listen-address=",
		"--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address))
	testbed.Eventually(t, time.Minute, "Alertmanager is ready", func() bool {
		answer, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return address
}

// alert sends alerts as Prometheus does.
func alert(t testing.TB, alertmanager string, labels ...map[string]string) {
	t.Helper()
	var alerts []any
	for _, l := range labels {
		alerts = append(alerts, map[string]any{"labels": l})
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Post("http://"+alertmanager+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("Alertmanager answers %s", answer.Status)
	}
}

func TestAlertmanager(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "jq", "redis-cli")
	for way, env := range map[string]func(testing.TB, *testbed.Redis) []string{
		"redis-cli": withRedisCLI, "pcapdaemon": withProgram,
	} {
		t.Run(way, func(t *testing.T) {
			server := testbed.StartRedis(t)
			requests := server.Hear(t, "capture")
			alertmanager := startAlertmanager(t, startWebhook(t, env(t, server)))
			for name, test := range map[string]struct {
				instance string
				want     requested
			}{
				"a host": {"web1:9100", requested{"node": "web1", "nodere": nil, "bpf": nil}},
				"an address": {"192.0.2.7:9100", requested{"node": nil, "nodere": "^tap[0-9]+$",
					"bpf": "host 192.0.2.7"}},
				"IPv6":    {"[2001:db8::7]:9100", requested{"nodere": "^tap[0-9]+$", "bpf": "host 2001:db8::7"}},
				"nothing": {"", requested{"nodere": "^tap[0-9]+$", "bpf": nil}},
			} {
				t.Run(name, func(t *testing.T) {
					// Three that fire at once for one reason, as alerts do.
					labels := map[string]string{"alertname": "High, " + name, "instance": test.instance}
					alert(t, alertmanager, labels, labels, labels)
					heard := heardRequest(t, requests, 20*time.Second)
					heard.check(t, test.want)
					heard.check(t, requested{"tags": "alertmanager,High_ " + name, "interface": "default",
						"timeout": 10.0,
						"by":      "alertmanager@" + hostName(t), "lookback": nil})
				})
			}
			for name, text := range hostileTexts {
				if text == "" {
					continue
				}
				t.Run("hostile/"+name, func(t *testing.T) {
					text = strings.ToValidUTF8(text, "\x00") // JSON knows no other
					alert(t, alertmanager, map[string]string{"alertname": "a" + text, "instance": text, "x": text})
					alert(t, alertmanager, map[string]string{"alertname": text + name, "instance": "web1", "x": text})
					if strings.Contains(text, "\x00") { // no argument of a command can hold it
						return
					}
					heard := heardRequest(t, requests, 20*time.Second)
					heard.checkHarmless(t, "node", "id")
					heard.check(t, requested{"node": "web1"})
				})
			}
			alert(t, alertmanager, map[string]string{"alertname": "last", "instance": "last"})
			heardRequest(t, requests, 20*time.Second).check(t, requested{"node": "last"})
		})
	}
}

// TestWebhookRefuses: only who knows the secret asks, and only what fires.
func TestWebhookRefuses(t *testing.T) {
	t.Parallel()
	server := testbed.StartRedis(t)
	requests := server.Hear(t, "capture")
	address := startWebhook(t, withRedisCLI(t, server))
	send := func(method, secret, body string) int {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+address+"/hooks/capture", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", secret)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	post := func(secret, body string) int { t.Helper(); return send(http.MethodPost, secret, body) }
	const firing = `{"status":"firing","groupLabels":{"alertname":"a","instance":"web1"},"node":"any","bpf":"ip"}`
	for name, test := range map[string]struct{ secret, body string }{
		"no secret":    {"", firing},
		"wrong secret": {"Bearer x", firing},
		"resolved":     {"Bearer change-me", strings.Replace(firing, "firing", "resolved", 1)},
		"no JSON":      {"Bearer change-me", "firing"},
	} {
		if code := post(test.secret, test.body); code != http.StatusForbidden && code != http.StatusInternalServerError {
			t.Errorf("%s: want a refusal, got %d", name, code)
		}
	}
	if code := send(http.MethodGet, "Bearer change-me", firing); code != http.StatusMethodNotAllowed {
		t.Errorf("GET: want a refusal, got %d", code)
	}
	if code := post("Bearer change-me", firing); code != http.StatusOK {
		t.Errorf("want it taken, got %d", code)
	}
	heardRequest(t, requests, 10*time.Second).check(t, requested{"node": "web1", "tags": "alertmanager,a",
		"bpf": nil})
}
