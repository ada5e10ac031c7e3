package pubsub

import (
	"github.com/gomodule/redigo/redis"
)

// fewClients is how many connections a server may have had for them not to tell whether it was
// restarted: as many may have come since.
const fewClients = 1000

// A clientID is the number that a server has given to a connection. It counts them from its
// start on, so that a later connection with a lower number is one after a restart.
type clientID struct {
	address string
	number  int64 // 0: not known
}

// clientIDOf asks for the number of a connection. HELLO is permitted to everybody; servers before
// Redis 6, and some proxies, do not know it.
func clientIDOf(conn redis.Conn) clientID {
	id := clientID{address: repliesOf(conn).address}
	answer, err := redis.Values(redis.DoWithTimeout(conn, answerTimeout, "HELLO"))
	if err != nil {
		return id
	}
	for i := 0; i+1 < len(answer); i += 2 {
		if name, _ := redis.String(answer[i], nil); name == "id" {
			id.number, _ = redis.Int64(answer[i+1], nil)
		}
	}
	return id
}

// hasStayed reports whether the server has certainly not been restarted between two connections.
func hasStayed(before, now clientID) bool {
	return before.address == now.address && before.number >= fewClients && now.number > before.number
}
