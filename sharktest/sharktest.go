// Package sharktest is a double of CloudShark: it answers as the real one
// does, and takes nothing that the real one would not take. Tests and the
// demonstration use it.
package sharktest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Token is the API token of servers in tests.
const Token = "0123456789abcdef0123456789abcdef"

// An Answer may answer a request instead of CloudShark, and reports whether it
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
	token, found := strings.CutPrefix(r.URL.EscapedPath(), "/api/v1/") // a token may hold a slash
	token, path, _ := strings.Cut(token, "/")
	token, err := url.PathUnescape(token)
	switch {
	case err != nil || !found || path != "upload":
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
