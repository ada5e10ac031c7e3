package pubsub

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// A party is what has to follow a group of servers: a host that is subscribed and
// publishes a number every 20 ms, and one who asks and listens to them.
type party struct {
	messages chan []byte
	client   *Client
	log      testbed.Transcript
	stop     chan struct{}
	count    chan int // of the numbers, when it has stopped
}

// startParty starts a host and one who asks. Each has a Server of its own, as two programs have.
func startParty(t *testing.T, server func() *Server) *party {
	t.Helper()
	p := &party{stop: make(chan struct{}), count: make(chan int, 1)}
	t.Cleanup(func() { t.Logf("log of the host:\n%s", p.log.String()) })
	p.messages, _ = startSubscriber(t, server(), logTo(&p.log))
	p.client = startClient(t, server())
	publisher := newPublisher(t, server(), logTo(&p.log))
	publisher.Await(t.Context())
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ticker.C:
				publishNumbers(publisher, n, n)
			case <-p.stop:
				p.count <- n
				return
			}
		}
	}()
	return p
}

// checkNothingLost ends the numbers and expects that the client has heard all of
// them in order, some of them perhaps again.
func (p *party) checkNothingLost(t *testing.T) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	close(p.stop)
	all, again := <-p.count, 0
	for expected := 0; expected < all; {
		switch got := number(t, next(t, p.client.Answers(), 4*moving)); {
		case got > expected:
			t.Fatalf("want number %d of %d, got %d", expected, all, got)
		case got == expected:
			expected++
		default:
			again++
		}
	}
	t.Logf("%d numbers, %d of them again", all, again)
}

func TestSentinelFailover(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	kill := func(t *testing.T, g *testbed.Group) { g.Servers[0].Signal(t, syscall.SIGKILL) }
	for name, happen := range map[string]func(*testing.T, *testbed.Group){
		"master is killed": kill,
		"master hangs":     func(t *testing.T, g *testbed.Group) { g.Servers[0].Signal(t, syscall.SIGSTOP) },
		"by hand": func(t *testing.T, g *testbed.Group) {
			g.Sentinels[0].Do(t, "SENTINEL", "FAILOVER", testbed.MasterName)
		},
		"master is killed, and a sentinel hangs": func(t *testing.T, g *testbed.Group) {
			kill(t, g)
			g.Sentinels[0].Signal(t, syscall.SIGSTOP)
			g.Sentinels = g.Sentinels[1:]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := testbed.StartGroup(t, testbed.GroupConfig{})
			addresses := g.SentinelAddresses()
			p := startParty(t, func() *Server { return &Server{Addresses: addresses, Master: testbed.MasterName} })
			g.Servers[0].AwaitSubscribers(t, 30*time.Second, 1)
			checkReceives(t, g.Servers[0], p.messages)
			happen(t, g)
			master := g.AwaitNewMaster(t, g.Servers[0])
			began := time.Now()
			master.AwaitSubscribers(t, 30*time.Second, 1)
			t.Logf("subscribed after %v", time.Since(began))
			checkReceives(t, master, p.messages)
			p.checkNothingLost(t)
		})
	}
}

// TestSentinelsAreAway: what is connected stays, and what was the master last may be it still.
func TestSentinelsAreAway(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	g := testbed.StartGroup(t, testbed.GroupConfig{})
	var proxies []*testbed.Proxy
	var addresses []string
	for _, sentinel := range g.SentinelAddresses() {
		proxy := testbed.StartProxy(t, sentinel)
		proxies, addresses = append(proxies, proxy), append(addresses, proxy.Address)
	}
	p := startParty(t, func() *Server { return &Server{Addresses: addresses, Master: testbed.MasterName} })
	master := g.Servers[0]
	master.AwaitSubscribers(t, 30*time.Second, 1)
	for _, proxy := range proxies {
		proxy.Lead("")
		proxy.Cut()
	}
	time.Sleep(2*watchPeriod + time.Second)
	if lines := testbed.ReadLines(p.log.String()); len(lines) != 1 {
		t.Errorf("want no more than one subscription, got %s", p.log.String())
	}
	checkReceives(t, master, p.messages)
	master.Do(t, "CLIENT", "KILL", "TYPE", "pubsub")
	master.AwaitSubscribers(t, 30*time.Second, 1)
	for n, proxy := range proxies {
		proxy.Lead(g.SentinelAddresses()[n])
	}
	master.Signal(t, syscall.SIGKILL)
	next := g.AwaitNewMaster(t, master)
	next.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, next, p.messages)
}

