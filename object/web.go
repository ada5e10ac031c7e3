package object

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"

	"pcapdaemon/store"
	"pcapdaemon/transfer"
)

// A web is a web server that takes PUT.
type web struct {
	authorization string   // header; empty: none
	secrets       []string // that no error may show
}

// newWeb returns a web server for which one has a user, a bearer token, or neither.
func newWeb(user *url.Userinfo, token string) *web {
	switch {
	case token != "":
		return &web{"Bearer " + token, []string{token}}
	case user != nil:
		password, _ := user.Password()
		pair := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		return &web{"Basic " + pair, []string{pair, password}}
	}
	return &web{}
}

// describe implements server.
func (*web) describe(context.Context, store.File) (http.Header, error) { return http.Header{}, nil }

// authorize implements server.
func (w *web) authorize(r *http.Request) error {
	if w.authorization != "" {
		r.Header.Set("Authorization", w.authorization)
	}
	return nil
}

// reason implements server.
func (w *web) reason(a transfer.Answer) (string, bool) { return a.Reason(w.redact), false }

// redact implements server.
func (w *web) redact(said string) string { return transfer.Redact(said, "<secret>", w.secrets...) }
