package pubsub

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]*Server{
		"redis://h":              {Addresses: []string{"h:6379"}},
		"redis://h:1/3":          {Addresses: []string{"h:1"}},
		"redis://[::1]:1":        {Addresses: []string{"[::1]:1"}},
		"redis://:pw@h":          {Addresses: []string{"h:6379"}, Password: "pw"},
		"redis://pw@h":           {Addresses: []string{"h:6379"}, Password: "pw"},
		"redis://u:p%40w@h":      {Addresses: []string{"h:6379"}, User: "u", Password: "p@w"},
		"redis://u:@h":           {Addresses: []string{"h:6379"}, User: "u"},
		"rediss://u:pw@h:7/path": {Addresses: []string{"h:7"}, User: "u", Password: "pw", TLS: true},
	} {
		if got, err := ParseURL(url); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: want %+v, got %+v, %v", url, want, got, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for name, url := range map[string]string{
		"another scheme": "http://:geheim@h",
		"no scheme":      "geheim@h:6379",
		"no host":        "redis://:geheim@",
		"port is a word": "redis://:geheim@h:port",
		"port too high":  "redis://:geheim@h:65536",
		"control":        "redis://:geheim@h\n",
	} {
		if _, err := ParseURL(url); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: want an error without the password, got %v", name, err)
		}
	}
}