// TestSentinelLies: one that names a replica is not believed, neither at the
// start nor later; one that knows no master at all is no hindrance.
func TestSentinelLies(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	g := testbed.StartGroup(t, testbed.GroupConfig{})
	liar, ignorant := lie(t, g.Servers[1].Address()), testbed.StartRedis(t)
	server := func() *Server {
		addresses := slices.Concat([]string{liar, ignorant.Address()}, g.SentinelAddresses())
		return &Server{Addresses: addresses, Master: testbed.MasterName}
	}
	p := startParty(t, server)
	g.Servers[0].AwaitSubscribers(t, 30*time.Second, 1)
	g.Sentinels[0].Do(t, "SENTINEL", "FAILOVER", testbed.MasterName)
	master := g.AwaitNewMaster(t, g.Servers[0])
	if master == g.Servers[1] {
		t.Log("the liar tells the truth by now")
	}
	master.AwaitSubscribers(t, 30*time.Second, 1)
	p.checkNothingLost(t)

	alone := &Server{Addresses: []string{lie(t, g.Servers[0].Address())}, Master: testbed.MasterName}
	testbed.Eventually(t, 30*time.Second, "a replica is not taken", func() bool {
		_, err := alone.dial(t.Context())
		return err != nil && strings.Contains(err.Error(), "is no master but a slave")
	})
}

// TestSentinelLiesLater: the sentinel that was trusted goes away, and the next one lies.
func TestSentinelLiesLater(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	g := testbed.StartGroup(t, testbed.GroupConfig{})
	trusted := testbed.StartProxy(t, g.Sentinels[0].Address())
	addresses := []string{trusted.Address, lie(t, g.Servers[1].Address()), g.Sentinels[1].Address()}
	p := startParty(t, func() *Server { return &Server{Addresses: addresses, Master: testbed.MasterName} })
	master := g.Servers[0]
	master.AwaitSubscribers(t, 30*time.Second, 1)
	time.Sleep(watchPeriod + time.Second) // it is asked again
	trusted.Lead("")
	trusted.Cut()
	time.Sleep(2*watchPeriod + time.Second)
	if lines := testbed.ReadLines(p.log.String()); len(lines) != 1 {
		t.Errorf("want no more than one subscription, got %s", p.log.String())
	}
	master.Signal(t, syscall.SIGSTOP)
	next := g.AwaitNewMaster(t, master)
	next.AwaitSubscribers(t, 30*time.Second, 1)
	p.checkNothingLost(t)
	if !strings.Contains(p.log.String(), errMoved.Error()) {
		t.Errorf("want %q in the log, got %s", errMoved, p.log.String())
	}
}

