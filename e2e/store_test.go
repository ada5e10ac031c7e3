package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// nginxForCaptures starts a web server that wants to know who sends captures.
func nginxForCaptures(t testing.TB, password string) *testbed.Nginx {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("hosts:{PLAIN}"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return testbed.StartNginx(t, t.TempDir(), "auth_basic captures; auth_basic_user_file "+users+";", "")
}

// startDaemonWith is startDaemon with variables of the environment.
func startDaemonWith(t testing.TB, r *testbed.Redis, variables []string, args ...string) *testbed.Process {
	t.Helper()
	testbed.NeedRoot(t)
	command := daemonCommand(r, args...)
	command.Env = append(os.Environ(), variables...)
	p := testbed.Start(t, command)
	r.AwaitSubscribers(t, time.Minute, 1)
	return p
}

// checkHidden fails if a secret is in one of the texts.
func checkHidden(t testing.TB, secret string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown in %s", secret, text)
		}
	}
}

// TestStore: captures go to a web server and to CloudShark, both addresses are told,
// and a password nowhere.
func TestStore(t *testing.T) {
	t.Parallel()
	const password = "geheim%2Fer"
	n := nginxForCaptures(t, "geheim/er")
	r := testbed.StartRedis(t)
	l := listen(t, r)
	address := "http://hosts:" + password + "@" + n.Address() + "/captures"
	shark := sharktest.Start(t, nil)
	page, port := listening(t)
	d := startDaemonWith(t, r, []string{"PCAPDAEMON_STOREURL=" + address}, slices.Concat(uploading(t, shark), page)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","packets":20,"bpf":"`+stream.Filter()+`"}`)
	got := l.final(t, time.Minute)
	stored := "http://" + n.Address() + "/captures/" + uploadName(got)
	got.check(t, says{"state": "done", "url": "http://" + shark.Address() + "/captures/cafe1", "stored": stored, "error": nil})
	content, err := os.ReadFile(filepath.Join(n.Root, "captures", uploadName(got)))
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, content, got)
	checkSeries(t, port, map[string]float64{
		`pcapdaemon_deliveries_total{destination="store",outcome="ok"}`:      1,
		`pcapdaemon_deliveries_total{destination="cloudshark",outcome="ok"}`: 1,
	})
	_, people := get(t, port, "/")
	if !strings.Contains(people, uploadName(got)) {
		t.Errorf("want the address on the page, got %s", people)
	}
	_, metrics := get(t, port, "/metrics")
	for _, form := range []string{password, "geheim/er", "geheim"} {
		checkHidden(t, form, got.text, d.Output.String(), people, metrics)
	}
}

// TestStoreAlone: the object's address is the url, what is refused goes to -destdir, and a
// password on the command line is warned about and never shown.
func TestStoreAlone(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	n := nginxForCaptures(t, "geheim")
	stream := testbed.StartStream(t, time.Millisecond)
	for password, want := range map[string]says{
		"geheim":   {"state": "done", "url": about("http://" + n.Address() + "/web1-lo-"), "stored": nil, "file": nil},
		"verraten": {"state": "failed", "url": nil, "stored": nil, "file": anything{}, "error": about("401 Unauthorized")},
	} {
		command := exec.Command(binary, "-node", "web1", "-storeurl", "http://hosts:"+password+"@"+n.Address(),
			"-destdir", t.TempDir(), "-request", `{"interface":"lo","packets":5,"bpf":"`+stream.Filter()+`"}`)
		var out bytes.Buffer
		command.Stdout = &out
		p := testbed.Start(t, command)
		code := p.Wait(t, time.Minute)
		results := parseResults(out.String())
		if len(results) != 2 || (code == 0) != (want["state"] == "done") {
			t.Fatalf("want two results, got exit code %d, %s", code, out.String())
		}
		results[1].check(t, want)
		checkHidden(t, password, out.String(), p.Output.String())
		if !strings.Contains(p.Output.String(), "secret on the command line") {
			t.Errorf("want a warning, got %s", p.Output.String())
		}
	}
}

