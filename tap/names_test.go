package tap

import "testing"

func TestMayHoldName(t *testing.T) {
	for filter, want := range map[string]bool{
		"":                                               false,
		"udp port 53":                                    false,
		"host 10.0.0.1 or net 10.1/16":                   false,
		"net 10.0.0.0 mask 255.0.0.0":                    false,
		"host 2001:db8::1 or ::ffff:1.2.3.4":             false,
		"ether host 00:11:22:aa:bb:cc":                   false,
		"ether host 00-11-22-aa-bb-cc":                   false,
		"ether host 0011.22aa.bbcc":                      false,
		"portrange 8000-8080 and not arp":                false,
		"udp src portrange 1-100":                        false,
		"portrange 1-100 or 200-300":                     false,
		"portrange 1-1||3-3||(5-5)":                      false,
		"tcp[tcpflags] & (tcp-syn|tcp-fin) != 0":         false,
		"ip[2:2]-((ip[0]&0xf)<<2)-4 > 0 and tcp[0: 2]=1": false,
		"icmp6[icmp6type]==icmp6-echo&&!ip6 multicast":   false,
		"vlan 7 and(udp or ether proto 0x88CC)":          false,
		"greater 100 and less 1000 and len>=60":          false,

		"host web1":                     true,
		"host www.example.com":          true,
		"port domain":                   true,
		"host 10.0.0.1.example":         true,
		"ip proto \\tcp":                true,
		"host \\tcp":                    true,
		"host 1-100":                    true,
		"portrange 1-100 or udp or 3-3": true,
		"portrange 1-1 or host 3-3":     true,
		"host face":                     true,
		"host 1::face.de":               true,
		"host 1::ether":                 true,
		"tcp[0]-1=len-4":                true,
		"host TCP":                      true,
		"udp(example)":                  true,
		"udp and example":               true,
		"host 1.":                       true,
		"host abc:1":                    true,
	} {
		if got := mayHoldName(filter); got != want {
			t.Errorf("%q: want %v, got %v", filter, want, got)
		}
	}
}
