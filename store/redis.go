package store

import (
	"context"
	"io"
)

// A redisStore is a destination from which whoever asked fetches a capture.
type redisStore struct {
	keeper Keeper
}

// A Keeper keeps values for a while. Store returns the key that it used, which
// differs from the one asked for if that was taken.
type Keeper interface {
	Store(ctx context.Context, key string, size int64, content func() io.Reader) (string, error)
}

// Name implements Destination.
func (redisStore) Name() string { return "redis" }

// Store implements Destination.
func (m redisStore) Store(ctx context.Context, r File) (Place, error) {
	key, err := m.keeper.Store(ctx, r.Key, r.Size, r.Content)
	if err != nil {
		return Place{}, err
	}
	return Place{Key: key, Name: r.Name}, nil
}
