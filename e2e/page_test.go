package e2e

import (
	"html"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestPage asks for captures with a tag that would be a script, and reads the page.
func TestPage(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "host", "on", ">geheim", "allchannels", "+@all")
	s := sharktest.Start(t, nil)
	args, port := listening(t)
	cmd := daemonCommand(r, slices.Concat(args, uploading(t, s), keeping(t.TempDir()))...)
	cmd.Env = append(os.Environ(), "PCAPDAEMON_REDISURL=redis://host:geheim@"+r.Address())
	testbed.Start(t, cmd)
	r.AwaitSubscribers(t, time.Minute, 1)

	const tag = `<script>document.title='broken'</script>`
	l := listen(t, r)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","packets":5,"tags":"`+tag+`","bpf":"`+stream.Filter()+`"}`)
	done := l.await(t, time.Minute, "done", "failed")
	r.Publish(t, `{"node":"web1","interface":"nosuch0","tags":"`+tag+`"}`)
	l.await(t, time.Minute, "refused")

	_, page := get(t, port, "/")
	for _, want := range []string{"<h1>web1</h1>", "subscribed", "pcapdaemon test", html.EscapeString(tag),
		done.File, `<a href="` + done.URL + `"`, "nosuch0", "refused"} {
		if !strings.Contains(page, want) {
			t.Errorf("want %q on the page, got %s", want, page)
		}
	}
	for _, never := range []string{"<script", "geheim", sharktest.Token} {
		if strings.Contains(page, never) {
			t.Errorf("want no %q on the page, got %s", never, page)
		}
	}
	r.Signal(t, syscall.SIGKILL)
	testbed.Eventually(t, time.Minute, "the page says why no request can be received", func() bool {
		_, page := get(t, port, "/")
		return strings.Contains(page, "not subscribed: ") && strings.Contains(page, "connection refused")
	})
}
