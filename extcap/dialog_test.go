package extcap

import (
	"regexp"
	"strings"
	"testing"
)

// TestDialog reads the sentences as Wireshark does.
func TestDialog(t *testing.T) {
	const secret = "redis://ops:s3cret@h1/?sentinelpassword=s3cret"
	o, err := parse(ours, Settings{RedisURL: secret, CAFile: "/etc/ca{1}.pem", Requests: "capture", Results: "results"})
	if err != nil {
		t.Fatal(err)
	}
	dialog := o.dialog()
	if strings.Contains(dialog, "s3cret") {
		t.Errorf("want no secret shown, got %s", dialog)
	}
	pair := regexp.MustCompile(`\{([a-z]+)=([^{}]*)\}`)
	initial := map[string]string{}
	for line := range strings.Lines(dialog) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if left := pair.ReplaceAllString(rest, ""); left != "" || kind != "arg" && kind != "value" {
			t.Errorf("want a sentence, got %q (%q)", line, left)
		}
		values := map[string]string{}
		for _, match := range pair.FindAllStringSubmatch(rest, -1) {
			values[match[1]] = match[2]
		}
		if validation := values["validation"]; validation != "" &&
			!regexp.MustCompile("^("+validation+")$").MatchString(values["default"]) {
			t.Errorf("want a default that is valid, got %q", line)
		}
		initial[values["call"]] = values["default"]
	}
	for call, want := range map[string]string{"--redisurl": "redis://h1:6379", "--redischannel": "capture",
		"--resultchannel": "results", "--rediscafile": "", "--password": "", "--interface": "default"} {
		if got := initial[call]; got != want {
			t.Errorf("%s: want %q, got %q", call, want, got)
		}
	}
}

// TestEveryOptionIsParsed: what the dialog offers is understood when a capture starts.
func TestEveryOptionIsParsed(t *testing.T) {
	o, err := parse(ours, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range o.arguments() {
		if _, err := parse(append([]string{"--" + a.call, "1"}, ours...), Settings{}); err != nil {
			t.Errorf("%s: %v", a.call, err)
		}
	}
}

func TestForeignTextInSentences(t *testing.T) {
	var o options
	if got := o.value(hostList, choice{"web}{default=true", "x"}); got != "" {
		t.Errorf("want no entry for what cannot be said, got %q", got)
	}
	want := "value {arg=1}{value=web1}{display=a(b).c}{default=false}\n"
	if got := o.value(hostList, choice{"web1", "a{b}\nc"}); got != want {
		t.Errorf("want %q, got %q", want, got)
	}
}
