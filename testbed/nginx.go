package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// An Nginx is a real web server that takes files by PUT.
type Nginx struct {
	*Process
	Port int
	Root string // directory where files go
}

// StartNginx starts a web server that keeps files below a directory, with more
// directives for its location and for its server.
func StartNginx(t testing.TB, root, location, server string) *Nginx {
	t.Helper()
	path := "/usr/sbin/nginx" // not in everybody's PATH
	if _, err := os.Stat(path); err != nil {
		Lack(t, "nginx")
	}
	n := &Nginx{Port: FreePort(t), Root: root}
	config := filepath.Join(t.TempDir(), "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s.pid; error_log stderr;
events {}
http {
	access_log off; client_max_body_size 0;
	client_body_temp_path %[2]s/.part; proxy_temp_path %[2]s/.proxy; fastcgi_temp_path %[2]s/.fastcgi;
	uwsgi_temp_path %[2]s/.uwsgi; scgi_temp_path %[2]s/.scgi;
	server {
		listen 127.0.0.1:%[3]d;
		root %[2]s;
		%[4]s
		location / { dav_methods PUT; create_full_put_path on; %[5]s }
	}
}
`, config, root, n.Port, server, location)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Process = Start(t, exec.Command(path, "-p", root, "-e", "stderr", "-c", config))
	n.awaitListening(t, n.Address())
	return n
}

// Address returns host:port.
func (n *Nginx) Address() string { return "127.0.0.1:" + strconv.Itoa(n.Port) }
