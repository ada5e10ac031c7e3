package main

import (
	"context"
	"io"
)

// A mailbox is a destination from which whoever asked fetches a capture.
type mailbox struct {
	server keeper
}

// A keeper keeps values for a while. Store returns the key that it used, which
// differs from the one asked for if that was taken.
type keeper interface {
	Store(ctx context.Context, key string, size int64, content func() io.Reader) (string, error)
}

// name implements destination.
func (mailbox) name() string { return "redis" }

// store implements destination.
func (m mailbox) store(ctx context.Context, r recording) (receipt, error) {
	key, err := m.server.Store(ctx, r.key, r.size, r.content)
	if err != nil {
		return receipt{}, err
	}
	return receipt{key: key, name: r.name}, nil
}
