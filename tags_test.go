package main

import (
	"strings"
	"testing"
)

func TestUploadTags(t *testing.T) {
	many := strings.Repeat("t,", 40)
	all := request{Tags: "a, b,,", Customer: "A,B", AlertID: new(uint64)}
	for name, test := range map[string]struct {
		requests []request
		want     string
	}{
		"none": {[]request{{}}, "node:web1,interface:eth0"},
		"all":  {[]request{all}, "a,b,customer:A_B,alertid:0,node:web1,interface:eth0"},
		"ours before theirs": {[]request{{Tags: many, Customer: "c"}},
			strings.Repeat("t,", 27) + "customer:c,node:web1,interface:eth0"},
		"the first one's set, then what others add": {[]request{all, {Tags: "b,c", Customer: "C"}, {}},
			"a,b,customer:A_B,alertid:0,node:web1,interface:eth0,c,customer:C"},
		"no more than CloudShark takes": {[]request{{Tags: "a"},
			{Tags: "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28"}},
			"a,node:web1,interface:eth0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27"},
	} {
		var askers []asker
		for _, r := range test.requests {
			askers = append(askers, asker{request: r})
		}
		if got := strings.Join(uploadTags(askers, "web1", "eth0"), ","); got != test.want {
			t.Errorf("%s: want %s, got %s", name, test.want, got)
		}
	}
}
