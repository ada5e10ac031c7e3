package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/user"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pcapdaemon/result"
	"pcapdaemon/text"
)

// A request is a request as its asker publishes it, and what the asker has to know of it.
type request struct {
	message []byte
	id      string // of the results
	asked   Asked
	// field and value are whom it names: node or nodere.
	field, value string
	by           string
	// Captures begin with it, unless it ends some or asks who listens.
	begins, rollCall bool
	returns          bool  // those captures are returned
	progress         int64 // seconds between results on the way; 0: there are none
}

// A asker says who asks, and what is to become of the answers.
type asker struct {
	by      string // user@host
	watches bool   // captures are watched on a terminal
	fetches bool   // files are to be returned
	live    bool   // packets are read while they are captured
}

// whoAmI returns user@host, as far as they are known.
func whoAmI() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return name + "@" + host
}

// newRequest has a request judged and fills in what its asker leaves open.
func newRequest(message []byte, judge func([]byte) (Asked, error), who asker) (request, error) {
	r, err := judge(message)
	if err != nil {
		return request{}, err
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(message, &given); err != nil {
		return request{}, err
	}
	q := request{message: message, asked: r, id: r.ID, by: r.By, field: "node", value: r.Node,
		begins: r.Stop == "" && !r.RollCall, rollCall: r.RollCall}
	if q.value == "" {
		q.field, q.value = "nodere", r.NodeRE
	}
	added := map[string]any{}
	if who.live {
		if err := q.checkLive(given); err != nil {
			return request{}, err
		}
		added["live"] = true
	}
	if q.by == "" {
		q.by, added["by"] = who.by, who.by
	}
	switch {
	case r.Stop != "":
		q.id = r.Stop
	case given["id"] == nil || string(given["id"]) == `""`:
		added["id"] = q.id
	}
	if q.progress = r.Progress; q.begins && who.watches && given["progress"] == nil {
		q.progress, added["progress"] = 1, 1
	}
	if q.begins && who.fetches && !who.live {
		switch {
		case string(given["live"]) == "true":
			return request{}, errors.New("live: -destdir alone takes captures when they have ended; give -w as well")
		case given["return"] == nil:
			added["return"] = true
		}
	}
	q.returns = q.begins && (added["return"] == true || string(given["return"]) == "true")
	if len(added) == 0 {
		return q, nil
	}
	for name, value := range given {
		if _, filled := added[name]; !filled {
			added[name] = value
		}
	}
	q.message = text.JSON(added)
	_, err = judge(q.message)
	return q, err
}

// checkLive refuses what cannot be read while it is captured.
func (q request) checkLive(given map[string]json.RawMessage) error {
	is := func(field, value string) bool { return string(given[field]) == value }
	switch {
	case !q.begins:
		return errors.New("captures nothing of which -w could write the packets")
	case is("return", "true"):
		return errors.New("return: -w takes the packets while they are captured, not when the capture has ended")
	case is("live", "false"):
		return errors.New("live: -w takes the packets while they are captured")
	}
	return nil
}

// exact reports whether it names one host.
func (q request) exact() bool { return q.field == "node" && q.value != "any" }

// stop returns the message that ends the captures of this request.
func (q request) stop() []byte {
	return text.JSON(map[string]any{q.field: q.value, "stop": q.id, "by": q.by})
}

// stopByHand returns the command that does the same.
func (q request) stopByHand() string {
	return "pcapdaemon -publish " + shellWord(q.field+"="+q.value) + " " + shellWord("stop="+q.id)
}

// fetchByHand returns the command that fetches what is returned, into a directory.
func (q request) fetchByHand(dir string) string {
	return "pcapdaemon -destdir " + shellWord(cmp.Or(dir, ".")) + " -fetch " + shellWord(q.id)
}

// shellWord quotes a word for a shell, if it needs to be.
func shellWord(word string) string {
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("@%+=:,./_-", r)
	}
	if strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// spans say how long a capture takes at most, as far as its asker can know.
type spans struct {
	capture  time.Duration // until it ends, where the host does not say
	longest  time.Duration // until it ends, whatever the host says
	delivery time.Duration // from there to its last result, where the host does not say
	period   time.Duration // between results on the way; 0: there are none
}

// spans returns what was asked for, and where nothing was, what the asker's
// own flags say of hosts.
func (q request) spans(o Options) spans {
	s := spans{capture: o.Capture, longest: max(o.Capture, longestCapture), delivery: o.Delivery + lateness,
		period: seconds(q.progress)}
	if q.asked.Timeout > 0 {
		s.capture = seconds(q.asked.Timeout)
		s.longest = s.capture
	}
	return s
}

// seconds returns a duration that makes sense.
func seconds(n int64) time.Duration { return result.Seconds(float64(n)) }

// believe returns how long a capture with these limits may last, and how long
// after that its last result may come. What a host says may be anything.
func (s spans) believe(g *result.Limits) (capture, delivery time.Duration) {
	capture, delivery = s.capture, s.delivery
	if g != nil {
		capture = min(g.Duration(), s.longest)
	}
	if g != nil && g.Delivery > 0 {
		delivery = min(seconds(g.Delivery), longestDelivery) + lateness
	}
	return capture, delivery
}