// TestStoreSpool: a capture that one of two destinations has waits for the other
// alone, over a kill in the middle of its way, and no secret waits with it.
func TestStoreSpool(t *testing.T) {
	t.Parallel()
	var there atomic.Bool
	hanging := make(chan struct{}, 100)
	objects := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "geheim" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !there.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			hanging <- struct{}{}
			<-r.Context().Done()
			return
		}
		content := new(bytes.Buffer)
		if _, err := content.ReadFrom(r.Body); err == nil {
			objects <- r.URL.Path
		}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	shark := sharktest.Start(t, nil)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	spool := t.TempDir()
	variables := []string{"PCAPDAEMON_STOREURL=" + strings.Replace(s.URL, "//", "//hosts:geheim@", 1)}
	args := slices.Concat(uploading(t, shark), []string{"-spooldir", spool, "-cstimeout", "2s"})
	d := startDaemonWith(t, r, variables, args...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","packets":20,"bpf":"`+stream.Filter()+`"}`)
	kept := l.final(t, time.Minute)
	kept.check(t, says{"state": "kept", "url": "http://" + shark.Address() + "/captures/cafe1", "stored": nil})
	<-hanging
	files, err := filepath.Glob(filepath.Join(spool, "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("want two files in the spool, got %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		checkHidden(t, "geheim", string(text))
	}
	select {
	case <-hanging: // the spool tries it again
	case <-time.After(20 * time.Second):
		t.Fatal("the spool does not try it again")
	}
	d.Signal(t, syscall.SIGKILL)
	d.Wait(t, time.Minute)
	r.AwaitSubscribers(t, time.Minute, 0)
	there.Store(true)
	startDaemonWith(t, r, variables, args...)
	done := l.final(t, time.Minute)
	done.check(t, says{"state": "done", "id": kept.ID, "url": kept.URL, "stored": s.URL + "/" + uploadName(kept)})
	if got := <-objects; got != "/"+uploadName(kept) || shark.Count() != 1 {
		t.Errorf("want the object once, and nothing more for CloudShark, got %s and %d", got, shark.Count())
	}
}

// TestStoreInBucket: a real S3 service, with keys from the environment that are shown nowhere.
func TestStoreInBucket(t *testing.T) {
	t.Parallel()
	v := testbed.StartVersity(t, "captures")
	r := testbed.StartRedis(t)
	l := listen(t, r)
	page, port := listening(t)
	d := startDaemonWith(t, r, []string{"AWS_ACCESS_KEY_ID=" + v.Access, "AWS_SECRET_ACCESS_KEY=" + v.Secret},
		append(page, "-storeurl", "s3://captures/hosts?endpoint=http://"+v.Address(), "-format", "pcapng")...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","packets":20,"bpf":%q,"tags":"a,b","alertid":7}`, stream.Filter()))
	got := l.final(t, time.Minute)
	name := strings.TrimSuffix(uploadName(got), ".pcap") + ".pcapng"
	got.check(t, says{"state": "done", "url": "s3://captures/hosts/" + name, "stored": nil})
	info, err := os.Stat(filepath.Join(v.Root, "captures/hosts", name))
	if err != nil || info.Size() != got.Bytes {
		t.Errorf("want %d bytes, got %v, %v", got.Bytes, info, err)
	}
	_, metrics := get(t, port, "/metrics")
	_, people := get(t, port, "/")
	checkHidden(t, v.Secret, got.text, d.Output.String(), metrics, people)
	if strings.Contains(d.Output.String(), "command line") {
		t.Errorf("want no warning, got %s", d.Output.String())
	}
}

// TestStoreUsage: what cannot work is told at the start.
func TestStoreUsage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"scheme":           {[]string{"-storeurl", "ftp://hosts:geheim@h/"}, "-storeurl takes https://host/dir/"},
		"no bucket":        {[]string{"-storeurl", "s3:///x"}, "-storeurl takes s3://bucket/prefix: there is no bucket"},
		"endpoint":         {[]string{"-storeurl", "s3://captures?endpoint=h:9000"}, "-storeurl takes an endpoint"},
		"no keys":          {[]string{"-storeurl", "s3://captures"}, "-storeurl: no keys found: AWS_ACCESS_KEY_ID"},
		"CA file":          {[]string{"-storeurl", "https://h/", "-storecafile", "/no"}, "-storecafile: open /no"},
		"user and token":   {[]string{"-storeurl", "https://hosts@h/", "PCAPDAEMON_STORETOKEN=geheim"}, "PCAPDAEMON_STORETOKEN is for"},
		"token with a gap": {[]string{"-storeurl", "https://h/", "PCAPDAEMON_STORETOKEN=geheim x"}, "PCAPDAEMON_STORETOKEN takes"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command(binary)
			command.Env = append(os.Environ(), "HOME="+t.TempDir(), "AWS_EC2_METADATA_DISABLED=true")
			for _, arg := range test.args {
				if strings.HasPrefix(arg, "PCAPDAEMON_") {
					command.Env = append(command.Env, arg)
				} else {
					command.Args = append(command.Args, arg)
				}
			}
			p := testbed.Start(t, command)
			if code := p.Wait(t, time.Minute); code != 2 {
				t.Errorf("want exit code 2, got %d", code)
			}
			checkComplaint(t, p.Output.String(), test.want)
			checkHidden(t, "geheim", p.Output.String())
		})
	}
}
