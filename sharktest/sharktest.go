// Package sharktest is a double of CloudShark: it answers as the real one
// does, and takes nothing that the real one would not take. Tests and the
// demonstration use it.
package sharktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Token is the API token of servers in tests.
const Token = "0123456789abcdef0123456789abcdef"

// maxTags is how many tags CloudShark takes.
const maxTags = 30

// An Upload is what CloudShark got.
type Upload struct {
	File, Filename, Tags, Comments, Agent string
	Content                               []byte
}

// Packets returns how many packets the file holds, which is whole to its last byte.
func (u Upload) Packets() (int, error) { return countPackets(u.Content) }

// An Answer may answer a request instead of CloudShark, and tells whether it
// has. Tries are counted from 1.
type Answer func(w http.ResponseWriter, r *http.Request, try int) bool

// A Handler answers like CloudShark, and strictly.
type Handler struct {
	Token  string
	Answer Answer       // nil: never
	Taken  func(Upload) // is told of each upload; nil: nobody is

	mu      sync.Mutex
	uploads []Upload
	tries   int
}

// Received returns the uploads until now.
func (h *Handler) Received() []Upload {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.uploads)
}

// Count returns how many requests came.
func (h *Handler) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tries
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.tries++
	try := h.tries
	h.mu.Unlock()
	if h.Answer != nil && h.Answer(w, r, try) {
		return
	}
	w.Header().Set("Content-Type", "text/javascript") // as the real one does
	u, status, err := h.read(r)
	if err != nil {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"exceptions":[%q]}`, status, err)
		return
	}
	h.mu.Lock()
	h.uploads = append(h.uploads, u)
	id := len(h.uploads)
	h.mu.Unlock()
	if h.Taken != nil {
		h.Taken(u)
	}
	fmt.Fprintf(w, `{"filename":%q,"id":"cafe%d"}`, u.Filename, id)
}

// read takes an upload, or says with which status it is refused.
func (h *Handler) read(r *http.Request) (Upload, int, error) {
	token, found := strings.CutPrefix(r.URL.Path, "/api/v1/")
	token, path, _ := strings.Cut(token, "/")
	switch {
	case !found || path != "upload":
		return Upload{}, http.StatusNotFound, errors.New("no such page")
	case token != h.Token:
		return Upload{}, http.StatusUnauthorized, errors.New("invalid token")
	case r.Method != http.MethodPost:
		return Upload{}, http.StatusMethodNotAllowed, errors.New("not a POST")
	case r.ContentLength <= 0:
		return Upload{}, http.StatusLengthRequired, errors.New("no Content-Length")
	}
	u, err := readForm(r)
	if err == nil {
		_, err = u.Packets()
	}
	return u, http.StatusBadRequest, err
}

// readForm reads the parts of an upload.
func readForm(r *http.Request) (Upload, error) {
	u := Upload{Agent: r.UserAgent()}
	parts, err := r.MultipartReader()
	if err != nil {
		return u, err
	}
	seen := map[string]bool{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u, err
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return u, err
		}
		if err := u.set(part, content); err != nil || seen[part.FormName()] {
			return u, fmt.Errorf("part %q is not known, or comes twice", part.FormName())
		}
		seen[part.FormName()] = true
	}
	switch {
	case !seen["file"]:
		return u, errors.New("no file")
	case u.File != u.Filename:
		return u, errors.New("the file has two names")
	case len(strings.Split(u.Tags, ",")) > maxTags:
		return u, fmt.Errorf("more than %d tags", maxTags)
	}
	return u, nil
}

// set takes one part of the form.
func (u *Upload) set(part *multipart.Part, content []byte) error {
	switch part.FormName() {
	case "file":
		u.File, u.Content = part.FileName(), content
	case "filename":
		u.Filename = string(content)
	case "additional_tags":
		u.Tags = string(content)
	case "comments":
		u.Comments = string(content)
	default:
		return errors.New("not known")
	}
	return nil
}

// countPackets returns the number of packets of a pcap or pcapng file.
func countPackets(content []byte) (int, error) {
	const pcapMagic, pcapngMagic = 0xa1b2c3d4, 0x0a0d0d0a
	if len(content) < 24 {
		return 0, errors.New("the file is shorter than any capture")
	}
	switch binary.LittleEndian.Uint32(content) {
	case pcapMagic:
		return countRecords(content[24:])
	case pcapngMagic:
		return countBlocks(content)
	}
	return 0, errors.New("the file is no capture")
}

// countRecords counts the packets behind the header of a pcap file.
func countRecords(rest []byte) (packets int, err error) {
	for ; len(rest) > 0; packets++ {
		if len(rest) < 16 || len(rest)-16 < int(binary.LittleEndian.Uint32(rest[8:])) {
			return packets, errors.New("the file is cut off")
		}
		rest = rest[16+binary.LittleEndian.Uint32(rest[8:]):]
	}
	return packets, nil
}

// countBlocks counts the enhanced packet blocks of a pcapng file.
func countBlocks(rest []byte) (packets int, err error) {
	const enhancedPacket = 6
	for len(rest) > 0 {
		if len(rest) < 12 {
			return packets, errors.New("the file is cut off")
		}
		size := binary.LittleEndian.Uint32(rest[4:])
		if size < 12 || size%4 != 0 || int(size) > len(rest) || binary.LittleEndian.Uint32(rest[size-4:]) != size {
			return packets, errors.New("the file is cut off")
		}
		if binary.LittleEndian.Uint32(rest) == enhancedPacket {
			packets++
		}
		rest = rest[size:]
	}
	return packets, nil
}
