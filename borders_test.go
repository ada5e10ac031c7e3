package main

import (
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports are what the files of a folder may import of this module, and which
// packages of others besides the standard library.
type imports struct{ ours, others []string }

// borders holds for each folder what its files, tests aside, may know.
var borders = map[string]imports{
	"text":        {nil, []string{"github.com/dustin/go-humanize"}},
	"flagvalue":   {[]string{"text"}, nil},
	"credential":  {nil, nil},
	"descriptors": {nil, []string{"golang.org/x/sys/unix"}},
	"result":      {[]string{"text"}, []string{"github.com/dustin/go-humanize"}},
	"tap": {[]string{"text"}, []string{"github.com/google/gopacket", "github.com/google/gopacket/pcap",
		"golang.org/x/sys/unix", "C", "unsafe"}},
	"pubsub": {[]string{"text"}, []string{"github.com/gomodule/redigo/redis", "github.com/sirupsen/logrus",
		"github.com/cenkalti/backoff/v5", "golang.org/x/sys/unix"}},
	"capfile": {[]string{"tap", "text"}, []string{"golang.org/x/sys/unix"}},
	"encrypt": {[]string{"text"}, []string{"filippo.io/age", "filippo.io/age/agessh", "golang.org/x/crypto/chacha20poly1305"}},
	"store": {[]string{"result", "capfile", "encrypt", "pubsub", "text"},
		[]string{"github.com/cenkalti/backoff/v5", "github.com/dustin/go-humanize",
			"github.com/dustin/go-humanize/english", "golang.org/x/sys/unix"}},
	"transfer": {[]string{"store", "text"}, []string{"github.com/cenkalti/backoff/v5", "golang.org/x/sys/unix"}},
	"object": {[]string{"store", "transfer", "text"}, []string{"github.com/cenkalti/backoff/v5",
		"github.com/minio/minio-go/v7/pkg/credentials", "github.com/minio/minio-go/v7/pkg/s3utils",
		"github.com/minio/minio-go/v7/pkg/signer"}},
	"client": {[]string{"result", "store", "capfile", "encrypt", "pubsub", "text"},
		[]string{"github.com/dustin/go-humanize", "github.com/dustin/go-humanize/english",
			"github.com/mattn/go-runewidth", "golang.org/x/sys/unix"}},
	"extcap": {[]string{"client", "result", "pubsub", "text"},
		[]string{"github.com/dustin/go-humanize/english", "golang.org/x/sys/unix"}},
	"status": {[]string{"result", "text"}, []string{"github.com/dustin/go-humanize", "github.com/dustin/go-humanize/english",
		"github.com/prometheus/client_golang/prometheus", "github.com/prometheus/client_golang/prometheus/promhttp",
		"golang.org/x/net/netutil"}},
}

// guarded are packages that few files may import: whoever wants to use one of
// them elsewhere has a reason to say here. A folder ends in a slash.
var guarded = map[string][]string{
	"C":        {"tap/"},
	"unsafe":   {"tap/", "capfile/memory.go"}, // which maps memory at addresses that it chooses
	"net/http": {"upload.go", "transfer/", "object/", "status/"},
	"os/exec":  nil, // the daemon runs no other program
	"flag":     {"main.go", "config.go", "flags.go", "flagvalue/", "extcap/"},
	"github.com/sirupsen/logrus": {"main.go", "log.go", "serve.go", "daemon.go", "metrics.go", "sources.go", "jobs.go",
		"job.go", "results.go", "pubsub/"},
}

// TestBorders holds the imports of every file against what it may know.
func TestBorders(t *testing.T) {
	elsewhere := []string{".git", "e2e", "testbed", "sharktest", "examples", "packaging", "dist", "triggers", "docs"}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(elsewhere, path):
			return fs.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value) // has been parsed
			checkBorder(t, path, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkBorder judges one import of a file.
func checkBorder(t *testing.T, path, name string) {
	t.Helper()
	allowed, isGuarded := guarded[name]
	if isGuarded && !slices.ContainsFunc(allowed, func(room string) bool {
		return room == path || strings.HasSuffix(room, "/") && strings.HasPrefix(path, room)
	}) {
		t.Errorf("%s imports %s, which is for %s", path, name, strings.Join(allowed, ", "))
	}
	folder := filepath.Dir(path)
	if folder == "." {
		return // package main may know everything
	}
	may, known := borders[folder]
	ours, isOurs := strings.CutPrefix(name, "pcapdaemon/")
	first, _, _ := strings.Cut(name, "/")
	switch {
	case !known:
		t.Errorf("%s: what may %s import?", path, folder)
	case isOurs && !slices.Contains(may.ours, ours), name == "pcapdaemon":
		t.Errorf("%s imports %s, of which %s knows nothing", path, name, folder)
	case !isOurs && strings.Contains(first, ".") && !slices.Contains(may.others, name):
		t.Errorf("%s imports %s, which is not for %s", path, name, folder)
	}
}
