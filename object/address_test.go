package object

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "eu-west-1")
	for address, want := range map[string][2]string{ // where an object goes, and what people read
		"https://host/dir/":                         {"https://host/dir/x.pcap", "https://host/dir/"},
		"https://host/dir":                          {"https://host/dir/x.pcap", "https://host/dir/"},
		"http://host:8080":                          {"http://host:8080/x.pcap", "http://host:8080/"},
		"http://u:s3cret@[::1]:80/a/../b%2Fc":       {"http://[::1]:80/b%2Fc/x.pcap", "http://[::1]:80/b%2Fc/"},
		"s3://captures":                             {"https://captures.s3.eu-west-1.amazonaws.com/x.pcap", "s3://captures/"},
		"s3://captures/a/b/":                        {"https://captures.s3.eu-west-1.amazonaws.com/a/b/x.pcap", "s3://captures/a/b/"},
		"s3://my.captures/a?region=cn-north-1":      {"https://s3.cn-north-1.amazonaws.com.cn/my.captures/a/x.pcap", "s3://my.captures/a/"},
		"s3://captures?endpoint=http://h:9000":      {"http://h:9000/captures/x.pcap", "s3://captures/"},
		"s3://captures/a b+ü?endpoint=https://h/p/": {"https://h/p/captures/a%20b%2B%C3%BC/x.pcap", "s3://captures/a%20b%2B%C3%BC/"},
	} {
		a, err := ParseAddress(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := [2]string{a.directory.JoinPath("x.pcap").String(), a.String()}; got != want {
			t.Errorf("%s: want %q, got %q", address, want, got)
		}
	}
}

// TestRegion: the address counts more than the variables, of which there is an order, too.
func TestRegion(t *testing.T) {
	for name, test := range map[string]struct{ address, region, defaultRegion, want string }{
		"address":    {"s3://captures?region=eu-west-3", "eu-west-1", "eu-west-2", "eu-west-3"},
		"variable":   {"s3://captures", "eu-west-1", "eu-west-2", "eu-west-1"},
		"default":    {"s3://captures", "", "eu-west-2", "eu-west-2"},
		"not at all": {"s3://captures", "", "", "us-east-1"},
	} {
		t.Setenv("AWS_REGION", test.region)
		t.Setenv("AWS_DEFAULT_REGION", test.defaultRegion)
		if a, err := ParseAddress(test.address); err != nil || a.region != test.want {
			t.Errorf("%s: want %s, got %s, %v", name, test.want, a.region, err)
		}
	}
}

// TestParseAddressRefuses: what cannot work is said, and no secret with it.
func TestParseAddressRefuses(t *testing.T) {
	for address, want := range map[string]string{
		"":                                         "takes https://host/dir/",
		"host/dir":                                 "takes https://host/dir/",
		"/dir":                                     "takes https://host/dir/",
		"ftp://u:s3cret@host/":                     "not ftp://",
		"https:host":                               "takes https://host/dir/",
		"https://u:s3cret@/dir":                    "there is no host",
		"https://u:s3cret@host:99999/":             "the port is out of range",
		"https://u:s3cret@host:0/":                 "the port is out of range",
		"https://u:s3cret@::1:80/":                 "the port is out of range",
		"https://u:s3cret@host:nine/":              "takes https://host/dir/",
		"https://u:s3cret%zz@host/":                "takes https://host/dir/",
		"https://u:s3cret@host/?token=s3cret":      "nothing may stand behind the directory",
		"https://host/#s3cret":                     "nothing may stand behind the directory",
		"s3:///prefix":                             "there is no bucket",
		"s3://":                                    "there is no bucket",
		"s3:captures":                              "takes https://host/dir/",
		"s3://ab":                                  "takes the name of a bucket, not \"ab\"",
		"s3://captures:80/":                        "takes the name of a bucket",
		"s3://key:s3cret@captures/":                "takes no user or password for a bucket",
		"s3://captures?endpoint=h:9000":            "takes an endpoint such as",
		"s3://captures?endpoint=":                  "takes an endpoint such as",
		"s3://captures?endpoint=ftp://h":           "takes an endpoint such as",
		"s3://captures?endpoint=http://h:x":        "takes an endpoint such as",
		"s3://captures?endpoint=http://u:s3cret@h": "takes an endpoint such as",
		"s3://captures?region=a/b":                 "takes the name of a region, not \"a/b\"",
		"s3://captures?region=a&region=b":          "takes region once",
		"s3://captures?acl=public":                 "not \"acl\"",
		"s3://captures?%zz":                        "takes s3://bucket/prefix?endpoint=",
		"s3://captures/a//b":                       "takes a prefix without empty parts",
		"s3://captures/../b":                       "takes a prefix without empty parts",
	} {
		a, err := ParseAddress(address)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: want %s, got %v, %v", address, want, a, err)
		}
	}
}

func TestHoldsSecret(t *testing.T) {
	for address, want := range map[string]bool{
		"https://u:p@host/": true, "https://u:@host/": true, "https://u@host/": false, "https://host/": false, "%zz": false,
	} {
		if got := HoldsSecret(address); got != want {
			t.Errorf("%s: want %v, got %v", address, want, got)
		}
	}
}

// TestTakesToken: a token and a user cannot both be sent, and a bucket has keys.
func TestTakesToken(t *testing.T) {
	for address, want := range map[string]bool{"https://h/x/": true, "https://u:p@h/x/": false, "https://u@h/": false,
		"s3://captures/x": false} {
		if a, err := ParseAddress(address); err != nil || a.TakesToken() != want {
			t.Errorf("%s: want %v, got %v, %v", address, want, a.TakesToken(), err)
		}
	}
}
