package e2e

import (
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestNetworkSwallows cuts the network to Redis without a word to anybody.
func TestNetworkSwallows(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "redis-server", "redis-cli")
	host, far := testbed.NewNamespace(t, "cut"), testbed.NewNamespace(t, "cutfar")
	host.Pair(t, far)
	testbed.Start(t, far.Command("redis-server", "--bind", "10.99.0.2", "--protected-mode", "no",
		"--save", "", "--dir", t.TempDir()))
	cli := func(args ...string) string {
		out, _ := far.Command("redis-cli", append([]string{"-h", "10.99.0.2"}, args...)...).CombinedOutput()
		return string(out)
	}
	testbed.Eventually(t, time.Minute, "redis-server answers", func() bool {
		return strings.Contains(cli("PING"), "PONG")
	})
	d := testbed.Start(t, host.Command(binary,
		append(keeping(t.TempDir()), "-node", "web1", "-redisnode", "10.99.0.2")...))
	subscribed := func() bool { return strings.HasSuffix(strings.TrimSpace(cli("PUBSUB", "NUMSUB", "capture")), "1") }
	testbed.Eventually(t, time.Minute, "subscribed", subscribed)
	results := testbed.Start(t, far.Command("redis-cli", "-h", "10.99.0.2", "SUBSCRIBE", "capture-results"))
	heard := func(word string) func() bool {
		return func() bool { return strings.Contains(results.Output.String(), word) }
	}
	testbed.Eventually(t, time.Minute, "somebody hears the results", heard("subscribe"))

	cli("PUBLISH", "capture", `{"node":"web1","interface":"lo","timeout":1}`)
	testbed.Eventually(t, time.Minute, "capture started", heard("started"))
	// A wrong address of the next hop: unlike a link that is down, nobody says so.
	host.IP(t, "neigh", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "v0")
	testbed.Eventually(t, time.Minute, "the silence is noticed", func() bool {
		return strings.Contains(d.Output.String(), "subscription lost")
	})
	time.Sleep(13 * time.Second) // by now the kernel would wait for 20 s before it sends the result again
	host.IP(t, "neigh", "del", "10.99.0.2", "dev", "v0")
	testbed.Eventually(t, time.Minute, "subscribed again", subscribed) // 6 s on a machine that is not busy
	testbed.Eventually(t, time.Minute, "the result has come", heard(`"done"`))
}

// TestRedisOverIPv6: an address may be written with brackets or without.
func TestRedisOverIPv6(t *testing.T) {
	testbed.NeedRoot(t)
	if !hasIPv6() {
		testbed.Lack(t, "IPv6 on the loopback interface")
	}
	r := testbed.StartRedis(t)
	for n, node := range []string{"::1", "[::1]"} {
		testbed.Start(t, daemonCommand(r, append(keeping(t.TempDir()), "-redisnode", node)...))
		r.AwaitSubscribers(t, time.Minute, int64(n+1))
	}
}
