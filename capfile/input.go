package capfile

import (
	"encoding/binary"
	"time"
)

// An Input is a capture that is merged. Write is called from one goroutine, Close may be from another.
type Input struct {
	merger *Merger
	reader streamReader
	head   Header // complete when there is a number
	number uint32 // of the interface
	known  bool   // it has one
	blocks []byte // that are being made

	// Of the merger, under its lock:
	batches []batch
	stamp   uint64 // of the first packet that waits
	size    int    // bytes that wait
	packets int64  // added
	end     *Statistics
	ended   bool
}

// A batch is packets that have come together, as blocks.
type batch struct {
	blocks  []byte // what is left of them
	arrived time.Time
	memory  []byte // that they are in
}

// maxSpare is how many batches the memory is kept of: new memory costs more than what is copied into it.
const maxSpare = 32

// lend returns memory for the blocks of a batch that is about so large.
func (m *Merger) lend(size int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := len(m.spare) - 1
	if last < 0 || cap(m.spare[last]) < size {
		return make([]byte, 0, size)
	}
	memory := m.spare[last]
	m.spare = m.spare[:last]
	return memory
}

// takeBack keeps the memory of a batch that was written. The caller holds the lock.
func (m *Merger) takeBack(memory []byte) {
	if len(m.spare) < maxSpare {
		m.spare = append(m.spare, memory[:0])
	}
}

// Write takes the next piece of the capture file. As long as too much waits to be written it blocks. An
// error says what is wrong with the capture, not with the merged file.
func (in *Input) Write(piece []byte) (int, error) {
	in.blocks = in.merger.lend(len(piece) + len(piece)/4)
	var packets int64
	err := in.reader.Read(piece, func(p packet) {
		if packets == 0 {
			in.describe()
		}
		packets++
		in.blocks = appendPacketBlock(in.blocks, in.number, p)
	})
	in.describe()
	in.merger.add(in, packets)
	if err != nil {
		return 0, err
	}
	return len(piece), nil
}

// Close says that nothing more will come, and what is known of the whole capture; nil: nothing is.
func (in *Input) Close(s *Statistics) {
	m := in.merger
	m.mu.Lock()
	defer m.mu.Unlock()
	if in.ended {
		return
	}
	in.end, in.ended = s, true
	if len(in.batches) == 0 {
		m.awaited--
	}
	m.wake()
}

// describe gives the capture an interface as soon as it is known.
func (in *Input) describe() {
	own, known := in.reader.Header()
	if in.known || !known {
		return
	}
	m := in.merger
	m.mu.Lock()
	defer m.mu.Unlock()
	in.known, in.number = true, uint32(len(m.inputs))
	in.head.LinkType, in.head.Snap = own.LinkType, own.Snap
	if own.Filter != "" {
		in.head.Filter = own.Filter
	}
	m.inputs = append(m.inputs, in)
	m.blocks = append(m.blocks, describeInterface(in.head)...)
	m.wake()
}

// shift removes the first packet that waits, and returns its block, which is to be copied
// before the lock is given up. The caller puts the input where it belongs then.
func (in *Input) shift() []byte {
	first := &in.batches[0]
	size := binary.LittleEndian.Uint32(first.blocks[4:])
	block := first.blocks[:size]
	first.blocks = first.blocks[size:]
	in.size -= int(size)
	in.merger.size -= int(size)
	if len(first.blocks) == 0 {
		in.merger.takeBack(first.memory)
		in.batches[0] = batch{} // what is below the slice would be kept alive with it
		in.batches = in.batches[1:]
	}
	if len(in.batches) > 0 {
		in.stamp = blockStamp(in.batches[0].blocks)
	}
	return block
}

// statistics returns the block that ends an interface.
func (in *Input) statistics(number uint32) []byte {
	if in.end != nil {
		s := *in.end
		s.Packets = in.packets
		return statisticsBlock(number, s)
	}
	b := newBlock(interfaceStatistics)
	b = appendTime(binary.LittleEndian.AppendUint32(b, number), time.Now())
	return b.count(isbUsrDeliv, in.packets).end()
}

// An inputHeap is inputs with packets, the one with the earliest first.
type inputHeap []*Input

// push adds an input.
func (h *inputHeap) push(in *Input) {
	*h = append(*h, in)
	all := *h
	for i := len(all) - 1; i > 0; {
		parent := (i - 1) / 2
		if all[parent].stamp <= all[i].stamp {
			return
		}
		all[parent], all[i] = all[i], all[parent]
		i = parent
	}
}

// fix puts the first input where it belongs after its first packet was taken.
func (h *inputHeap) fix(m *Merger) {
	all := *h
	if first := all[0]; len(first.batches) == 0 {
		if !first.ended {
			m.awaited++
		}
		all[0] = all[len(all)-1]
		all[len(all)-1] = nil
		all = all[:len(all)-1]
		*h = all
	}
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(all); child++ {
			if all[child].stamp < all[least].stamp {
				least = child
			}
		}
		if least == i {
			return
		}
		all[least], all[i] = all[i], all[least]
		i = least
	}
}
