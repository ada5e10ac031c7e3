package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pcapdaemon/testbed"
)

// The versions of which tests have packages.
const (
	oldVersion = "v1.0.0"
	newVersion = "v1.1.0"
)

// packages build those of a version, deb and rpm, once for all tests, and
// return the directory where they are.
var packages = map[string]func() (string, error){
	oldVersion: sync.OnceValues(func() (string, error) { return buildPackages(oldVersion) }),
	newVersion: sync.OnceValues(func() (string, error) { return buildPackages(newVersion) }),
}

// beginPackages lets packages be built from now on, with what the tests leave of the
// processors. Whoever calls packageOf waits for them.
func beginPackages(t testing.TB) {
	t.Helper()
	testbed.NeedTools(t, packageTools...)
	for _, build := range packages {
		go func() { _, _ = build() }() // packageOf has the error
	}
}

// packageTools are what packages are built and looked at with.
var packageTools = []string{"make", "tar", "dpkg-deb", "rpm"}

// building is held while packages are built: both versions together are not done sooner.
var building sync.Mutex

// buildPackages builds the packages of a version.
func buildPackages(version string) (string, error) {
	building.Lock()
	defer building.Unlock()
	dir, err := os.MkdirTemp(filepath.Dir(binary), "packages-") // goes with the program under test
	if err != nil {
		return "", err
	}
	s := tree{dir: dir}
	if err := s.copySources(); err != nil {
		return "", err
	}
	if version == newVersion { // of which nobody looks at how it is packed
		if err := s.packFast(); err != nil {
			return "", err
		}
	}
	_, err = s.tryMake("deb", "rpm", "VERSION="+version)
	return filepath.Join(dir, "dist"), err
}

// packageOf returns the package of a version, deb or rpm.
func packageOf(t testing.TB, kind, version string) string {
	t.Helper()
	testbed.NeedTools(t, packageTools...)
	dir, err := packages[version]()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, fmt.Sprint("pcapdaemon*.", kind)))
	if err != nil || len(found) != 1 {
		t.Fatalf("want one package, got %q (%v)", found, err)
	}
	return found[0]
}

// packFast lets packages be packed less small, in a tenth of the time.
func (s tree) packFast() error {
	file := filepath.Join(s.dir, "packaging/nfpm.yaml")
	settings, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, bytes.ReplaceAll(settings, []byte("compression: xz"), []byte("compression: gzip")), 0o644)
}
