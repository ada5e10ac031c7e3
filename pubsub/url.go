package pubsub

import (
	"errors"
	"net"
	"net/url"
	"strconv"
)

// defaultPort is where a Redis server listens if nothing else is said.
const defaultPort = "6379"

// errURL says what an address looks like. It does not quote the one that was
// given, which may hold a password.
var errURL = errors.New("takes redis://user:password@host:port, or rediss:// for TLS")

// ParseURL returns the server that an address names. A single name before the
// @ is the password, as redis-cli has it. The error does not quote the address.
func ParseURL(address string) (*Server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" {
		return nil, errURL
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, errURL
	}
	s := &Server{Addresses: []string{net.JoinHostPort(u.Hostname(), port)}, TLS: u.Scheme == "rediss"}
	if password, both := u.User.Password(); both {
		s.User, s.Password = u.User.Username(), password
	} else {
		s.Password = u.User.Username()
	}
	return s, nil
}
