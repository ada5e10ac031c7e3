package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"
)

const (
	// MaxKeys is how many keys Keys returns at most.
	MaxKeys = 1000
	// scanCount is about how many keys a server looks at in one go.
	scanCount = 1000
	// maxScans is how often a server is asked at most: one with a hundred million
	// keys has been looked through then.
	maxScans = 100_000
)

// Keys returns the names of the keys that begin with a prefix, in order: MaxKeys of them at most.
// In a cluster, all of its nodes are asked, if their names may be asked for. The server
// looks at all of its keys, which takes about a second for a million.
func (s *Server) Keys(ctx context.Context, prefix string) ([]string, error) {
	scan := keyScan{match: escapeGlob(prefix) + "*", prefix: prefix, found: map[string]bool{}}
	var nodes []string
	err := s.insist(ctx, func(conn redis.Conn, alive func()) (err error) {
		if nodes, err = clusterNodes(conn); err != nil {
			return err
		}
		if nodes != nil {
			return nil // each of them is asked, this one too
		}
		return scan.run(ctx, conn, alive)
	})
	for _, node := range nodes {
		if err != nil {
			break
		}
		one := &Server{Addresses: []string{node}, User: s.User, Password: s.Password, TLS: s.TLS, CAs: s.CAs}
		err = one.insist(ctx, func(conn redis.Conn, alive func()) error { return scan.run(ctx, conn, alive) })
	}
	if err != nil {
		return nil, fmt.Errorf("list keys %s*: %w", prefix, err)
	}
	return scan.keys(), nil
}

// escapeGlob returns a pattern that matches a text and nothing else.
func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}

// A keyScan collects the names of keys.
type keyScan struct {
	match  string // pattern
	prefix string
	found  map[string]bool
}

// run collects the keys of one server. What is there all the time is found, perhaps
// more than once.
func (k *keyScan) run(ctx context.Context, conn redis.Conn, alive func()) error {
	cursor := "0"
	for range maxScans {
		if err := ctx.Err(); err != nil {
			return err
		}
		answer, err := redis.Values(redis.DoWithTimeout(conn, answerTimeout, "SCAN", cursor,
			"MATCH", k.match, "COUNT", scanCount))
		if err != nil {
			return explainOdd(conn, err)
		}
		var names []string
		if _, err := redis.Scan(answer, &cursor, &names); err != nil {
			return fmt.Errorf("%w: %w", errReply, err)
		}
		alive()
		for _, name := range names {
			if len(k.found) == MaxKeys {
				return nil
			}
			if strings.HasPrefix(name, k.prefix) {
				k.found[name] = true
			}
		}
		if cursor == "0" {
			return nil
		}
	}
	return fmt.Errorf("%w: SCAN that does not end", errReply)
}

// keys returns the names in order.
func (k *keyScan) keys() (names []string) {
	for name := range k.found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// clusterNodes returns the addresses of the masters of a cluster; none if the server belongs to
// none, or does not say.
func clusterNodes(conn redis.Conn) ([]string, error) {
	ranges, err := redis.Values(redis.DoWithTimeout(conn, answerTimeout, "CLUSTER", "SLOTS"))
	var refusal redis.Error
	switch {
	case errors.As(err, &refusal):
		return nil, nil
	case err != nil:
		return nil, explainOdd(conn, err)
	}
	var nodes []string
	for _, entry := range ranges {
		host, port, err := masterAddress(entry)
		if err != nil {
			return nil, fmt.Errorf("%w: CLUSTER SLOTS: %w", errReply, err)
		}
		if host == "" {
			host, _, _ = net.SplitHostPort(repliesOf(conn).address)
		}
		if address := net.JoinHostPort(host, strconv.Itoa(port)); !slices.Contains(nodes, address) {
			nodes = append(nodes, address)
		}
	}
	return nodes, nil
}

// masterAddress returns where the master of a range of slots is. No host stands for the one that was asked.
func masterAddress(entry any) (host string, port int, err error) {
	values, err := redis.Values(entry, nil) // first and last slot, the master, replicas
	if err != nil {
		return "", 0, err
	}
	var first, last int
	var master []any
	if _, err := redis.Scan(values, &first, &last, &master); err != nil {
		return "", 0, err
	}
	if len(master) < 2 {
		return "", 0, errors.New("no address")
	}
	_, err = redis.Scan(master, &host, &port)
	if err == nil && !isHost(host) {
		err = fmt.Errorf("no address but %.100q", host)
	}
	return host, port, err
}
