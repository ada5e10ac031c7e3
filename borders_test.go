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

// TestBorders holds the imports of every file against what it may know: who
// wants to use one of these elsewhere has a reason to say here.
func TestBorders(t *testing.T) {
	rooms := map[string][]string{ // import: files, and folders that end in a slash
		"C":                                {"tap/"},
		"unsafe":                           {"tap/"},
		"github.com/google/gopacket/pcap":  {"tap/"},
		"github.com/gomodule/redigo/redis": {"pubsub/"},
		"net/http":                         {"upload.go", "endpoint.go"},
		"os/exec":                          nil, // the daemon runs no other program
		"flag":                             {"main.go", "config.go", "flags.go", "flagvalue.go"},
		"pcapdaemon/pubsub": {"main.go", "serve.go", "daemon.go", "config.go", "client.go", "fetcher.go",
			"message.go"},
		"pcapdaemon/tap": {"main.go", "daemon.go", "system.go", "recorders.go", "job.go", "capture.go",
			"format.go", "metrics.go"},
		"github.com/sirupsen/logrus": {"main.go", "log.go", "serve.go", "daemon.go", "witness.go", "recorders.go",
			"jobs.go", "job.go", "conclusion.go", "pubsub/"},
	}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		elsewhere := []string{".git", "e2e", "testbed", "sharktest", "examples", "packaging", "dist"}
		if entry.IsDir() && slices.Contains(elsewhere, path) {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value) // has been parsed
			allowed, guarded := rooms[name]
			if guarded && !slices.ContainsFunc(allowed, func(room string) bool {
				return room == path || strings.HasSuffix(room, "/") && strings.HasPrefix(path, room)
			}) {
				t.Errorf("%s imports %s, which is for %s", path, name, strings.Join(allowed, ", "))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
