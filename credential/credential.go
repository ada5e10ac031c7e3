// Package credential reads from files what somebody is known by: certificates of authorities, and
// tokens. Its errors name the file and show nothing of what is in it. It knows no flag of the program.
package credential

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ReadCAs returns the certificates of a PEM file, at least one.
func ReadCAs(file string) (*x509.CertPool, error) { return addCAs(x509.NewCertPool(), file) }

// ReadCAsBesideSystem returns the system's certificates and those of a PEM file. No file: nil,
// which stands for the system's.
func ReadCAsBesideSystem(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	cas, err := x509.SystemCertPool()
	if err != nil {
		cas = x509.NewCertPool()
	}
	return addCAs(cas, file)
}

// addCAs adds the certificates of a PEM file to a pool.
func addCAs(cas *x509.CertPool, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if !cas.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return cas, nil
}

// ReadToken returns the token in a file, without the space around it.
func ReadToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" {
		return "", fmt.Errorf("%s holds no token", file)
	}
	return token, nil
}

// Find returns the file of a credential that systemd has handed over (systemd.exec(5)), or an
// empty name if there is none.
func Find(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}
