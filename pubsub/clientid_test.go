package pubsub

import "testing"

// TestHasStayed: a server that may have been restarted has not certainly stayed.
func TestHasStayed(t *testing.T) {
	before := clientID{"a:1", 5000}
	for _, test := range []struct {
		before, now clientID
		want        bool
	}{
		{before, clientID{"a:1", 5001}, true},
		{before, clientID{"a:1", 4999}, false},
		{before, clientID{"a:1", 3}, false},
		{before, clientID{"b:1", 5001}, false},
		{before, clientID{"a:1", 0}, false},
		{clientID{"a:1", fewClients - 1}, clientID{"a:1", 5001}, false},
		{clientID{"a:1", fewClients}, clientID{"a:1", 5001}, true},
		{clientID{"a:1", 0}, clientID{"a:1", 5001}, false},
	} {
		if got := hasStayed(test.before, test.now); got != test.want {
			t.Errorf("%v, then %v: want %v, got %v", test.before, test.now, test.want, got)
		}
	}
}
