package pubsub

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
)

const (
	// serverPort is where a Redis server listens if nothing else is said.
	serverPort = "6379"
	// sentinelPort is where a sentinel listens then.
	sentinelPort = "26379"
)

// What addresses look like. Errors do not quote the one that was given, which
// may hold a password.
var (
	errURL = errors.New("takes redis://user:password@host:port, or rediss:// for TLS; " +
		"several host:port with commas between them are tried in turn")
	errSentinelURL = errors.New("takes redis+sentinel://user:password@host:port,host:port/master, " +
		"or rediss+sentinel:// for TLS, and ?sentineluser=…&sentinelpassword=… if the sentinels want them")
)

// ParseURL returns the server that an address names. A single name before the
// @ is the password, as redis-cli has it. The error does not quote the address.
func ParseURL(address string) (*Server, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	base, isSentinel := strings.CutSuffix(scheme, "+sentinel")
	wrong, port := errURL, serverPort
	if isSentinel {
		wrong, port = errSentinelURL, sentinelPort
	}
	if base != "redis" && base != "rediss" {
		return nil, errURL
	}
	hosts, rest := cutHosts(rest)
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return nil, wrong
	}
	s := &Server{TLS: base == "rediss"}
	if s.Addresses = parseHosts(hosts, port); s.Addresses == nil {
		return nil, wrong
	}
	if password, both := u.User.Password(); both {
		s.User, s.Password = u.User.Username(), password
	} else {
		s.Password = u.User.Username()
	}
	if isSentinel && !s.parseSentinel(u) {
		return nil, wrong
	}
	return s, nil
}

// cutHosts takes the list of hosts out of an address, which net/url does not
// take with more than one IPv6 address in it. One host stands in for them.
func cutHosts(address string) (hosts, rest string) {
	end := strings.IndexAny(address, "/?#")
	if end < 0 {
		end = len(address)
	}
	begin := strings.LastIndex(address[:end], "@") + 1
	return address[begin:end], address[:begin] + "host" + address[end:]
}

// parseHosts returns the addresses of a list, or nil if it is none.
func parseHosts(list, port string) (addresses []string) {
	for host := range strings.SplitSeq(list, ",") {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Hostname() == "" {
			return nil
		}
		if p := u.Port(); p != "" {
			if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
				return nil
			}
			addresses = append(addresses, net.JoinHostPort(u.Hostname(), p))
		} else {
			addresses = append(addresses, net.JoinHostPort(u.Hostname(), port))
		}
	}
	return addresses
}

// parseSentinel reads what only an address of sentinels has, and returns whether it is good.
func (s *Server) parseSentinel(u *url.URL) bool {
	s.Master = strings.TrimPrefix(u.Path, "/")
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || s.Master == "" || strings.Contains(s.Master, "/") {
		return false
	}
	for name, values := range query {
		switch {
		case len(values) != 1:
			return false
		case name == "sentineluser":
			s.SentinelUser = values[0]
		case name == "sentinelpassword":
			s.SentinelPassword = values[0]
		default:
			return false
		}
	}
	return true
}

// HoldsSecret reports whether an address that ParseURL takes has a password in it.
func HoldsSecret(address string) bool {
	return strings.Contains(address, "@") || strings.Contains(address, "sentinelpassword=")
}

// URL returns the address of the server as ParseURL takes it, with or without users and passwords.
func (s *Server) URL(secrets bool) string {
	u := url.URL{Scheme: "redis", Host: strings.Join(s.Addresses, ","), Path: s.Master}
	if s.TLS {
		u.Scheme = "rediss"
	}
	if s.Master != "" {
		u.Scheme += "+sentinel"
	}
	if !secrets {
		return u.String()
	}
	if s.User != "" || s.Password != "" {
		u.User = url.UserPassword(s.User, s.Password)
	}
	query := url.Values{}
	for name, value := range map[string]string{"sentineluser": s.SentinelUser, "sentinelpassword": s.SentinelPassword} {
		if value != "" {
			query.Set(name, value)
		}
	}
	u.RawQuery = query.Encode()
	return u.String()
}
