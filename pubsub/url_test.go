package pubsub

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]*Server{
		"redis://h":                {Addresses: []string{"h:6379"}},
		"redis://h:1/3":            {Addresses: []string{"h:1"}},
		"redis://[::1]:1":          {Addresses: []string{"[::1]:1"}},
		"redis://[fe80::1%25eth0]": {Addresses: []string{"[fe80::1%eth0]:6379"}},
		"redis://:pw@h":            {Addresses: []string{"h:6379"}, Password: "pw"},
		"redis://pw@h":             {Addresses: []string{"h:6379"}, Password: "pw"},
		"redis://u:p%40w@h":        {Addresses: []string{"h:6379"}, User: "u", Password: "p@w"},
		"redis://u:@h":             {Addresses: []string{"h:6379"}, User: "u"},
		"rediss://u:pw@h:7/path":   {Addresses: []string{"h:7"}, User: "u", Password: "pw", TLS: true},

		"redis://a,b:2,c":                  {Addresses: []string{"a:6379", "b:2", "c:6379"}},
		"redis://u:p,w@a:1,b":              {Addresses: []string{"a:1", "b:6379"}, User: "u", Password: "p,w"},
		"rediss://[::1]:1,[::2],127.0.0.1": {Addresses: []string{"[::1]:1", "[::2]:6379", "127.0.0.1:6379"}, TLS: true},

		"redis+sentinel://a/m":          {Addresses: []string{"a:26379"}, Master: "m"},
		"redis+sentinel://a:1,b/my%20m": {Addresses: []string{"a:1", "b:26379"}, Master: "my m"},
		"redis+sentinel://u:pw@[::1],[::2]:2/m": {Addresses: []string{"[::1]:26379", "[::2]:2"}, Master: "m",
			User: "u", Password: "pw"},
		"rediss+sentinel://pw@a/m?sentinelpassword=s%26t": {Addresses: []string{"a:26379"}, Master: "m",
			Password: "pw", SentinelPassword: "s&t", TLS: true},
		"redis+sentinel://a/m?sentineluser=su&sentinelpassword=sp": {Addresses: []string{"a:26379"}, Master: "m",
			SentinelUser: "su", SentinelPassword: "sp"},
	} {
		if got, err := ParseURL(url); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: want %+v, got %+v, %v", url, want, got, err)
		}
		if again, err := ParseURL(want.URL(true)); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s: want %+v of %s, got %+v, %v", url, want, want.URL(true), again, err)
		}
	}
}

func TestURLWithoutSecrets(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h":                          "redis://h:6379",
		"redis://pw@h":                       "redis://h:6379",
		"rediss://u:pw@a:1,[::1]/3":          "rediss://a:1,[::1]:6379",
		"redis+sentinel://u:pw@a,b:2/my%20m": "redis+sentinel://a:26379,b:2/my%20m",
		"rediss+sentinel://a/m?sentineluser=su&sentinelpassword=pw": "rediss+sentinel://a:26379/m",
	} {
		s, err := ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.URL(false); got != want {
			t.Errorf("%s: want %s, got %s", url, want, got)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	const servers, sentinels = "redis://user:password@host:port", "redis+sentinel://user:password@host:port"
	for name, test := range map[string]struct{ url, want string }{
		"another scheme":       {"http://:geheim@h", servers},
		"no scheme":            {"geheim@h:6379", servers},
		"no host":              {"redis://:geheim@", servers},
		"no host in the list":  {"redis://:geheim@a,,b", servers},
		"list that ends open":  {"redis://:geheim@a,", servers},
		"port is a word":       {"redis://:geheim@h:port", servers},
		"port too high":        {"redis://:geheim@h:65536", servers},
		"port 0":               {"redis://:geheim@h:0", servers},
		"second port too high": {"redis://:geheim@h,h:65536", servers},
		"control":              {"redis://:geheim@h\n", servers},
		"escape that is none":  {"redis://:geheim%zz@h", servers},
		"no master":            {"redis+sentinel://:geheim@a,b", sentinels},
		"empty master":         {"redis+sentinel://:geheim@a,b/", sentinels},
		"two masters":          {"redis+sentinel://:geheim@a,b/m/n", sentinels},
		"unknown setting":      {"redis+sentinel://:geheim@a/m?sentinelpasswort=geheim", sentinels},
		"setting given twice":  {"redis+sentinel://:geheim@a/m?sentineluser=a&sentineluser=b", sentinels},
		"setting that is none": {"redis+sentinel://:geheim@a/m?sentineluser=%zz", sentinels},
		"no sentinel":          {"redis+sentinel:///m", sentinels},
	} {
		_, err := ParseURL(test.url)
		if err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want an error with %s and without the password, got %v", name, test.want, err)
		}
	}
}

func TestHoldsSecret(t *testing.T) {
	for url, want := range map[string]bool{
		"redis://h":              false,
		"redis://pw@h":           true,
		"redis://u:pw@a,b":       true,
		"redis+sentinel://a,b/m": false,
		"redis+sentinel://a/m?sentinelpassword=s": true,
	} {
		if got := HoldsSecret(url); got != want {
			t.Errorf("%s: want %v, got %v", url, want, got)
		}
	}
}
