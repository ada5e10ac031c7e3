package store

import (
	"context"
	"errors"
	"io"
	"testing"
)

// A fakeKeeper keeps nothing, and says that it does under another key.
type fakeKeeper struct{ err error }

// Store implements Keeper.
func (k fakeKeeper) Store(_ context.Context, key string, _ int64, _ func() io.Reader) (string, error) {
	return key + "-2", k.err
}

// TestRedisStore: whoever asked is told where the file is and what to call it.
func TestRedisStore(t *testing.T) {
	r, _ := newRecording(100)
	r.Key = "results:1"
	place, err := redisStore{fakeKeeper{}}.Store(t.Context(), r)
	checkEqual(t, "place", Place{Key: "results:1-2", Name: r.Name}, place)
	checkEqual(t, "error", nil, err)
	away := errors.New("away")
	place, err = redisStore{fakeKeeper{away}}.Store(t.Context(), r)
	checkEqual(t, "place", Place{}, place)
	checkEqual(t, "error", away, err)
}
