package status

import (
	"errors"
	"testing"
)

func TestHealth(t *testing.T) {
	down := errors.New("refused")
	for name, test := range map[string]struct {
		requests, results, capture error
		want                       string
		subscribed, publishing     bool
	}{
		"all is well": {nil, nil, nil, "", true, true},
		"no requests": {down, nil, nil, "not subscribed: refused", false, true},
		"no results":  {nil, down, nil, "results are not published: refused", true, false},
		"neither":     {down, down, down, "not subscribed: refused", false, false},
		"no capture":  {nil, nil, down, "nothing can be captured: refused", true, true},
	} {
		h := NewHealth()
		h.SetRequests(test.requests)
		h.SetResults(test.results)
		h.SetCapture(test.capture)
		got := ""
		if err := h.Trouble(); err != nil {
			got = err.Error()
		}
		if got != test.want || h.Subscribed() != test.subscribed {
			t.Errorf("%s: want %q and subscribed %t, got %q and %t", name, test.want, test.subscribed, got, h.Subscribed())
		}
		if h.Publishing() != test.publishing || h.Capture() != test.capture {
			t.Errorf("%s: want publishing %t and %v, got %t and %v", name, test.publishing, test.capture, h.Publishing(), h.Capture())
		}
		if len(h.Changed) != 1 {
			t.Errorf("%s: want a token that something has changed", name)
		}
	}
	if h := NewHealth(); h.Subscribed() {
		t.Error("subscribed before anything has happened")
	}
}
