package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"pcapdaemon/capfile"
	"pcapdaemon/encrypt"
	"pcapdaemon/tap"
	"pcapdaemon/text"
)

// defaultInterface is the name for the interface that has the default route.
const defaultInterface = "default"

var (
	// errNoInterface refuses a request that names no interface.
	errNoInterface = errors.New("interface: required")
	// errNoReturn refuses a request whose captures would go nowhere. All else about it is judged before.
	errNoReturn = errors.New(`return: required, captures go nowhere else here: give -publish -destdir or -w, or "return":true`)
)

// shownNames is how many interfaces an error names at most.
const shownNames = 10

// limits are what a host grants: the most that a request may ask for, and what
// it gets where it asks for nothing.
type limits struct {
	packets, bytes          int64
	timeout, defaultTimeout time.Duration
	snap                    int64             // bytes
	interfaces              []string          // nil: all
	aliases                 map[string]string // interfaces by their second names
	recorded                []string          // of the interfaces, those that have a past
	returned                int64             // bytes of what is returned to whoever asked; 0: nothing is
	onlyReturns             bool              // captures go nowhere else
	// encrypted says for whom captures are encrypted; nil: they are not.
	encrypted *encrypt.Recipients
}

// nameInterfaces reads the list of -interfaces, in which wan=eth0 gives eth0 a second name.
func (l *limits) nameInterfaces(list string) error {
	entries, ok := splitNames(list)
	if !ok {
		return fmt.Errorf("-interfaces takes all, or interface names separated by commas, not %q", list)
	}
	l.aliases = map[string]string{}
	for _, entry := range entries {
		alias, device, named := strings.Cut(entry, "=")
		switch {
		case !named:
			device = entry
		case alias == "" || device == "" || strings.Contains(device, "="):
			return fmt.Errorf("-interfaces takes second names as in wan=eth0, not %q", entry)
		case alias == tap.AnyInterface || alias == defaultInterface || l.aliases[alias] != "":
			return fmt.Errorf("-interfaces: %q cannot be a second name, it means something already", alias)
		default:
			l.aliases[alias] = device
		}
		l.interfaces = append(l.interfaces, device)
	}
	for alias := range l.aliases {
		if slices.Contains(l.interfaces, alias) {
			return fmt.Errorf("-interfaces: %q cannot be a second name, it means something already", alias)
		}
	}
	return nil
}

// splitNames returns the names of a list with commas, each once; false means that
// one is empty, or not UTF-8, which metrics and results have to be.
func splitNames(list string) (names []string, ok bool) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" || !utf8.ValidString(name) {
			return nil, false
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, true
}

// bounds returns the ends of the request's captures. The error names the
// field, and the flag if that is what stands in the way.
func (l limits) bounds(r request) (bounds, error) {
	maxSeconds := int64(l.timeout / time.Second)
	switch {
	case len(r.Interfaces) == 0:
		return bounds{}, errNoInterface
	case r.Packets > l.packets:
		return bounds{}, fmt.Errorf("packets: %d is above -maxpackets %d", r.Packets, l.packets)
	case r.Bytes > l.bytes:
		return bounds{}, fmt.Errorf("bytes: %d is above -maxbytes %d", r.Bytes, l.bytes)
	case r.Return && r.Live:
		return bounds{}, errors.New("return and live: give one, for a capture when it has ended or while it is made")
	case r.Return && l.returned == 0:
		return bounds{}, errors.New("return: nothing is returned here, -maxreturn is 0")
	case r.Live && l.encrypted != nil:
		return bounds{}, errors.New("live: captures are encrypted here, and those that are sent live would not be; " +
			"ask for return")
	case r.Live && l.returned == 0:
		return bounds{}, errors.New("live: nothing is returned here, -maxreturn is 0")
	case r.isForRequester() && r.Bytes > l.returned:
		return bounds{}, fmt.Errorf("bytes: %d is above -maxreturn %d", r.Bytes, l.returned)
	case r.Timeout > maxSeconds:
		return bounds{}, fmt.Errorf("timeout: %d s is above -maxtimeout %s", r.Timeout, text.FormatDuration(l.timeout))
	case r.Snap > l.snap:
		return bounds{}, fmt.Errorf("snap: %d is above -maxsnap %d", r.Snap, l.snap)
	}
	bytes := l.bytes
	if r.isForRequester() {
		bytes = min(bytes, l.returned)
	}
	bytes = cmp.Or(r.Bytes, bytes)
	if l.encrypted != nil && l.encrypted.Fit(bytes) < capfile.HeaderSize {
		return bounds{}, fmt.Errorf("bytes: captures are encrypted here, and %d are too few for that", bytes)
	}
	return bounds{
		packets: cmp.Or(r.Packets, l.packets),
		bytes:   bytes,
		timeout: cmp.Or(time.Duration(r.Timeout)*time.Second, l.defaultTimeout),
	}, nil
}

