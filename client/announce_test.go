package client

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"pcapdaemon/pubsub"
	"pcapdaemon/testbed"
)

// TestAnnounce: what is published says who asks, and what is printed how many listen.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	heard := r.Hear(t, "capture")
	o := Options{Server: &pubsub.Server{Addresses: []string{r.Address()}}, Requests: "capture", Judge: judgeJSON}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code := Announce(ctx, o, []byte(`{"node":"a","interface":"eth0"}`), &out, &errs)
	if want := "request made up: 1 host listens on capture\n"; code != Done || out.String() != "1\n" || errs.String() != want {
		t.Errorf("want outcome %d, 1 and %q, got %d, %q, %q", Done, want, code, out.String(), errs.String())
	}
	var published struct{ ID, By, Node, Interface string }
	message := <-heard
	if err := json.Unmarshal(message, &published); err != nil {
		t.Fatal(err)
	}
	if published.ID != "made up" || published.By != whoAmI() || published.Node != "a" || published.Interface != "eth0" {
		t.Errorf("want what was asked, its id and who asks, got %s", message)
	}
}
