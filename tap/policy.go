package tap

// #include <pcap/pcap.h>
import "C"

import (
	"fmt"
	"strings"
)

// rejectsAll is what libpcap says of a filter that no packet can pass.
const rejectsAll = "expression rejects all packets"

// A policy is a pcap-filter(7) expression that every packet has to pass, beside
// the filter that somebody asks for. Empty: there is none.
type policy string

// join returns the filter that holds all that a packet has to pass. The policy
// comes first, as "vlan" moves what stands behind it.
func (p policy) join(expression string) string {
	switch {
	case p == "":
		return expression
	case expression == "":
		return string(p)
	}
	return "(" + string(p) + ") and (" + expression + ")"
}

// Expression returns all that a packet has to pass: the policy and an expression.
func (c *Compiler) Expression(expression string) string { return policy(c.Policy).join(expression) }

// compileOn compiles policy and expression on a handle. If they contradict each
// other, the program takes nothing.
func (p policy) compileOn(handle *C.pcap_t, mask C.bpf_u_int32, expression string) (program, error) {
	if p != "" && expression != "" {
		// Alone first: joined, "x) or (y" would get out of its brackets.
		if _, err := compileOn(handle, mask, expression); err != nil {
			return nil, compileError(expression, err)
		}
	}
	code, err := compileOn(handle, mask, p.join(expression))
	switch {
	case err == nil:
		return code, nil
	case p == "":
		return nil, compileError(expression, err)
	case expression != "" && strings.Contains(err.Error(), rejectsAll):
		return program{{Code: C.BPF_RET | C.BPF_K}}, nil
	}
	return nil, fmt.Errorf("bpf: compile this host's policy %q: %w", string(p), err)
}
