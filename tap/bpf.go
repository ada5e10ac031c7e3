package tap

// #cgo LDFLAGS: -lpcap
// #include "bpf.h"
//
// // judge_one judges one packet.
// static bool judge_one(const struct bpf_insn *filter, const uint8_t *data, judged p)
// {
//	p.data = data;
//	return judge(filter, &p);
// }
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/google/gopacket/pcap"
)

// The classes and the fields of an instruction of classic BPF; linux/filter.h
// and pcap/bpf.h agree on them.
const (
	bpfClass, bpfLD, bpfLDX, bpfST, bpfSTX, bpfALU, bpfJMP, bpfRET, bpfMISC = 0x07, 0, 1, 2, 3, 4, 5, 6, 7

	bpfMode, bpfABS, bpfMEM = 0xe0, 0x20, 0x60
	bpfX                    = 0x08 // the operand is in X, not in the instruction
	bpfOperation            = 0xf0
	bpfDIV, bpfMOD          = 0x30, 0x90
	bpfLSH, bpfRSH          = 0x60, 0x70
	bpfJA                   = 0x00
)

// besideLowest is where loads begin that ask the kernel for what stands beside a packet.
const besideLowest = 0x80000000

// isInstruction reports whether judge knows an instruction.
func isInstruction(code uint16) bool {
	switch code {
	case C.BPF_LD | C.BPF_ABS | C.BPF_W, C.BPF_LD | C.BPF_ABS | C.BPF_H, C.BPF_LD | C.BPF_ABS | C.BPF_B,
		C.BPF_LD | C.BPF_IND | C.BPF_W, C.BPF_LD | C.BPF_IND | C.BPF_H, C.BPF_LD | C.BPF_IND | C.BPF_B,
		C.BPF_LDX | C.BPF_MSH | C.BPF_B, C.BPF_LD | C.BPF_LEN, C.BPF_LDX | C.BPF_LEN,
		C.BPF_LD | C.BPF_IMM, C.BPF_LDX | C.BPF_IMM, C.BPF_LD | C.BPF_MEM, C.BPF_LDX | C.BPF_MEM,
		C.BPF_ST, C.BPF_STX, C.BPF_MISC | C.BPF_TAX, C.BPF_MISC | C.BPF_TXA,
		C.BPF_RET | C.BPF_K, C.BPF_RET | C.BPF_A, C.BPF_ALU | C.BPF_NEG, C.BPF_JMP | C.BPF_JA:
		return true
	}
	operation := code &^ (bpfClass | bpfX)
	switch code & bpfClass {
	case bpfALU:
		return operation <= C.BPF_XOR && operation != C.BPF_NEG
	case bpfJMP:
		return operation >= C.BPF_JEQ && operation <= C.BPF_JSET
	}
	return false
}

// A program is a filter in classic BPF.
type program []pcap.BPFInstruction

// checkRecorded reports whether judge can run a program over recorded packets:
// it is sound, and asks for nothing that is not recorded.
func (p program) checkRecorded() error {
	for i, instruction := range p {
		if err := p.checkInstruction(i, instruction); err != nil {
			return err
		}
	}
	if len(p) == 0 || p[len(p)-1].Code&bpfClass != bpfRET {
		return errors.New("the program has no end")
	}
	return nil
}

// checkInstruction checks the instruction at a place.
func (p program) checkInstruction(at int, i pcap.BPFInstruction) error {
	class, operation, constant := i.Code&bpfClass, i.Code&bpfOperation, i.Code&bpfX == 0
	unsound := !isInstruction(i.Code)
	switch {
	case unsound:
	case class == bpfLD && i.Code&bpfMode == bpfABS && i.K >= besideLowest:
		return checkBeside(i.K)
	case class == bpfST || class == bpfSTX || i.Code&bpfMode == bpfMEM && class <= bpfLDX:
		unsound = i.K >= C.BPF_MEMWORDS
	case class == bpfALU && constant && (operation == bpfDIV || operation == bpfMOD):
		unsound = i.K == 0
	case class == bpfALU && constant && (operation == bpfLSH || operation == bpfRSH):
		unsound = i.K > 31
	case class == bpfJMP && operation == bpfJA && int32(i.K) < 0:
		return errors.New("a loop (protochain) cannot be judged with lookback")
	case class == bpfJMP && operation == bpfJA:
		unsound = uint64(at)+1+uint64(i.K) >= uint64(len(p))
	case class == bpfJMP:
		unsound = at+1+int(max(i.Jt, i.Jf)) >= len(p)
	}
	if unsound {
		return fmt.Errorf("instruction %d is unsound: %+v", at, i)
	}
	return nil
}

// checkBeside reports whether what a load asks for is recorded.
func checkBeside(place uint32) error {
	switch place {
	case C.BESIDE_TCI, C.BESIDE_PRESENT, C.BESIDE_TPID, C.BESIDE_DIRECTION, C.BESIDE_INTERFACE,
		C.BESIDE_PROTOCOL, C.BESIDE_HARDWARE:
		return nil
	}
	return fmt.Errorf("what the kernel has at %d is not recorded", int32(place))
}

// instructions returns a program for C; nil is one that takes everything.
func (p program) instructions() *C.struct_bpf_insn {
	if p == nil {
		return nil
	}
	return (*C.struct_bpf_insn)(unsafe.Pointer(&p[0]))
}

// A vlanTag is the outer VLAN tag of a packet, which stands beside it.
type vlanTag struct{ tpid, tci uint16 }

// judge reports whether a packet of so many bytes, of which these are there and
// from which the outer VLAN tag is taken out, passes a checked program.
func (p program) judge(data []byte, length int, tag *vlanTag) bool {
	packet := C.judged{stored: C.uint32_t(len(data)), length: C.uint32_t(length)}
	if tag != nil {
		packet.tagged, packet.tpid, packet.tci = true, C.uint16_t(tag.tpid), C.uint16_t(tag.tci)
	}
	return bool(C.judge_one(p.instructions(), (*C.uint8_t)(unsafe.SliceData(data)), packet))
}