// lie starts what answers as a sentinel that names an address, whatever it is asked.
func lie(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	host, port, _ := net.SplitHostPort(address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for question := make([]byte, 1000); ; {
					if _, err := conn.Read(question); err != nil {
						return
					}
					fmt.Fprintf(conn, "*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(host), host, len(port), port)
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// TestSentinelTLSAndPasswords: both kinds of server have their own.
func TestSentinelTLSAndPasswords(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	ca := testbed.NewCA(t)
	g := testbed.StartGroup(t, testbed.GroupConfig{CA: ca, Password: "secret", SentinelPassword: "watch"})
	address := fmt.Sprintf("rediss+sentinel://:secret@%s/%s?sentinelpassword=watch",
		strings.Join(g.SentinelAddresses(), ","), testbed.MasterName)
	server := func() *Server {
		s, err := ParseURL(address)
		if err != nil {
			t.Fatal(err)
		}
		s.CAs = trust(t, ca)
		return s
	}
	p := startParty(t, server)
	g.Servers[0].AwaitSubscribers(t, 30*time.Second, 1)
	g.Servers[0].Signal(t, syscall.SIGKILL)
	master := g.AwaitNewMaster(t, g.Servers[0])
	master.AwaitSubscribers(t, 30*time.Second, 1)
	p.checkNothingLost(t)
	if text := p.log.String(); strings.Contains(text, "secret") || strings.Contains(text, "watch") {
		t.Errorf("a password is in the log: %s", text)
	}

	for name, spoil := range map[string]func(*Server){
		"WRONGPASS, sentinel": func(s *Server) { s.SentinelPassword = "wrong" },
		"WRONGPASS, server":   func(s *Server) { s.Password = "wrong" },
		"NOAUTH":              func(s *Server) { s.SentinelPassword = "" },
		"certificate":         func(s *Server) { s.CAs = nil },
	} {
		s := server()
		spoil(s)
		want, _, _ := strings.Cut(name, ",")
		if _, err := s.dial(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", name, err)
		}
	}
}

// TestServersInTurn: several addresses, of which some are dead or hang.
func TestServersInTurn(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	good, other := testbed.StartRedis(t), testbed.StartRedis(t)
	dead := testbed.DeadAddress(t)
	server := &Server{Addresses: []string{dead, good.Address(), other.Address()}}
	messages, _ := startSubscriber(t, server, quietLog())
	good.AwaitSubscribers(t, 30*time.Second, 1)
	good.Signal(t, syscall.SIGSTOP)
	other.AwaitSubscribers(t, pingPeriod+pongMargin+pingPeriod+30*time.Second, 1)
	checkReceives(t, other, messages)
	good.Signal(t, syscall.SIGCONT)
	other.Signal(t, syscall.SIGKILL)
	good.AwaitSubscribers(t, 30*time.Second, 1)
	checkReceives(t, good, messages)
}

// TestServersAllRefuse: the error says what each of them said.
func TestServersAllRefuse(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "ACL", "SETUSER", "default", ">secret")
	dead := testbed.DeadAddress(t)
	server := &Server{Addresses: []string{dead, r.Address()}, User: "me", Password: "wrong"}
	_, err := server.dial(t.Context())
	for _, want := range []string{"refused", "WRONGPASS"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %s in one line, got %v", want, err)
		}
	}
}

// TestCluster: any node will do to publish and to subscribe, and a capture is
// returned through the node that has its slot.
func TestCluster(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	nodes := testbed.StartCluster(t)
	var addresses []string
	for _, node := range nodes {
		addresses = append(addresses, node.Address())
	}
	turned := slices.Concat(addresses[1:], addresses[:1])
	messages, _ := startSubscriber(t, &Server{Addresses: addresses}, quietLog())
	p := newPublisher(t, &Server{Addresses: addresses}, quietLog())
	c := startClient(t, &Server{Addresses: turned})
	nodes[0].AwaitSubscribers(t, 30*time.Second, 1)
	talk := func() {
		t.Helper()
		if _, err := c.Publish(t.Context(), []byte("question")); err != nil {
			t.Error(err)
		}
		if got := next(t, messages, 30*time.Second); got != "question" {
			t.Errorf("want the question, got %s", got)
		}
		p.Publish([]byte("answer"))
		if got := next(t, c.Answers(), 30*time.Second); got != "answer" {
			t.Errorf("want the answer, got %s", got)
		}
	}
	talk()
	for n := range 10 {
		key, want := fmt.Sprint("capture-results:", n), randomBytes(3*pieceSize)
		for range 3 { // the same name, and others of it
			checkReturn(t, &Server{Addresses: addresses}, key, want)
		}
	}
	nodes[0].Signal(t, syscall.SIGKILL)
	nodes[0].Wait(t, 30*time.Second)
	nodes[1].AwaitSubscribers(t, 30*time.Second, 1)
	talk()
}

// checkReturn stores a value and fetches it.
func checkReturn(t *testing.T, server *Server, key string, want []byte) {
	t.Helper()
	used, err := server.Store(t.Context(), key, int64(len(want)), plain(want))
	if err != nil {
		t.Error(err)
		return
	}
	var got strings.Builder
	if _, err := server.Fetch(t.Context(), used, &got); err != nil || got.String() != string(want) {
		t.Errorf("%s: want what was stored, got %d bytes, %v", used, got.Len(), err)
	}
}

// TestSentinelsKnowBetter: the former master is not used while a sentinel says that it is another
// one, even if it says itself that it is the master and the other one cannot be used yet.
func TestSentinelsKnowBetter(t *testing.T) {
	t.Parallel()
	former := testbed.StartRedis(t)
	next := testbed.StartRedis(t, "--replicaof", "127.0.0.1", fmt.Sprint(former.Port))
	server := &Server{Addresses: []string{lie(t, next.Address())}, Master: testbed.MasterName, master: former.Address()}
	if conn, err := server.dial(t.Context()); err == nil {
		conn.Close()
		t.Errorf("want no connection, got one to %s", masterOf(conn))
	} else if !mentions(err, "is no master but a slave") {
		t.Errorf("want what is wrong with the next one, got %v", err)
	}
	server.Addresses = []string{testbed.DeadAddress(t)}
	conn, err := server.dial(t.Context())
	if err != nil {
		t.Fatal("nobody says another one: ", err)
	}
	conn.Close()
}

// TestSentinelSaysTooMuch: errors quote no more than the beginning of what makes no sense.
func TestSentinelSaysTooMuch(t *testing.T) {
	long := strings.Repeat("x", 300_000)
	bulk := func(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }
	for name, test := range map[string]struct{ sentinel, role, culprit string }{
		"a long host":    {"*2\r\n" + bulk(long) + bulk("1"), "", "for an address"},
		"many words":     {"*4000\r\n" + strings.Repeat(bulk("xxxxxxxxxx"), 4000), "", "for an address"},
		"a long role":    {"", "*1\r\n" + bulk(long), "is no master but a xxx"},
		"no such master": {"*-1\r\n", "", "knows no master"},
	} {
		t.Run(name, func(t *testing.T) {
			master := startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, test.role) })
			sentinel := startFakeServer(t, func(to io.Writer, _ []string) { fmt.Fprint(to, test.sentinel) })
			if test.sentinel == "" {
				sentinel = lie(t, master)
			}
			_, err := (&Server{Addresses: []string{sentinel}, Master: testbed.MasterName}).dial(t.Context())
			if !mentions(err, test.culprit) || len(err.Error()) > 1000 {
				t.Errorf("want %q in a short error, got %.1000v", test.culprit, err)
			}
		})
	}
}
