package extcap

import (
	"slices"
	"strings"
	"testing"

	"pcapdaemon/result"
)

func TestLists(t *testing.T) {
	reach := 30.
	present := []result.Result{
		{Node: "web2", Presence: &result.Presence{Interfaces: []result.Interface{
			{Name: "eth0", Alias: "wan", Recorded: &reach}, {Name: "lo"}}}},
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

// TestListsAreBounded: nobody looks through more.
func TestListsAreBounded(t *testing.T) {
	for entries, want := range map[int]int{0: 1, 3: 4, mostListed: mostListed + 1, 3 * mostListed: mostListed + 1} {
		got := options{}.list(interfaceList, "none", make([]choice, entries))
		if n := strings.Count(got, "\n"); n != want || !strings.Contains(got, "{display=none}{default=true}") {
			t.Errorf("want %d sentences for %d entries, got %d", want, entries, n)
		}
	}
}