// device returns the interface that a request means by a name, or why it may not be had.
func (l limits) device(name string) (string, error) {
	device := cmp.Or(l.aliases[name], name)
	if device == defaultInterface {
		var err error
		if device, err = tap.FindDefault(); err != nil {
			return "", err
		}
	}
	own := ownName(device)
	if !l.allows(device) && !l.allows(own) {
		return "", fmt.Errorf("interface: %s is not in -interfaces; %s", text.Quote(name), l.choice())
	}
	return own, nil
}

// allows reports whether -interfaces names an interface, by any of its names.
func (l limits) allows(device string) bool {
	return l.interfaces == nil || slices.Contains(l.interfaces, device) || slices.Contains(l.ownNames(), device)
}

// ownNames returns the kernel's own names of the interfaces in -interfaces.
func (l limits) ownNames() []string {
	own := make([]string, len(l.interfaces))
	for i, name := range l.interfaces {
		own[i] = ownName(name)
	}
	return own
}

// ownName returns the kernel's own name of an interface that may be called by an
// alternative one. A name that nobody has is returned as it is.
func ownName(name string) string {
	if own, err := tap.Device(name); err == nil {
		return own
	}
	return name
}

// capturable returns the interfaces of this host that may be captured on, and among them the one that
// stands for any if it is named. That one is always there, and up.
func (l limits) capturable() []net.Interface {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	if l.interfaces != nil {
		own := l.ownNames() // once: a host may have thousands
		interfaces = slices.DeleteFunc(interfaces, func(i net.Interface) bool { return !slices.Contains(own, i.Name) })
	}
	if slices.Contains(l.interfaces, tap.AnyInterface) || slices.Contains(l.recorded, tap.AnyInterface) {
		interfaces = append(interfaces, net.Interface{Name: tap.AnyInterface, Flags: net.FlagUp})
	}
	return interfaces
}

// alias returns the second name of an interface, or nothing.
func (l limits) alias(device string) string {
	for _, alias := range slices.Sorted(maps.Keys(l.aliases)) {
		if ownName(l.aliases[alias]) == device {
			return alias
		}
	}
	return ""
}

// choice says which interfaces may be captured on, by the names that suit a request best.
func (l limits) choice() string {
	var names []string
	if l.interfaces == nil {
		for _, i := range l.capturable() {
			names = append(names, i.Name)
		}
	}
	aliases := map[string]string{}
	for alias, device := range l.aliases {
		aliases[device] = min(alias, cmp.Or(aliases[device], alias))
	}
	for _, device := range l.interfaces {
		names = append(names, cmp.Or(aliases[device], device))
	}
	more := ""
	if n := len(names) - shownNames; n > 0 {
		names, more = names[:shownNames], fmt.Sprintf(" and %d more", n)
	}
	for i, name := range names {
		names[i] = text.Printable(name)
	}
	return "those that may be captured on: " + strings.Join(names, ", ") + more
}

// checkRecorded says why nothing from before the request can be had of an interface, or nil.
func (l limits) checkRecorded(name, device string) error {
	if !slices.Contains(l.recorded, device) {
		return fmt.Errorf("lookback: %s is not in -record", text.Printable(name))
	}
	return nil
}
