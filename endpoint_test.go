package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// askEndpoint returns the answer of an endpoint.
func askEndpoint(t *testing.T, e endpoint, method, path string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	e.handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	answer := w.Result()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// newEndpoint returns the endpoint of a daemon that is subscribed, or is not because of trouble.
func newEndpoint(trouble error) endpoint {
	return endpoint{registry: newMetrics("v1.2.3").registry, health: func() error { return trouble }}
}

func TestEndpoint(t *testing.T) {
	for _, test := range []struct {
		method, path string
		trouble      error
		status       int
		body         string // part of it
	}{
		{"GET", "/metrics", nil, 200, "pcapdaemon_captured_packets_total 0"},
		{"HEAD", "/metrics", nil, 200, ""},
		{"POST", "/metrics", nil, 405, ""},
		{"GET", "/healthz", nil, 200, "subscribed"},
		{"GET", "/healthz", errors.New("not subscribed: so it goes"), 503, "not subscribed: so it goes"},
		{"DELETE", "/healthz", nil, 405, ""},
		{"GET", "/healthz/", nil, 404, ""},
		{"GET", "/nosuch", nil, 404, ""},
		{"POST", "/nosuch", nil, 404, ""},
	} {
		answer, body := askEndpoint(t, newEndpoint(test.trouble), test.method, test.path)
		if answer.StatusCode != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s: want %d and %q, got %d and %q", test.method, test.path, test.status, test.body, answer.StatusCode, body)
		}
	}
}
