package status

import (
	"errors"
	"testing"
)

func TestHealth(t *testing.T) {
	down := errors.New("refused")
	for name, test := range map[string]struct {
		requests, results error
		want              string
		subscribed        bool
	}{
		"all is well": {nil, nil, "", true},
		"no requests": {down, nil, "not subscribed: refused", false},
		"no results":  {nil, down, "results are not published: refused", true},
		"neither":     {down, down, "not subscribed: refused", false},
	} {
		h := NewHealth()
		h.SetRequests(test.requests)
		h.SetResults(test.results)
		got := ""
		if err := h.Trouble(); err != nil {
			got = err.Error()
		}
		if got != test.want || h.Subscribed() != test.subscribed {
			t.Errorf("%s: want %q and subscribed %t, got %q and %t", name, test.want, test.subscribed, got, h.Subscribed())
		}
		if len(h.Changed) != 1 {
			t.Errorf("%s: the bell was not rung", name)
		}
	}
	if h := NewHealth(); h.Subscribed() {
		t.Error("subscribed before anything has happened")
	}
}
