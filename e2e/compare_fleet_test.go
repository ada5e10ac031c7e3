//go:build compare

package e2e

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// measureFleet measures the daemon as one of many that listen on one server.
// The others only read: what a daemon does with a request it does elsewhere.
func (c *comparison) measureFleet(t *testing.T) {
	const others = 5000
	note("%d subscribers", others)
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	subscribe := func(n int) {
		for range n {
			conn, err := net.Dial("tcp", c.redis.Address())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			fmt.Fprint(conn, "SUBSCRIBE capture\r\n")
			go io.Copy(io.Discard, conn)
		}
	}
	// The server sends to one after the other; the daemon is in the middle.
	subscribe(others / 2)
	var p *testbed.Process
	onCore(t, captureCore, func() {
		p = testbed.Start(t, daemonCommand(c.redis, append(c.withoutLimits(), "-share", "0")...))
	})
	c.redis.AwaitSubscribers(t, time.Minute, others/2+1)
	subscribe(others - others/2)
	c.redis.AwaitSubscribers(t, time.Minute, others+1)
	c.settle(t)
	var started, published []time.Duration
	for range startRounds {
		asked := time.Now()
		c.publish(t, quietFilter, `"timeout":1`)
		published = append(published, time.Since(asked))
		c.results.await(t, 10*time.Second, "started")
		started = append(started, time.Since(asked))
		c.awaitDone(t)
	}
	c.table.value(fmt.Sprintf("one of %d subscribers: PUBLISH to started", others), roundTime(median(started)), "", true)
	c.table.value("… PUBLISH answered after", roundTime(median(published)), "", true)
	c.stop(t, p)
}

// measureRate measures what requests for others cost that come all the time,
// each by itself. Redis alone could not tell thousands of hosts as often.
func (c *comparison) measureRate(t *testing.T) {
	const rate, span = 1000, 5 * time.Second
	note("%d requests for other hosts a second", rate)
	p := c.startDaemon(t)
	c.settle(t)
	before := cpuTime(t, p)
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	sent := 0
	for began := time.Now(); time.Since(began) < span; sent++ {
		<-tick.C
		message := fmt.Sprintf(`{"nodere":"^db%d[0-9]+$","interface":"eth0","bpf":"tcp port 443","timeout":60}`, sent%4)
		if _, err := c.publisher.Do("PUBLISH", "capture", message); err != nil {
			t.Fatal(err)
		}
	}
	each := (cpuTime(t, p) - before) / time.Duration(sent)
	c.stop(t, p)
	c.table.value(fmt.Sprintf("request for another host, %d a second, CPU", rate), roundTime(each), "", true)
}
