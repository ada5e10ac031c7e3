package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestAddressing publishes messages in a row: those for web1 are answered, and no others.
func TestAddressing(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	const rest = `"interface":"nosuch0"` // an answer is enough
	longest := func(id string, more int) string {
		message := `{"node":"web1",` + rest + `,"id":"` + id + `"}`
		return message + strings.Repeat(" ", 65_536+more-len(message))
	}
	for _, test := range []struct {
		name, message string
		want          says // nil: nothing is heard
	}{
		{"a pattern", `{"nodere":"^web1$",` + rest + `,"id":"1"}`, says{"id": "1"}},
		{"another one of that length", `{"nodere":"^web2$",` + rest + `,"id":"2"}`, nil},
		{"the first one again", `{"nodere":"^web1$",` + rest + `,"id":"3"}`, says{"id": "3"}},
		{"a part of the name", `{"nodere":"eb",` + rest + `,"id":"4"}`, says{"id": "4"}},
		{"the name in capitals", `{"node":"WEB1",` + rest + `,"id":"5"}`, nil},
		{"a name and no pattern", `{"node":"web1","nodere":"",` + rest + `,"id":"6"}`, says{"id": "6"}},
		{"a name and a number", `{"node":"web1","nodere":1,` + rest + `,"id":"7"}`, says{"error": about("nodere")}},
		{"another name and a number", `{"node":"web2","nodere":1,` + rest + `,"id":"8"}`, nil},
		{"two names in two writings", `{"node":"web1","NODE":"web2",` + rest + `,"id":"9"}`, says{"error": about("NODE")}},
		{"the longest message", longest("10", 0), says{"id": "10", "error": about("nosuch0")}},
		{"a byte more", longest("11", 1), says{"error": about("65536")}},
		{"empty texts for nothing", `{"node":"web1","nodere":"","bpf":"",` + rest + `,"id":"12"}`, says{"id": "12"}},
	} {
		r.Publish(t, test.message)
		// The answer to a second message shows that there was none to the first.
		r.Publish(t, `{"node":"web1",`+rest+`,"id":"behind"}`)
		got := l.next(t, time.Minute)
		if test.want == nil {
			test.want = says{"id": "behind"}
		} else {
			behind := l.next(t, time.Minute)
			if got.ID == "behind" { // answers to two requests may overtake each other
				got, behind = behind, got
			}
			behind.check(t, says{"id": "behind"})
		}
		test.want["state"] = "refused"
		if !got.check(t, test.want) {
			t.Errorf("%s: got %s", test.name, got.text)
		}
	}
}

// TestInterfacesAllowed: the list holds for the pseudo-interface as well.
func TestInterfacesAllowed(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-interfaces", "lo")...)
	for name, want := range map[string]says{
		"any":  {"state": "refused", "error": about("-interfaces")},
		"eth0": {"state": "refused", "error": about("-interfaces")},
		"lo":   {"state": "started"},
	} {
		r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":%q,"timeout":1}`, name))
		want["interface"] = name
		l.await(t, time.Minute, "started", "refused").check(t, want)
	}
}
