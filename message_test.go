package main

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pcapdaemon/client"
	"pcapdaemon/pubsub"
)

// received returns a message as it comes from the channel: of one that is too long the rest is cut off.
func received(text string) pubsub.Message {
	kept := min(len(text), pubsub.MaxMessage)
	return pubsub.Message{Data: []byte(text[:kept]), Rest: int64(len(text) - kept)}
}

// BenchmarkDecode judges and decodes requests, in the way of how often they
// occur: most are for others.
func BenchmarkDecode(b *testing.B) {
	const rest = `"interface":"eth0","bpf":"host 192.0.2.7 and tcp port 443","tags":"login,slow","customer":"example",` +
		`"packets":1000,"timeout":60,"alertid":4711}`
	for _, bench := range []struct {
		name     string
		messages []string // in turn
		want     error
	}{
		{"another node", []string{`{"node":"db1",` + rest}, errOtherNode},
		{"another node by the same expression", []string{`{"nodere":"^db[0-9]+$",` + rest}, errOtherNode},
		{"another node by changing expressions",
			[]string{`{"nodere":"^db[0-9]+$",` + rest, `{"nodere":"^mail[0-9]+$",` + rest}, errOtherNode},
		{"this node", []string{`{"node":"web1",` + rest}, nil},
		{"this node by expression", []string{`{"nodere":"^web[0-9]+$",` + rest}, nil},
		{"no request", []string{`{"node":"db1",`}, errMalformed},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			a := matcher{node: "web1"}
			for n := 0; b.Loop(); n++ {
				if _, err := a.decode(received(bench.messages[n%len(bench.messages)])); !errors.Is(err, bench.want) {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestDecode(t *testing.T) {
	alert := uint64(18446744073709551615)
	for name, test := range map[string]struct {
		message string
		want    request
	}{
		"by name": {`{"node":"web1","interface":"eth0","id":"x"}`,
			request{ID: "x", Interfaces: []string{"eth0"}}},
		"for any":                {`{"node":"any","id":"x"}`, request{ID: "x"}},
		"expression, unanchored": {`{"nodere":"eb","id":"x"}`, request{ID: "x"}},
		"empty node is missing":  {`{"node":"","nodere":"^web1$","id":"x"}`, request{ID: "x"}},
		"every field": {`{"node":"web1","interface":"eth0","tags":"a, b","bpf":"udp","customer":"ACME","snap":96,
			"packets":50,"alertid":18446744073709551615,"timeout":10,"bytes":4096,"by":"me@here","id":"x"}`,
			request{ID: "x", Interfaces: []string{"eth0"}, Filter: "udp", Packets: 50, Bytes: 4096, Timeout: 10,
				Snap: 96, Tags: "a, b", Customer: "ACME", By: "me@here", AlertID: &alert}},
		"list of interfaces, each once": {`{"node":"web1","interface":["a","b","a"],"id":"x"}`,
			request{ID: "x", Interfaces: []string{"a", "b"}}},
		"most interfaces": {`{"node":"web1","id":"x","interface":["x"` + strings.Repeat(`,"x"`, 63) + `]}`,
			request{ID: "x", Interfaces: []string{"x"}}},
		"a day back": {`{"node":"web1","id":"x","lookback":86400}`, request{ID: "x", Lookback: 86400}},
		"no switch is on": {`{"node":"web1","id":"x","return":false,"live":false,"rollcall":false,"bpf":"udp"}`,
			request{ID: "x", Filter: "udp"}},
		"a roll call": {`{"nodere":"^w","rollcall":true,"id":"x","by":"me"}`, request{ID: "x", By: "me", RollCall: true}},
		"empty strings are missing": {`{"node":"web1","interface":"","tags":"","bpf":"","customer":"","id":"x"}`,
			request{ID: "x"}},
		"white space around the object": {" \n{\"node\":\"web1\",\"id\":\"x\"}\r\n\t ", request{ID: "x"}},
		"longest id": {`{"node":"web1","id":"` + strings.Repeat("ü", 128) + `"}`,
			request{ID: strings.Repeat("ü", 128)}},
		"longest filter": {`{"node":"web1","id":"x","bpf":"` + strings.Repeat("ü", 2048) + `"}`,
			request{ID: "x", Filter: strings.Repeat("ü", 2048)}},
		"longest texts": {`{"node":"web1","id":"x","tags":"` + strings.Repeat("ü", 1024) + `"}`,
			request{ID: "x", Tags: strings.Repeat("ü", 1024)}},
		"longest message":                 {`{"node":"web1","id":"x"}` + strings.Repeat(" ", 64<<10-24), request{ID: "x"}},
		"an alert's number may be 0":      {`{"node":"web1","id":"x","alertid":0}`, request{ID: "x", AlertID: new(uint64)}},
		"the other one of the two unused": {`{"node":"web1","nodere":"","id":"x"}`, request{ID: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&matcher{node: "web1"}).decode(received(test.message))
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(got.raw) {
				t.Errorf("want the request as it came, got %s", got.raw)
			}
			got.raw = nil
			if !reflect.DeepEqual(test.want, got) {
				t.Errorf("want %+v, got %+v", test.want, got)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, test := range map[string]struct{ message, culprit string }{
		"misspelt field":          {`{"node":"web1","bfp":"udp"}`, "bfp"},
		"field in capitals":       {`{"node":"web1","BPF":"udp"}`, "BPF"},
		"both node and nodere":    {`{"node":"web1","nodere":"x"}`, "node and nodere"},
		"both, nodere matches":    {`{"node":"x","nodere":"web"}`, "node and nodere"},
		"both, nodere is broken":  {`{"node":"web1","nodere":"("}`, "node and nodere"},
		"both, node is a number":  {`{"node":1,"nodere":"web"}`, "node and nodere"},
		"interface is a number":   {`{"node":"web1","interface":1}`, "interface"},
		"interface is an object":  {`{"node":"web1","interface":{}}`, "interface"},
		"interface is null":       {`{"node":"web1","interface":null}`, "interface"},
		"number in the list":      {`{"node":"web1","interface":["a",1]}`, "interface"},
		"null in the list":        {`{"node":"web1","interface":["a",null]}`, "interface"},
		"empty name in the list":  {`{"node":"web1","interface":["a",""]}`, "interface"},
		"list in the list":        {`{"node":"web1","interface":[["a"]]}`, "interface"},
		"tags are a list":         {`{"node":"web1","tags":["a"]}`, "tags"},
		"filter is a number":      {`{"node":"web1","bpf":1}`, "bpf"},
		"filter is null":          {`{"node":"web1","bpf":null}`, "bpf"},
		"filter too long":         {`{"node":"web1","bpf":"` + strings.Repeat("u", 2049) + `"}`, "bpf"},
		"customer is true":        {`{"node":"web1","customer":true}`, "customer"},
		"snap is a string":        {`{"node":"web1","snap":"96"}`, "snap"},
		"snap is negative":        {`{"node":"web1","snap":-1}`, "snap"},
		"packets is a string":     {`{"node":"web1","packets":"50"}`, "packets"},
		"packets is a fraction":   {`{"node":"web1","packets":1.5}`, "packets"},
		"packets is negative":     {`{"node":"web1","packets":-1}`, "packets"},
		"packets has an exponent": {`{"node":"web1","packets":1e3}`, "packets"},
		"packets is null":         {`{"node":"web1","packets":null}`, "packets"},
		"bytes is a list":         {`{"node":"web1","bytes":[1]}`, "bytes"},
		"bytes is negative":       {`{"node":"web1","bytes":-5}`, "bytes"},
		"timeout is a duration":   {`{"node":"web1","timeout":"10s"}`, "timeout"},
		"timeout is negative":     {`{"node":"web1","timeout":-1}`, "timeout"},
		"timeout beyond 64 bits":  {`{"node":"web1","timeout":99999999999999999999}`, "timeout"},
		"alertid beyond 64 bits":  {`{"node":"web1","alertid":18446744073709551616}`, "alertid"},
		"alertid is a string":     {`{"node":"web1","alertid":"1"}`, "alertid"},
		"alertid is negative":     {`{"node":"web1","alertid":-1}`, "alertid"},
		"id is a number":          {`{"node":"web1","id":1}`, "id"},
		"id too long":             {`{"node":"web1","id":"` + strings.Repeat("x", 129) + `"}`, "id"},
		"data after the object":   {`{"node":"web1"} x`, "after the object"},
		"a second object":         {`{"node":"web1"}{"node":"web1"}`, "after the object"},
		"message too long": {`{"node":"web1","tags":"` + strings.Repeat("x", 64<<10) + `"}`,
			"message of 65561 bytes is longer than 65536"},
		"message far too long": {`{"node":"web1","tags":"` + strings.Repeat("x", 1<<20) + `"}`,
			"message of 1048601 bytes"},
		"cut within a list": {`{"nodere":"web","interface":[` + strings.Repeat(`"x",`, 1<<20),
			"message of 4194333 bytes"},
		"message padded too long": {`{"node":"web1"}` + strings.Repeat(" ", 64<<10), "65536"},
		"too many interfaces": {`{"node":"web1","interface":["x"` + strings.Repeat(`,"x"`, 64) + `]}`,
			"interface: 65 names"},
		"tags too long":             {`{"node":"web1","tags":"` + strings.Repeat("ü", 1025) + `"}`, "tags: 1025"},
		"customer too long":         {`{"node":"web1","customer":"` + strings.Repeat("ü", 1025) + `"}`, "customer: 1025"},
		"who asks too long":         {`{"node":"web1","by":"` + strings.Repeat("ü", 1025) + `"}`, "by: 1025"},
		"NUL in a filter":           {`{"node":"web1","bpf":"tcp port 1\u0000"}`, `bpf: holds a control character`},
		"line feed in a filter":     {`{"node":"web1","bpf":"tcp\nport 1"}`, "bpf"},
		"C1 control in an id":       {`{"node":"web1","id":"a\u009b1m"}`, "id"},
		"control in an interface":   {`{"node":"web1","interface":"lo\u0007"}`, "interface"},
		"control in a list":         {`{"node":"web1","interface":["eth0","lo\u0000"]}`, "interface"},
		"filter given twice":        {`{"node":"web1","bpf":"tcp port 1","bpf":""}`, `"bpf": given twice`},
		"filter in other letters":   {`{"node":"web1","bpf":"tcp port 1","Bpf":""}`, "Bpf"},
		"node given twice":          {`{"node":"web1","node":"web1"}`, "given twice"},
		"node for two":              {`{"node":"web2","node":"web1"}`, "given twice"},
		"node in other letters too": {`{"node":"web1","NODE":"b"}`, "NODE"},
		"both, nodere is a number":  {`{"node":"web1","nodere":1}`, "node and nodere"},
		"first wrong of two fields": {`{"node":"web1","zzz":1,"bpf":7}`, "bpf"},
		"more than a day back":      {`{"node":"web1","lookback":86401}`, "lookback: 86401 s are more than 86400"},
		"return is a number":        {`{"node":"web1","return":1}`, "return: takes true or false, not 1"},
		"live is null":              {`{"node":"web1","live":null}`, "live: takes true or false, not null"},
		"roll call is a string":     {`{"node":"web1","rollcall":"yes"}`, `rollcall: takes true or false, not "yes"`},
		"stop of an interface":      {`{"node":"web1","stop":"x","interface":"lo"}`, "interface: not allowed with stop"},
		"stop with an id":           {`{"node":"web1","stop":"x","id":"y"}`, "id: not allowed with stop"},
		"stop and roll call":        {`{"node":"web1","stop":"x","rollcall":true}`, "rollcall: not allowed with stop"},
		"roll call with a filter":   {`{"node":"web1","rollcall":true,"bpf":"udp"}`, "bpf: not allowed with rollcall"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&matcher{node: "web1"}).decode(received(test.message))
			if err == nil || errors.Is(err, errOtherNode) || errors.Is(err, errMalformed) {
				t.Fatalf("want a refusal, got %+v, %v", got, err)
			}
			if !strings.Contains(err.Error(), test.culprit) {
				t.Errorf("want %q in the error, got %v", test.culprit, err)
			}
			if got.ID == "" {
				t.Error("want an id for the refusal")
			}
		})
	}
}

// FuzzDecode looks for messages that panic, that are taken for ours without
// naming us, or that are accepted with a field that nobody knows.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"node":"web1","interface":["lo","eth0"],"packets":5,"alertid":1}`,
		`{"nodere":"^w","bpf":"udp","timeout":3} x`, `{"node":1}`, `[]`, `{"node":"any","id":"` + "\x00" + `"}`} {
		f.Add([]byte(seed))
	}
	known := map[string]bool{"node": true, "nodere": true, "interface": true, "tags": true, "bpf": true, "customer": true,
		"by": true, "snap": true, "packets": true, "bytes": true, "timeout": true, "alertid": true, "id": true}
	f.Fuzz(func(t *testing.T, message []byte) {
		r, err := (&matcher{node: "web1"}).decode(received(string(message)))
		if err != nil {
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(message, &fields); err != nil {
			t.Fatalf("accepted, but no JSON object: %v", err)
		}
		for name := range fields {
			if !known[name] {
				t.Errorf("accepted with the field %q", name)
			}
		}
		if fields["node"] != "web1" && fields["node"] != "any" && fields["nodere"] == nil {
			t.Error("accepted without being addressed")
		}
		if r.Packets < 0 || r.Bytes < 0 || r.Timeout < 0 || r.Snap < 0 || r.ID == "" {
			t.Errorf("accepted as %+v", r)
		}
	})
}

// TestJudgeForClient: a client knows all of a request that tells it what to wait for.
func TestJudgeForClient(t *testing.T) {
	for message, want := range map[string]client.Asked{
		`{"node":"web1","interface":["a","b"],"id":"x","by":"me","timeout":1,"progress":2,"packets":3,"bytes":4}`: {
			Node: "web1", Interfaces: []string{"a", "b"}, ID: "x", By: "me", Timeout: 1, Progress: 2, Packets: 3, Bytes: 4},
		`{"nodere":"^web","stop":"y","by":"me"}`:      {NodeRE: "^web", Stop: "y", By: "me"},
		`{"node":"any","rollcall":true,"id":"x"}`:     {Node: "any", RollCall: true, ID: "x"},
		`{"node":"any","interface":"lo","timeout":7}`: {Node: "any", Interfaces: []string{"lo"}, Timeout: 7},
	} {
		got, err := judgeForClient([]byte(message))
		if want.ID == "" { // one is made up
			got.ID = ""
		}
		if err != nil || !reflect.DeepEqual(want, got) {
			t.Errorf("%s: want %+v, got %+v, %v", message, want, got, err)
		}
	}
	if _, err := judgeForClient([]byte(`{"node":"any"}`)); !errors.Is(err, errNoInterface) {
		t.Errorf("want %v, got %v", errNoInterface, err)
	}
}

// TestCheckRequest: a client judges a request as its hosts will, whoever they are.
func TestCheckRequest(t *testing.T) {
	for message, culprit := range map[string]string{
		`{"node":"web7","interface":"lo"}`:             "",
		`{"nodere":"^web","interface":["a","b"]}`:      "",
		`{"node":"web7","bfp":"x"}`:                    `"bfp": unknown field; did you mean bpf?`,
		`{"node":"web7","interfaces":"lo"}`:            "did you mean interface?",
		`{"node":"web7","filter":"udp"}`:               `"filter": unknown field`,
		`{“node”:"web7"}`:                              "“ is a typographic quotation mark",
		`{"node":"web7","interface":‘lo’}`:             "‘ is a typographic quotation mark",
		`{"node":"web7","packets":"5"}`:                "packets",
		`{"nodere":"("}`:                               "nodere",
		`{"interface":"lo"}`:                           "neither node nor nodere",
		`{"node":"web7","nodere":"x"}`:                 "node and nodere",
		`{"node":"web7"} x`:                            "after the object",
		`{"node":"web7","tags":"x","tags":"y"}`:        "given twice",
		`capture`:                                      "no JSON object",
		`{"node":"any","interface":"lo","timeout":-1}`: "timeout",
	} {
		_, _, err := checkRequest([]byte(message))
		if culprit == "" && err != nil || culprit != "" && (err == nil || !strings.Contains(err.Error(), culprit)) {
			t.Errorf("%s: want %q in the error, got %v", message, culprit, err)
		}
	}
}
