//go:build compare

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// measureOthers publishes many requests for other hosts and one for this one.
func (c *comparison) measureOthers(t *testing.T) {
	const requests = 50_000
	note("requests for other hosts")
	p := c.startDaemon(t)
	c.settle(t)
	before := cpuTime(t, p)
	for n := range requests {
		// By name, and by several expressions in turn: no memory of the last one helps.
		to := fmt.Sprintf(`"node":"db%d"`, n)
		if n%2 != 0 {
			to = fmt.Sprintf(`"nodere":"^db%d[0-9]+$"`, n/2%4)
		}
		message := fmt.Sprintf(`{%s,"interface":"eth0","bpf":"host 192.0.2.%d and tcp port 443","tags":"login,slow",`+
			`"customer":"example","packets":1000,"timeout":60,"alertid":%d}`, to, n%250, n)
		if err := c.publisher.Send("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	behind := time.Now()
	c.publish(t, quietFilter, `"timeout":1`) // Do sends what waits and reads all answers
	c.results.await(t, time.Minute, "started")
	answered := time.Since(behind)
	each := (cpuTime(t, p) - before) / requests
	c.awaitDone(t)
	c.stop(t, p)
	c.table.within("request for another host, CPU", each, 0, 25*time.Microsecond)
	c.table.within("request behind 50,000 others, answered after", answered, 0, time.Second)
}

// settle lets the daemon come to rest after its start with a first request.
func (c *comparison) settle(t *testing.T) {
	c.publish(t, quietFilter, `"timeout":1`)
	c.awaitDone(t)
}

// measureBurst publishes more requests for this host than it has slots.
func (c *comparison) measureBurst(t *testing.T) {
	const requests = 2000
	note("burst of requests")
	p := c.startDaemon(t)
	idle := settledMemory(t, p)
	before := c.subscriptions(t)
	for n := range requests {
		message := fmt.Sprintf(`{"node":"web1","interface":"v0","bpf":%q,"id":"burst %d","timeout":1}`, quietFilter, n)
		if err := c.publisher.Send("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.publisher.Do(""); err != nil {
		t.Fatal(err)
	}
	answers := c.collectAnswers(requests, 15*time.Second)
	once := 0
	for _, n := range answers {
		if n == 1 {
			once++
		}
	}
	peak := memory(t, p, "VmHWM") - idle
	kept := slices.Equal(before, c.subscriptions(t))
	c.stop(t, p)
	c.table.value("burst of 2,000 requests: answered exactly once", strconv.Itoa(once),
		"= 2000", once == requests && len(answers) == requests)
	c.table.memory("… peak memory over idle", peak, 120*1000*1000)
	c.table.value("… subscription kept", map[bool]string{true: "yes", false: "no"}[kept], "= yes", kept)
}

// collectAnswers counts final results by id until there are enough or time is up.
func (c *comparison) collectAnswers(enough int, within time.Duration) map[string]int {
	answers := map[string]int{}
	for deadline := time.After(within); len(answers) < enough; {
		select {
		case message := <-c.results.messages:
			if r := parseResult(message); r.State != "started" {
				answers[r.ID]++
			}
		case <-deadline:
			return answers
		}
	}
	return answers
}

// subscriptions returns Redis' ids of the connections that are subscribed.
func (c *comparison) subscriptions(t *testing.T) []string {
	t.Helper()
	list, err := redis.String(c.redis.Do(t, "CLIENT", "LIST", "TYPE", "pubsub"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, line := range testbed.ReadLines(list) {
		ids = append(ids, strings.Fields(line)[0])
	}
	slices.Sort(ids)
	return ids
}
