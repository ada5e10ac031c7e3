package tap

import (
	"net/netip"
	"regexp"
	"strings"
)

// libpcap looks up the words of a filter that are neither words of its own nor
// numbers nor addresses, and those behind a backslash. What follows reads words
// as libpcap's scanner.l does. In doubt a word is a name.

var (
	// filterWord is all that a name can consist of, and the colons of addresses.
	filterWord = regexp.MustCompile(`[-_.:A-Za-z0-9]+`)
	// filterNumber is a number, two of them with a colon, an IPv4 network or
	// address, or a MAC address.
	filterNumber = regexp.MustCompile(`^(\d+|0[xX][0-9A-Fa-f]+|\d*:\d*|\d+(\.\d+){1,3}` +
		`|[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}|[0-9A-Fa-f]{1,2}(-[0-9A-Fa-f]{1,2}){5}` +
		`|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2})$`)
	// filterRange is what may follow the word portrange, also behind "or" or "and",
	// and would be a name elsewhere.
	filterRange = regexp.MustCompile(`^\d+-\d+$`)
)

// mayHoldName reports whether a filter may hold names that have to be looked up.
func mayHoldName(expression string) bool {
	if strings.Contains(expression, `\`) {
		return true
	}
	ranges := false // follow the word portrange, or are joined to one that does
	for _, word := range filterWord.FindAllString(expression, -1) {
		// What a name begins and ends with: minus stands alone there.
		word = strings.TrimRight(strings.TrimLeft(word, "-"), "-_")
		switch {
		case word == "portrange":
			ranges = true
		case ranges && filterRange.MatchString(word), word == "and", word == "or", word == "":
		case isPlain(word):
			ranges = false
		default:
			return true
		}
	}
	return false
}

// isPlain reports whether libpcap does not look a word up.
func isPlain(word string) bool {
	if word == "" || filterNumber.MatchString(word) || isKeyword(word) {
		return true
	}
	_, err := netip.ParseAddr(word)
	return err == nil
}

// isKeyword reports whether a word is one of the language itself.
func isKeyword(word string) bool { return strings.Contains(keywords, " "+word+" ") }

// keywords are those words of pcap-filter(7) that are not only in newer or
// rarer versions of libpcap.
const keywords = " and or not src dst host net mask port portrange proto protochain gateway less greater len length " +
	"broadcast multicast inbound outbound ifindex link ether ppp slip fddi tr wlan radio type subtype direction dir " +
	"addr1 addr2 addr3 addr4 address1 address2 address3 address4 ra ta arp rarp ip ip6 icmp icmp6 igmp igrp pim vrrp " +
	"carp sctp tcp udp ah esp vlan mpls pppoed pppoes geneve llc stp ipx netbeui atalk aarp decnet lat sca moprc mopdl " +
	"iso clnp esis es-is isis is-is l1 l2 iih lsp snp csnp psnp " +
	"tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr icmptype icmpcode icmp-echoreply " +
	"icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert icmp-routersolicit icmp-timxceed " +
	"icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply icmp6type " +
	"icmp6code icmp6-echo icmp6-echoreply icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit " +
	"icmp6-neighboradvert icmp6-redirect "
