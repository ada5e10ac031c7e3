package testbed

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// A Browser is a headless Chromium that shows one page. The test talks to it in
// the DevTools protocol over a pipe: JSON messages that end in a zero byte.
type Browser struct {
	t       testing.TB
	process *Process
	to      *os.File
	session string // of the page

	mu         sync.Mutex
	answers    map[int]chan answer
	complaints []string
	loaded     chan struct{}
	number     int // of the last call
}

// An answer is what the browser returns for a call.
type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// StartBrowser starts a browser until the test ends, or skips the test where
// there is none: it is large, and comes with make extra.
func StartBrowser(t testing.TB) *Browser {
	t.Helper()
	NeedTools(t, "chromium")
	theirs, to := pipe(t)
	from, output := pipe(t)
	cmd := exec.Command("chromium", "--headless", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(),
		"--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, output} // 3 and 4
	b := &Browser{t: t, to: to, process: Start(t, cmd), answers: map[int]chan answer{}, loaded: make(chan struct{}, 1)}
	theirs.Close()
	output.Close()
	go b.listen(from)
	t.Cleanup(func() {
		b.session = ""
		b.call("Browser.close", nil, nil)
		<-b.process.Exited // before its directory is removed
	})

	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// pipe returns both ends of a pipe.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// listen takes what the browser says until it ends.
func (b *Browser) listen(from *os.File) {
	for messages := bufio.NewReader(from); ; {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var message struct {
			ID     int
			Method string
			answer
		}
		if err := json.Unmarshal(text[:len(text)-1], &message); err != nil {
			return
		}
		b.mu.Lock()
		switch message.Method {
		case "":
			b.answers[message.ID] <- message.answer
		case "Page.loadEventFired":
			select {
			case b.loaded <- struct{}{}:
			default:
			}
		case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown":
			b.complaints = append(b.complaints, string(text))
		}
		b.mu.Unlock()
	}
}

// call calls a method of the protocol, and reads its result if one is wanted.
func (b *Browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.number++
	number, reply := b.number, make(chan answer, 1)
	b.answers[number] = reply
	b.mu.Unlock()
	message := map[string]any{"id": number, "method": method, "params": params}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err == nil {
		_, err = b.to.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatal(method, ": ", err)
	}
	select {
	case got := <-reply:
		if got.Error != nil {
			b.t.Fatal(method, ": ", got.Error.Message)
		}
		if result != nil {
			err = json.Unmarshal(got.Result, result)
		}
		if err != nil {
			b.t.Fatal(method, ": ", err)
		}
	case <-time.After(30 * time.Second):
		b.t.Fatal(method, ": no answer")
	}
}

// Resize sets the size of the page's window, and whether the reader likes it dark.
func (b *Browser) Resize(width, height int, scheme string) {
	b.t.Helper()
	window := map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}
	b.call("Emulation.setDeviceMetricsOverride", window, nil)
	features := []map[string]any{{"name": "prefers-color-scheme", "value": scheme}}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": features}, nil)
}

// Visit loads a page to its end.
func (b *Browser) Visit(url string) {
	b.t.Helper()
	select {
	case <-b.loaded: // of the page before
	default:
	}
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.loaded:
	case <-time.After(30 * time.Second):
		b.t.Fatal(url, " is not loaded")
	}
}

// Evaluate returns what a JavaScript expression is in the page.
func (b *Browser) Evaluate(expression string, result any) {
	b.t.Helper()
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &got)
	if got.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, got.ExceptionDetails)
	}
	if err := json.Unmarshal(got.Result.Value, result); err != nil {
		b.t.Fatal(expression, ": ", err)
	}
}

// Complaints returns what the browser has written to its console.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complaints
}

// Screenshot returns a picture of the whole page, as a PNG file.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	picture, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return picture
}
