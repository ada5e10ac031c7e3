package object

import (
	"mime"
	"strings"
	"testing"
	"unicode/utf8"

	"pcapdaemon/store"
)

// TestMetadata: whatever is said of a capture, a header can hold it, and S3 takes it.
func TestMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		value, want string
	}{
		"plain":            {"web1", "web1"},
		"spaces":           {"  a  b\tc ", "a b c"},
		"not ASCII":        {"größe", "=?utf-8?q?gr=C3=B6=C3=9Fe?="},
		"two words":        {strings.Repeat("ä", 20), "=?utf-8?q?" + strings.Repeat("=C3=A4", 10) + "?= =?utf-8?q?" + strings.Repeat("=C3=A4", 10) + "?="},
		"control":          {"a\r\nX-Evil: b", "=?utf-8?q?a=0D=0AX-Evil:_b?="},
		"not UTF-8":        {"a\xffb", "=?utf-8?q?a=EF=BF=BDb?="},
		"nothing but gaps": {" \t ", ""},
	} {
		header := metadata(store.File{Labels: []store.Label{{Name: "node", Value: test.value}}})
		if got := header.Get("X-Amz-Meta-Node"); got != test.want {
			t.Errorf("%s: want %q, got %q", name, test.want, got)
		}
	}
}

// TestMetadataIsCut: S3 takes 2 KB, of whatever is longest, and what matters most is whole.
func TestMetadataIsCut(t *testing.T) {
	for name, piece := range map[string]string{"ASCII": "abcdefgh", "umlauts": "äöü", "Chinese": "抓包", "control": "\x01"} {
		long := strings.Repeat(piece, 1000)
		header := metadata(store.File{ID: "r1", Tags: []string{long}, Comments: long, Labels: []store.Label{
			{Name: "node", Value: "web1"}, {Name: "interface", Value: "eth0"}, {Name: "alertid", Value: "7"}, {Name: "customer", Value: long}}})
		size := 0
		for key, values := range header {
			size += len(key) + len(values[0])
			decoded, err := new(mime.WordDecoder).DecodeHeader(values[0])
			if err != nil || !utf8.ValidString(decoded) || strings.Contains(decoded, "\uFFFD") {
				t.Errorf("%s: %s is not whole: %q, %v", name, key, decoded, err)
			}
		}
		if size > 2048 || size < 1500 {
			t.Errorf("%s: got %d bytes of metadata", name, size)
		}
		for key, want := range map[string]string{"Node": "web1", "Interface": "eth0", "Alertid": "7", "Id": "r1"} {
			if got := header.Get(metadataPrefix + key); got != want {
				t.Errorf("%s: %s: want %q, got %q", name, key, want, got)
			}
		}
		if header.Get(metadataPrefix+"Customer") == "" || header.Get(metadataPrefix+"Tags") == "" {
			t.Errorf("%s: want something of customer and tags, got %v", name, header)
		}
	}
}
