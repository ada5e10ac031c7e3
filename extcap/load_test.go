package extcap

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
	"pcapdaemon/result"
)

func TestLists(t *testing.T) {
	reach := 30.
	present := []result.Result{
		{Node: "web2", Presence: &result.Presence{Interfaces: []result.Interface{
			{Name: "eth0", Alias: "wan", Recorded: &reach}, {Name: "lo", Alias: "lo"}}}},
		{Node: "web1", Presence: &result.Presence{Interfaces: []result.Interface{{Name: "ens1", Alias: "wan"}}}},
		{Node: "web3", Presence: &result.Presence{}},
	}
	hosts := []choice{{"web1", "web1: 1 interface"}, {"web2", "web2: 2 interfaces"}, {"web3", "web3: 0 interfaces"}}
	if got := listHosts(present); !slices.Equal(hosts, got) {
		t.Errorf("want %q, got %q", hosts, got)
	}
	interfaces := []choice{{"ens1", "ens1: on 1 of 3 hosts"}, {"eth0", "eth0: on 1 of 3 hosts, recorded on 1"},
		{"lo", "lo: on 1 of 3 hosts"}, {"wan", "wan: on 2 of 3 hosts, recorded on 1"}}
	if got := listInterfaces(present); !slices.Equal(interfaces, got) {
		t.Errorf("want %q, got %q", interfaces, got)
	}
}

// TestRollCallAsks: a list is loaded from the hosts that the pattern names, whichever of them is picked, and says
// what goes wrong.
func TestRollCallAsks(t *testing.T) {
	for line, want := range map[string]string{
		"--nodere ^web --node web1": `{"nodere":"^web","rollcall":true}`,
		"--node web1":               `{"node":"any","rollcall":true}`,
		"--nodere any":              `{"node":"any","rollcall":true}`,
	} {
		o, err := parse(slices.Concat(ours, strings.Fields("--extcap-reload-option node "+line)),
			Settings{RedisURL: "redis://h1", Requests: "capture", Results: "results"})
		if err != nil {
			t.Fatal(err)
		}
		var asked string
		p := Program{Server: func(string, string) (*pubsub.Server, error) { return &pubsub.Server{}, nil }}
		p.Client.Judge = func(message []byte) (client.Asked, error) {
			asked = string(message)
			return client.Asked{}, errors.New("no request")
		}
		if list := p.load(o); asked != want || !strings.Contains(list, "{display=all that match (options: no request)}") {
			t.Errorf("%s: want %s asked, got %s, %s", line, want, asked, list)
		}
	}
}

// TestListsAreBounded: nobody looks through more.
func TestListsAreBounded(t *testing.T) {
	for entries, want := range map[int]int{0: 1, 3: 4, mostListed: mostListed + 1, 3 * mostListed: mostListed + 1} {
		got := options{}.list(interfaceList, "none", make([]choice, entries))
		if n := strings.Count(got, "\n"); n != want || !strings.Contains(got, "{display=none}{default=true}") {
			t.Errorf("want %d sentences for %d entries, got %d", want, entries, n)
		}
	}
}
