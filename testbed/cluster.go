package testbed

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// StartCluster starts a Redis Cluster of three masters.
func StartCluster(t testing.TB) []*Redis {
	t.Helper()
	var nodes []*Redis
	for range 3 {
		nodes = append(nodes, StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(FreePort(t)),
			"--cluster-node-timeout", "2000"))
	}
	const slots = 16384
	for n, node := range nodes {
		node.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", n+1)
		node.Do(t, "CLUSTER", "ADDSLOTSRANGE", n*slots/3, (n+1)*slots/3-1)
		bus := node.Do(t, "CONFIG", "GET", "cluster-port").([]any)[1].([]byte)
		if n > 0 {
			nodes[0].Do(t, "CLUSTER", "MEET", "127.0.0.1", node.Port, string(bus))
		}
	}
	Eventually(t, 20*time.Second, "the nodes are a cluster", func() bool {
		for _, node := range nodes {
			info := string(node.Do(t, "CLUSTER", "INFO").([]byte))
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	})
	return nodes
}
