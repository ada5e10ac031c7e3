package extcap

import (
	"os"
	"slices"
	"strings"
	"syscall"

	"pcapdaemon/pubsub"
)

// urlVariable is where the program finds the address of Redis. Only its own user can read it there.
const urlVariable = "PCAPDAEMON_REDISURL"

// conceal starts the program anew, in the same process, without the secrets that Wireshark
// has put on the command line, where ps shows them to every user. If that is not
// possible the program goes on as it is.
func conceal(p Program, o options, args []string) {
	typed, err := pubsub.ParseURL(o.redisURL)
	if o.password == "" && (err != nil || typed.URL(true) == typed.URL(false)) {
		return
	}
	s, err := o.server(p)
	if err != nil {
		return // which is said later
	}
	args = append(without(args, "password", "redisurl"), "--redisurl", s.URL(false))
	environment := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, urlVariable+"=") })
	environment = append(environment, urlVariable+"="+s.URL(true))
	_ = syscall.Exec("/proc/self/exe", append(os.Args[:1:1], args...), environment)
}

// without returns arguments without some options and their values.
func without(args []string, names ...string) (kept []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		switch {
		case !strings.HasPrefix(args[i], "-") || !slices.Contains(names, name):
			kept = append(kept, args[i])
		case !joined:
			i++ // its value
		}
	}
	return kept
}
