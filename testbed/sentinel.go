package testbed

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// MasterName is what sentinels call the master that they watch.
const MasterName = "mymaster"

// A Group is a master, its replicas, and the sentinels that watch them.
type Group struct {
	Servers   []*Redis // the first one is the master in the beginning
	Sentinels []*Redis
	ca        *CA
}

// A GroupConfig is how one gets into a group.
type GroupConfig struct {
	CA               *CA    // nil: no TLS; else the servers speak it with each other, too
	Password         string // of the servers
	SentinelPassword string
}

// StartGroup starts a master, two replicas and three sentinels, which agree
// within seconds that a master is gone.
func StartGroup(t testing.TB, c GroupConfig) *Group {
	t.Helper()
	g := &Group{ca: c.CA}
	var tls []string
	if c.CA != nil {
		certificate, key := c.CA.Issue(t)
		tls = []string{"tls-cert-file", certificate, "tls-key-file", key, "tls-ca-cert-file", c.CA.File,
			"tls-auth-clients", "no", "tls-replication", "yes"}
	}
	for range 3 {
		g.Servers = append(g.Servers, g.startServer(t, c, tls))
	}
	for range 3 {
		g.Sentinels = append(g.Sentinels, g.startSentinel(t, c, tls))
	}
	Eventually(t, 30*time.Second, "sentinels know replicas and each other", func() bool {
		for _, sentinel := range g.Sentinels {
			state := masterState(sentinel)
			if state["num-slaves"] != "2" || state["num-other-sentinels"] != "2" || state["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return g
}

// Address returns where a member is reached from outside.
func (g *Group) Address(member *Redis) string {
	if g.ca != nil {
		return member.TLSAddress()
	}
	return member.Address()
}

// SentinelAddresses returns the addresses of the sentinels.
func (g *Group) SentinelAddresses() (addresses []string) {
	for _, sentinel := range g.Sentinels {
		addresses = append(addresses, g.Address(sentinel))
	}
	return addresses
}

// startServer starts a master, or a replica of the first server.
func (g *Group) startServer(t testing.TB, c GroupConfig, tls []string) *Redis {
	t.Helper()
	args := []string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}
	for n := 0; n < len(tls); n += 2 {
		args = append(args, "--"+tls[n], tls[n+1])
	}
	port := 0
	if c.CA != nil {
		port = FreePort(t)
		args = append(args, "--tls-port", fmt.Sprint(port))
	}
	if c.Password != "" {
		args = append(args, "--requirepass", c.Password, "--masterauth", c.Password)
	}
	if len(g.Servers) > 0 {
		host, port, _ := net.SplitHostPort(g.Address(g.Servers[0]))
		args = append(args, "--replicaof", host, port)
	}
	r := StartRedis(t, args...)
	r.TLSPort, r.Password = port, c.Password
	return r
}

// startSentinel starts a sentinel that watches the first server.
func (g *Group) startSentinel(t testing.TB, c GroupConfig, tls []string) *Redis {
	t.Helper()
	host, port, _ := net.SplitHostPort(g.Address(g.Servers[0]))
	lines := []string{
		fmt.Sprintf("sentinel monitor %s %s %s 2", MasterName, host, port),
		"sentinel down-after-milliseconds " + MasterName + " 2000",
		"sentinel failover-timeout " + MasterName + " 5000",
	}
	for n := 0; n < len(tls); n += 2 {
		lines = append(lines, tls[n]+" "+tls[n+1])
	}
	if c.Password != "" {
		lines = append(lines, "sentinel auth-pass "+MasterName+" "+c.Password)
	}
	if c.SentinelPassword != "" {
		lines = append(lines, "requirepass "+c.SentinelPassword, "sentinel sentinel-pass "+c.SentinelPassword)
	}
	for range 5 {
		r := &Redis{Port: FreePort(t), Password: c.SentinelPassword}
		dir := t.TempDir()
		config := append([]string{fmt.Sprintf("port %d", r.Port), "dir " + dir}, lines...)
		if c.CA != nil {
			r.TLSPort = FreePort(t)
			config = append(config, fmt.Sprintf("tls-port %d", r.TLSPort))
		}
		file := filepath.Join(dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.Process = Start(t, exec.Command("redis-server", file, "--sentinel"))
		listens := false
		Eventually(t, 10*time.Second, "sentinel listens or ends", func() bool {
			listens = strings.Contains(r.Output.String(), "+monitor master")
			return listens || r.HasExited()
		})
		if listens {
			return r
		}
	}
	t.Fatal("no sentinel starts")
	return nil
}

// masterState returns what a sentinel knows of the master, if it answers.
func masterState(sentinel *Redis) map[string]string {
	conn, err := sentinel.dial()
	if err != nil {
		return nil
	}
	defer conn.Close()
	state, _ := redis.StringMap(conn.Do("SENTINEL", "MASTER", MasterName))
	return state
}

// AwaitNewMaster waits until the sentinels agree on another master than the one
// before, and returns it.
func (g *Group) AwaitNewMaster(t testing.TB, before *Redis) (master *Redis) {
	t.Helper()
	Eventually(t, 30*time.Second, "the sentinels agree on another master", func() bool {
		named := map[string]bool{}
		for _, sentinel := range g.Sentinels {
			named[namedMaster(sentinel)] = true
		}
		for _, server := range g.Servers {
			if server != before && len(named) == 1 && named[g.Address(server)] {
				master = server
			}
		}
		return master != nil
	})
	return master
}

// namedMaster returns the address that a sentinel gives to those who ask.
func namedMaster(sentinel *Redis) string {
	conn, err := sentinel.dial()
	if err != nil {
		return ""
	}
	defer conn.Close()
	answer, err := redis.Strings(conn.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName))
	if err != nil || len(answer) != 2 {
		return ""
	}
	return net.JoinHostPort(answer[0], answer[1])
}
