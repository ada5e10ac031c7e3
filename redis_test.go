package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// logTo returns a log that is written to w.
func logTo(w io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	return log
}

// startSubscriber runs a subscriber until the test ends. The state is "subscribed" or the last error.
func startSubscriber(t *testing.T, server redisServer, log *logrus.Logger) (messages chan []byte, state func() string) {
	t.Helper()
	messages = make(chan []byte, 100)
	var last atomic.Value
	last.Store("")
	s := subscriber{server: server, channel: "capture", messages: messages, log: log, state: func(err error) {
		if err == nil {
			err = errors.New("subscribed")
		}
		last.Store(err.Error())
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(3 * time.Second):
			t.Error("subscriber has not ended")
		}
	})
	return messages, func() string { return last.Load().(string) }
}

// checkReceives publishes and expects the message.
func checkReceives(t *testing.T, r *redisProcess, messages <-chan []byte) {
	t.Helper()
	text := fmt.Sprint(time.Now().UnixNano())
	r.publish(t, text)
	select {
	case got := <-messages:
		if string(got) != text {
			t.Errorf("want %s, got %s", text, got)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("published message has not arrived")
	}
}

func TestSubscriberSurvivesOutages(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	var log transcript
	messages, state := startSubscriber(t, redisServer{address: r.address()}, logTo(&log))
	subscribed := func() bool { return state() == "subscribed" }
	eventually(t, 5*time.Second, "subscribed", subscribed)
	checkReceives(t, r, messages)

	r.do(t, "CLIENT", "KILL", "TYPE", "pubsub")
	r.awaitSubscribers(t, 6*time.Second, 1)
	checkReceives(t, r, messages)

	r.signal(t, syscall.SIGKILL)
	r.wait(t, 5*time.Second)
	time.Sleep(4 * time.Second) // long enough for the waits to have grown
	if subscribed() {
		t.Error("subscribed, without a server")
	}
	r.start(t)
	r.awaitSubscribers(t, 6*time.Second, 1)
	checkReceives(t, r, messages)
	if lines := readLines(log.String()); len(lines) > 9 {
		t.Errorf("want a handful of lines for two outages, got %d:\n%s", len(lines), log.String())
	}
}

func TestSubscriberAwayAtStart(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	r.signal(t, syscall.SIGTERM)
	r.wait(t, 5*time.Second)
	messages, state := startSubscriber(t, redisServer{address: r.address()}, quietLog())
	eventually(t, 5*time.Second, "connection refused", func() bool { return strings.Contains(state(), "refused") })
	time.Sleep(2 * time.Second)
	r.start(t)
	r.awaitSubscribers(t, 6*time.Second, 1)
	checkReceives(t, r, messages)
}

// TestSubscriberStays: silence on the channel is no outage.
func TestSubscriberStays(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	var log transcript
	messages, _ := startSubscriber(t, redisServer{address: r.address()}, logTo(&log))
	r.awaitSubscribers(t, 5*time.Second, 1)
	time.Sleep(pingPeriod + pongMargin + 2*time.Second)
	checkReceives(t, r, messages)
	if lines := readLines(log.String()); len(lines) != 1 {
		t.Errorf("want one subscription, got %s", log.String())
	}
}

func TestSubscriberNoticesHangingServer(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	messages, state := startSubscriber(t, redisServer{address: r.address()}, quietLog())
	eventually(t, 5*time.Second, "subscribed", func() bool { return state() == "subscribed" })
	r.signal(t, syscall.SIGSTOP)
	eventually(t, 15*time.Second, "the hanging server is noticed", func() bool { return state() != "subscribed" })
	r.signal(t, syscall.SIGCONT)
	r.awaitSubscribers(t, 6*time.Second, 1)
	eventually(t, 6*time.Second, "subscribed again", func() bool { return state() == "subscribed" })
	checkReceives(t, r, messages)
}

// leastACL is what the README gives as the least for a host.
const leastACL = "resetchannels &capture &capture-results -@all +subscribe +unsubscribe +ping +publish"

func TestSubscriberRefused(t *testing.T) {
	r := startRedis(t)
	r.do(t, "ACL", "SETUSER", "host", "on", ">secret", "resetchannels", "-@all", "+ping")
	r.do(t, "ACL", "SETUSER", "default", "on", ">other")
	for name, test := range map[string]struct{ user, password, want string }{
		"wrong password": {"host", "wrong", "WRONGPASS"},
		"no password":    {"", "", "NOAUTH"},
		"not permitted":  {"host", "secret", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			var log transcript
			_, state := startSubscriber(t, redisServer{address: r.address(), user: test.user, password: test.password}, logTo(&log))
			eventually(t, 5*time.Second, "refused with "+test.want, func() bool { return strings.Contains(state(), test.want) })
			if !strings.Contains(log.String(), "level=error") || strings.Contains(log.String(), "secret") {
				t.Errorf("want an error without the password in the log, got %s", log.String())
			}
		})
	}
}

