package tap

// #include "ring.h"
import "C"

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// keptVersion changes with the layout of what is kept.
const keptVersion = 2

// A story is what of a recorder stands in the memfd before the ring, so that
// another process can go on with it.
type story struct {
	Version          int
	Interface        string
	Index            int    // of it
	Network          uint64 // inode of the network namespace
	Snap, Link       int
	Filter           string
	Blocks, Segments int64
	Began, Gone      time.Time
	Up               bool
	Absences         [][2]time.Time
}

// networkNamespace returns the inode of the network namespace, or 0.
func networkNamespace() uint64 {
	var stat unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &stat) != nil {
		return 0
	}
	return stat.Ino
}

// filterText returns the filter that all packets have to pass, as it was given.
func (r *Recorder) filterText() string {
	switch {
	case r.compiler != nil:
		return r.compiler.Policy
	case r.options.Filter != nil:
		return r.options.Filter.expression
	}
	return ""
}

// identity returns the story of a recorder that has not begun: what has to be equal.
func (r *Recorder) identity() story {
	return story{Version: keptVersion, Interface: r.options.Interface, Network: networkNamespace(),
		Snap: r.options.Snap, Filter: r.filterText(), Blocks: int64(r.geometry.blocks), Segments: int64(r.geometry.segments)}
}

// save writes the story.
func (r *Recorder) save() {
	if r.ring == nil || r.link < 0 {
		return
	}
	s := r.identity()
	s.Index, s.Link, s.Began, s.Gone, s.Up = r.index, r.link, r.began, r.gone, r.up
	for _, a := range r.absences {
		s.Absences = append(s.Absences, [2]time.Time{a.from, a.to})
	}
	text, err := json.Marshal(s)
	if err != nil || len(text) > storySize-8 {
		text = nil
	}
	writeStory(r.ring.memory[:storySize], text)
}

// writeStory writes a story's text to where readStory looks for it. Killed
// meanwhile, it leaves none.
func writeStory(memory, text []byte) {
	binary.NativeEndian.PutUint32(memory, 0)
	copy(memory[8:], text)
	binary.NativeEndian.PutUint32(memory[4:], crc32.ChecksumIEEE(text))
	binary.NativeEndian.PutUint32(memory, uint32(len(text)))
}

// readStory reads the story of a memfd.
func readStory(file *os.File) (s story, err error) {
	head := make([]byte, storySize)
	if _, err := file.ReadAt(head, 0); err != nil {
		return s, fmt.Errorf("read what was kept: %w", err)
	}
	length := binary.NativeEndian.Uint32(head)
	if length == 0 || length > storySize-8 {
		return s, errors.New("what was kept is not whole")
	}
	text := head[8 : 8+length]
	if crc32.ChecksumIEEE(text) != binary.NativeEndian.Uint32(head[4:]) {
		return s, errors.New("what was kept is damaged")
	}
	return s, json.Unmarshal(text, &s)
}

// differs returns what of a story is not as it has to be, or nil.
func (s story) differs(want story) error {
	for _, c := range []struct {
		what      string
		kept, now any
	}{
		{"version", s.Version, want.Version}, {"interface", s.Interface, want.Interface},
		{"network namespace", s.Network, want.Network}, {"snapshot length", s.Snap, want.Snap},
		{"filter", s.Filter, want.Filter}, {"size in blocks", s.Blocks, want.Blocks}, {"size in segments", s.Segments, want.Segments},
	} {
		if c.kept != c.now {
			return fmt.Errorf("another %s was kept: %v, not %v", c.what, c.kept, c.now)
		}
	}
	return nil
}

// Files returns what of the recorder outlives the process when someone keeps
// it open: the packet socket, which records on, and a memfd. They stay the
// recorder's, and are others after the link type has changed. They are nil until
// recording has begun. It may be called at any time.
func (r *Recorder) Files() []*os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil || r.link < 0 {
		return nil
	}
	return []*os.File{r.socket.file, r.ring.file}
}

// Resume goes on with what Files of an earlier process returned, in any order.
// It is called before Run. If they do not fit exactly, or are damaged, the error
// says why, and the recorder begins anew. It takes the files over.
func (r *Recorder) Resume(files []*os.File) error {
	err := r.resume(files)
	if err != nil {
		for _, f := range files {
			f.Close()
		}
	}
	return err
}

// resume is Resume; the files stay the caller's if there is an error.
func (r *Recorder) resume(files []*os.File) error {
	socket, memory, err := sortFiles(files)
	if err != nil {
		return err
	}
	s, err := readStory(memory)
	if err != nil {
		return err
	}
	if err := s.differs(r.identity()); err != nil {
		return err
	}
	size, _ := ringLayout(&r.geometry)
	if info, err := memory.Stat(); err != nil || info.Size() != size {
		return errors.New("what was kept has another size")
	}
	packets := &ringSocket{file: socket, cooked: shapeOf(s.Link).cooked > 0}
	blocks, err := packets.mapRing(r.geometry)
	if err != nil {
		return err
	}
	ring, err := mapRing(r.geometry, memory, blocks)
	if err != nil {
		_ = unix.Munmap(blocks)
		return err
	}
	if !ring.restore(r.geometry) {
		return errors.New("the ring that was kept is damaged")
	}
	r.ring, r.socket, r.resumed = ring, packets, s.Up
	r.link, r.index, r.began, r.gone = s.Link, s.Index, s.Began, s.Gone
	if s.Up {
		r.gone = time.Unix(0, int64(ring.c.state.seen)) // if its interface is another one now
	}
	for _, a := range s.Absences {
		r.absences = append(r.absences, absence{a[0], a[1]})
	}
	return nil
}

// sortFiles tells the packet socket from the memfd.
func sortFiles(files []*os.File) (socket, memory *os.File, err error) {
	for _, f := range files {
		var stat unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
			return nil, nil, fmt.Errorf("look at what was kept: %w", err)
		}
		domain, _ := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
		switch {
		case domain == unix.AF_PACKET:
			socket = f
		case stat.Mode&unix.S_IFMT == unix.S_IFREG:
			memory = f
		}
	}
	if socket == nil || memory == nil || len(files) != 2 {
		return nil, nil, fmt.Errorf("%d descriptors were kept, not a packet socket and a memory", len(files))
	}
	return socket, memory, nil
}
