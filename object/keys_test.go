package object

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/transfer"
)

// forgetKeys removes whatever the environment says of keys.
func forgetKeys(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// startRole gives out the keys of a role, valid for so long.
func startRole(t *testing.T, valid time.Duration, padding string) *int {
	t.Helper()
	asked := new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*asked++
		fmt.Fprintf(w, `{"Code":"Success",%q:"","AccessKeyID":"role%d","SecretAccessKey":"r0lesecret","Token":"t0ken","Expiration":%q}`,
			padding, *asked, time.Now().Add(valid).UTC().Format(time.RFC3339Nano))
	}))
	t.Cleanup(s.Close)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL)
	return asked
}

// TestFindKeys: where keys are found, in order, and when they are looked for again.
func TestFindKeys(t *testing.T) {
	file := "[default]\naws_access_key_id = filed\naws_secret_access_key = f1lesecret\n[other]\naws_access_key_id = other\naws_secret_access_key = 0ther\n"
	write := func(t *testing.T, path string) string {
		t.Helper()
		_ = os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T)
		want    string
	}{
		"variables": {func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "varied")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "var1edsecret")
			write(t, filepath.Join(os.Getenv("HOME"), ".aws/credentials"))
		}, "varied"},
		"half a variable, file at home": {func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "varied")
			write(t, filepath.Join(os.Getenv("HOME"), ".aws/credentials"))
		}, "filed"},
		"file elsewhere, profile": {func(t *testing.T) {
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", write(t, filepath.Join(t.TempDir(), "keys")))
			t.Setenv("AWS_PROFILE", "other")
		}, "other"},
		"role": {func(t *testing.T) { startRole(t, time.Hour, "x") }, "role1"},
		"role, not disabled": {func(t *testing.T) {
			startRole(t, time.Hour, "x")
			t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		}, "role1"},
	} {
		t.Run(name, func(t *testing.T) {
			forgetKeys(t)
			test.prepare(t)
			k, err := FindKeys(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.get(); err != nil || got.AccessKeyID != test.want {
				t.Errorf("want %s, got %s, %v", test.want, got.AccessKeyID, err)
			}
		})
	}
}

// TestFindNoKeys: the error names where keys were looked for, and shows none.
func TestFindNoKeys(t *testing.T) {
	forgetKeys(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "var1edsecret")
	_, err := FindKeys(nil)
	for _, want := range []string{"no keys found", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: a key or its secret is missing",
		".aws/credentials, profile default: ", "no such file"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "var1edsecret") {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	startRole(t, time.Hour, strings.Repeat("x", maxKeys)) // without end, as far as we are concerned
	if _, err = FindKeys(nil); err == nil || !strings.Contains(err.Error(), "role of the instance: ") {
		t.Errorf("want the role named, got %v", err)
	}
}

// TestKeysAreRenewed: keys of a role that end, or that the service no longer takes.
func TestKeysAreRenewed(t *testing.T) {
	forgetKeys(t)
	asked := startRole(t, time.Hour, "x")
	k, err := FindKeys(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := k.get(); err != nil {
			t.Fatal(err)
		}
	}
	k.forget()
	if got, err := k.get(); err != nil || got.AccessKeyID != "role2" || *asked != 2 {
		t.Errorf("want new keys after the old ones were refused, got %s, %v after %d", got.AccessKeyID, err, *asked)
	}
	asked = startRole(t, -time.Hour, "x")
	if k, err = FindKeys(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := k.get(); err != nil || got.AccessKeyID != "role2" || *asked != 2 {
		t.Errorf("want new keys after the old ones have ended, got %s, %v after %d", got.AccessKeyID, err, *asked)
	}
}

// TestRoleIsAskedDirectly: whatever proxy is set, the service of the instance is here, and not waited for. The variables are read
// once in a process, so that this takes one of its own.
func TestRoleIsAskedDirectly(t *testing.T) {
	const proxy = "http://127.0.0.1:1"
	if os.Getenv("HTTP_PROXY") != proxy {
		command := exec.Command(os.Args[0], "-test.run=^TestRoleIsAskedDirectly$")
		command.Env = append(os.Environ(), "HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "NO_PROXY=", "no_proxy=")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	client := newKeysClient(nil)
	if client.Timeout != keysTime {
		t.Errorf("want an answer within %v, got %v", keysTime, client.Timeout)
	}
	transport := client.Transport.(bounded).RoundTripper.(*transfer.Client)
	for address, want := range map[string]string{"http://169.254.169.254/latest": "<nil>", "https://sts.amazonaws.com/": proxy} {
		request, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := transport.Proxy(request); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: want proxy %s, got %v, %v", address, want, got, err)
		}
	}
}