func TestSubscriberWorksOnceAllowed(t *testing.T) {
	r := startRedis(t)
	r.do(t, "ACL", "SETUSER", "host", "on", ">secret", "resetchannels", "-@all")
	messages, state := startSubscriber(t, redisServer{address: r.address(), user: "host", password: "secret"}, quietLog())
	eventually(t, 5*time.Second, "not permitted", func() bool { return strings.Contains(state(), "NOPERM") })
	args := []any{"SETUSER", "host"}
	for rule := range strings.FieldsSeq(leastACL) {
		args = append(args, rule)
	}
	r.do(t, "ACL", args...)
	r.awaitSubscribers(t, 6*time.Second, 1)
	checkReceives(t, r, messages)
}

// startTLSRedis starts a server that speaks TLS on a second port.
func startTLSRedis(t *testing.T, ca *certificateAuthority) (r *redisProcess, address string) {
	t.Helper()
	certificate, key := ca.issue(t)
	port := strconv.Itoa(freePort(t))
	r = startRedis(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca.file, "--tls-auth-clients", "no")
	return r, "127.0.0.1:" + port
}

func TestSubscriberTLS(t *testing.T) {
	ca := newCA(t)
	r, address := startTLSRedis(t, ca)
	c, err := parseConfig([]string{"-publish", "{}", "-redisurl", "rediss://" + address, "-rediscafile", ca.file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	messages, state := startSubscriber(t, c.redis.server, quietLog())
	eventually(t, 5*time.Second, "subscribed", func() bool { return state() == "subscribed" })
	checkReceives(t, r, messages)

	_, distrusting := startSubscriber(t, redisServer{address: address, tls: true}, quietLog())
	eventually(t, 5*time.Second, "certificate refused", func() bool { return strings.Contains(distrusting(), "certificate") })
}

func TestPublisherKeepsOrder(t *testing.T) {
	r := startRedis(t)
	l := r.listen(t)
	p := newPublisher(redisServer{address: r.address()}, "capture-results", quietLog())
	for n := range 3000 {
		p.Publish(fmt.Appendf(nil, `{"id":"%d"}`, n))
	}
	for n := range 3000 {
		if got := l.next(t, 5*time.Second); got.ID != strconv.Itoa(n) {
			t.Fatalf("want result %d, got %s", n, got.ID)
		}
	}
	p.close()
}

func TestPublisherKeepsTheNewest(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l := r.listen(t)
	p := newPublisher(redisServer{address: r.address()}, "capture-results", quietLog())
	defer p.close()
	p.Publish([]byte(`{"id":"first"}`))
	l.next(t, 5*time.Second)
	r.signal(t, syscall.SIGTERM)
	r.wait(t, 5*time.Second)
	p.Publish([]byte(`{"id":"0"}`))
	eventually(t, 5*time.Second, "the outage is noticed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.away
	})
	for n := 1; n <= 1500; n++ {
		p.Publish(fmt.Appendf(nil, `{"id":"%d"}`, n))
	}
	r.start(t)
	l = r.listen(t)
	first, _ := strconv.Atoi(l.next(t, 6*time.Second).ID)
	if first < 500 || first > 502 { // one may have been under way
		t.Errorf("want the newest 1000, got them from %d on", first)
	}
	for n := first + 1; n <= 1500; n++ {
		if got := l.next(t, 5*time.Second); got.ID != strconv.Itoa(n) {
			t.Fatalf("want result %d, got %s", n, got.ID)
		}
	}
}

// TestPublisherDoesNotRepeat: a server that hangs and wakes publishes each result once.
func TestPublisherDoesNotRepeat(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l := r.listen(t)
	p := newPublisher(redisServer{address: r.address()}, "capture-results", quietLog())
	p.Publish([]byte(`{"id":"0"}`))
	l.next(t, 5*time.Second)
	r.signal(t, syscall.SIGSTOP)
	for n := 1; n <= 3; n++ {
		p.Publish(fmt.Appendf(nil, `{"id":"%d"}`, n))
	}
	time.Sleep(pingPeriod + pongMargin + time.Second)
	r.signal(t, syscall.SIGCONT)
	for n := 1; n <= 3; n++ {
		if got := l.next(t, 6*time.Second); got.ID != strconv.Itoa(n) {
			t.Errorf("want result %d, got %s", n, got.ID)
		}
	}
	l.quiet(t, 500*time.Millisecond)
	p.close()
}

// TestNetworkSwallows cuts the network to Redis without a word to anybody.
func TestNetworkSwallows(t *testing.T) {
	t.Parallel()
	needTools(t, "redis-server", "redis-cli")
	host, far := newNamespace(t, "cut"), newNamespace(t, "cutfar")
	host.pair(t, far)
	start(t, far.command("redis-server", "--bind", "10.99.0.2", "--protected-mode", "no", "--save", "", "--dir", t.TempDir()))
	cli := func(args ...string) string {
		out, _ := far.command("redis-cli", append([]string{"-h", "10.99.0.2"}, args...)...).CombinedOutput()
		return string(out)
	}
	eventually(t, 5*time.Second, "redis-server answers", func() bool { return strings.Contains(cli("PING"), "PONG") })
	d := start(t, host.command(binary, append(keeping(t.TempDir()), "-node", "web1", "-redisnode", "10.99.0.2")...))
	subscribed := func() bool { return strings.HasSuffix(strings.TrimSpace(cli("PUBSUB", "NUMSUB", "capture")), "1") }
	eventually(t, 5*time.Second, "subscribed", subscribed)
	results := start(t, far.command("redis-cli", "-h", "10.99.0.2", "SUBSCRIBE", "capture-results"))
	eventually(t, 5*time.Second, "somebody hears the results", func() bool { return strings.Contains(results.output.String(), "subscribe") })

	cli("PUBLISH", "capture", `{"node":"web1","interface":"lo","timeout":1}`)
	eventually(t, 5*time.Second, "capture started", func() bool { return strings.Contains(results.output.String(), "started") })
	// A wrong address of the next hop: unlike a link that is down, nobody says so.
	host.ip(t, "neigh", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "v0")
	eventually(t, 15*time.Second, "the silence is noticed", func() bool { return strings.Contains(d.output.String(), "subscription lost") })
	time.Sleep(20 * time.Second) // by now the kernel would wait half a minute before it sends the result again
	host.ip(t, "neigh", "del", "10.99.0.2", "dev", "v0")
	eventually(t, 6*time.Second, "subscribed again", subscribed)
	eventually(t, 6*time.Second, "the result has come", func() bool { return strings.Contains(results.output.String(), `"done"`) })
}

func TestPublisherCloses(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, address := range map[string]string{"nobody there": "127.0.0.1:" + strconv.Itoa(freePort(t)), "no answer": silent.Addr().String()} {
		p := newPublisher(redisServer{address: address}, "capture-results", quietLog())
		p.Publish([]byte(`{}`))
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		p.close()
		if took := time.Since(began); took > lastAttempt+time.Second {
			t.Errorf("%s: closing took %v", name, took)
		}
	}
}

func TestReconnectDelay(t *testing.T) {
	delay := newReconnectDelay()
	for n := range 50 {
		if wait := delay.NextBackOff(); wait < 100*time.Millisecond || wait+dialTimeout > 6*time.Second || n > 10 && wait < 2*time.Second {
			t.Errorf("attempt %d: waits %v", n, wait)
		}
	}
}

// TestReadmeACL: what the README says of permissions is what is tested here.
func TestReadmeACL(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, acl := range []string{leastACL, publisherACL} {
		if !strings.Contains(strings.ReplaceAll(string(readme), "'", ""), acl) { // the shell wants quotes
			t.Errorf("the README does not hold %q", acl)
		}
	}
}
