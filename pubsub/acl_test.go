package pubsub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// What docs/operations.md gives as the least for a host and for one who asks. The older
// forms are for Redis 6, which knows no selectors.
const (
	hostACL       = "resetchannels -@all +ping +unsubscribe (+subscribe &capture) (+publish &capture-results)"
	askerACL      = "resetchannels -@all +ping (+publish &capture) (+subscribe &capture-results)"
	olderHostACL  = "resetchannels &capture &capture-results -@all +subscribe +unsubscribe +ping +publish"
	olderAskerACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"
)

// What is needed besides to return captures through keys.
const (
	hostKeysACL  = "(%W~capture-results:* +set +setrange +expire +del)"
	askerKeysACL = "(~capture-results:* +getrange +strlen +del)"
)

// permit gives the server a user with the password secret and what it may do.
func permit(t *testing.T, r *testbed.Redis, user, rules string) {
	t.Helper()
	r.Do(t, "ACL", redis.Args{"SETUSER", user, "reset", "on", ">secret"}.AddFlat(splitACL(rules))...)
}

// splitACL returns the rules of a text; what is in brackets is one.
func splitACL(text string) (rules []string) {
	for rule := range strings.FieldsSeq(text) {
		if n := len(rules); n > 0 && strings.HasPrefix(rules[n-1], "(") && !strings.HasSuffix(rules[n-1], ")") {
			rules[n-1] += " " + rule
		} else {
			rules = append(rules, rule)
		}
	}
	return rules
}

// reachAs returns how to reach a server as a user that permit made.
func reachAs(r *testbed.Redis, user string) *Server {
	return &Server{Addresses: []string{r.Address()}, User: user, Password: "secret"}
}

// TestACL: what each user may do and what not, on the server itself.
func TestACL(t *testing.T) {
	r := testbed.StartRedis(t)
	for name, test := range map[string]struct{ rules, may, mayNot string }{
		"host": {hostACL,
			"PING;PUBLISH capture-results x;SUBSCRIBE capture",
			"PUBLISH capture x;PUBLISH other x;SUBSCRIBE capture-results;PSUBSCRIBE capture*;GET x;KEYS *;CLIENT LIST"},
		"asker": {askerACL,
			"PING;PUBLISH capture x;SUBSCRIBE capture-results",
			"PUBLISH capture-results x;SUBSCRIBE capture;PSUBSCRIBE *;GET x;CONFIG GET *"},
		"host that returns": {hostACL + " " + hostKeysACL,
			"SET capture-results:x y;SETRANGE capture-results:x 0 z;EXPIRE capture-results:x 600;DEL capture-results:x;PING",
			"SET other x;SET capture-results:x y GET;SETRANGE capture 0 x;DEL other;" +
				"GETRANGE capture-results:x 0 1;GET capture-results:x;PUBLISH capture x"},
		"asker that fetches": {askerACL + " " + askerKeysACL,
			"STRLEN capture-results:x;GETRANGE capture-results:x 0 9;DEL capture-results:x;PING",
			"SET capture-results:x y;SETRANGE capture-results:x 0 y;GETRANGE other 0 9;DEL other;PUBLISH capture-results x"},
		"host that sends live": {hostACL + " " + hostLiveACL,
			"WATCH capture-results:x:live;EXISTS capture-results:x:live;MULTI;RPUSH capture-results:x:live y;" +
				"EXPIRE capture-results:x:live 60;LINDEX capture-results:x:live -1;LLEN capture-results:x:live",
			"RPUSH capture-results:x y;RPUSH other:live y;LPOP capture-results:x:live;DEL capture-results:x:live;" +
				"SET capture-results:x:live y;PUBLISH capture x;KEYS *"},
		"asker that reads live": {askerACL + " " + askerLiveACL,
			"LINDEX capture-results:x:live 0;LTRIM capture-results:x:live 1 -1;DEL capture-results:x:live",
			"LINDEX capture-results:x 0;LTRIM other:live 1 -1;RPUSH capture-results:x:live y;" +
				"LRANGE capture-results:x:live 0 -1"},
		"host with sentinels": {hostACL + " +role", "ROLE;PING", "INFO;PUBLISH capture x"},
		"older host": {olderHostACL,
			"PING;PUBLISH capture-results x;PUBLISH capture x;SUBSCRIBE capture",
			"PUBLISH other x;GET x"},
		"older asker": {olderAskerACL,
			"PING;PUBLISH capture x;PUBLISH capture-results x;SUBSCRIBE capture-results",
			"PUBLISH other x;GET x"},
	} {
		t.Run(name, func(t *testing.T) {
			permit(t, r, "user", test.rules)
			for command := range strings.SplitSeq(test.may, ";") {
				if err := try(t, r, "user", command); err != nil {
					t.Errorf("want %s permitted, got %v", command, err)
				}
			}
			for command := range strings.SplitSeq(test.mayNot, ";") {
				if err := try(t, r, "user", command); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
					t.Errorf("want %s not permitted, got %v", command, err)
				}
			}
		})
	}
}

// try runs a command as a user.
func try(t *testing.T, r *testbed.Redis, user, command string) error {
	t.Helper()
	conn, err := redis.Dial("tcp", r.Address(), redis.DialUsername(user), redis.DialPassword("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	words := strings.Fields(command)
	_, err = conn.Do(words[0], redis.Args{}.AddFlat(words[1:])...)
	return err
}

// TestACLSuffices: subscriber, publisher and client work with what is permitted.
func TestACLSuffices(t *testing.T) {
	for name, rules := range map[string][2]string{
		"Redis 7": {hostACL, askerACL}, "Redis 6": {olderHostACL, olderAskerACL}} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			permit(t, r, "host", rules[0])
			permit(t, r, "asker", rules[1])
			var log testbed.Transcript
			messages, _ := startSubscriber(t, reachAs(r, "host"), logTo(&log))
			r.AwaitSubscribers(t, 30*time.Second, 1)
			p := newPublisher(t, reachAs(r, "host"), logTo(&log))
			c := startClient(t, reachAs(r, "asker"))
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
			if strings.Contains(log.String(), "NOPERM") {
				t.Errorf("something was not permitted: %s", log.String())
			}
		})
	}
}

// TestDocumentedACL: what operators are told of permissions is what is tested here.
func TestDocumentedACL(t *testing.T) {
	paper, err := os.ReadFile(filepath.Join("..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, acl := range []string{hostACL, askerACL, hostKeysACL, askerKeysACL,
		hostLiveACL, askerLiveACL, olderHostACL, olderAskerACL, askerScanACL, clusterScanACL} {
		if !strings.Contains(strings.ReplaceAll(string(paper), "'", ""), acl) { // the shell wants quotes
			t.Errorf("docs/operations.md does not hold %q", acl)
		}
	}
}
