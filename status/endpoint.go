package status

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// An Endpoint tells over HTTP how the daemon is: /metrics for Prometheus, /healthz with 200 or
// 503 and the reason, / for people. It changes nothing, and whoever reaches it may read
// it. Its functions are called from any goroutine, several at one time; while one
// waits, so does whoever asks.
type Endpoint struct {
	Registry *prometheus.Registry
	Health   func() error // what is wrong, or nil
	Remarks  func() error // what is about to be wrong, or nil; asked for while nothing is wrong
	Page     *page        // of NewPage
	// Hosts are the names, beside localhost and every IP address, by which it may
	// be asked: a browser that was told another name for its address asks for
	// somebody else.
	Hosts []string
	// Connections is how many there may be at one time, MaxConnections at most.
	Connections int
	Log         *log.Logger // of the server's own errors; nil: the standard one
}

// MaxConnections is how many connections there are at one time: captures and
// deliveries need descriptors, too.
const MaxConnections = 64

// Serve answers until the context ends, which is no error, or the listener fails. It closes the
// listener and all connections, also those in the middle of an answer. Whoever comes while
// there are as many connections as may be waits until one is closed.
func (e Endpoint) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: e.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 5 * time.Second, ErrorLog: e.Log}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(netutil.LimitListener(listener, min(e.Connections, MaxConnections))); ctx.Err() == nil {
		return err
	}
	return nil
}

// handler answers GET and HEAD; the mux refuses what else is asked for, and how.
func (e Endpoint) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", e.serveHealth)
	mux.HandleFunc("GET /{$}", e.servePage)
	return guard(e.forUs(mux))
}

// forUs answers only requests for a host that is known to be this one.
func (e Endpoint) forUs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.isOurs(r.Host) {
			http.Error(w, "not the name of this host", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs reports whether a Host header, with or without a port, names this host.
// A request without one comes from no browser.
func (e Endpoint) isOurs(header string) bool {
	if header == "" {
		return true
	}
	name, _, err := net.SplitHostPort(header)
	if err != nil {
		name = header
	}
	name = strings.Trim(name, "[]")
	if _, err := netip.ParseAddr(name); err == nil || strings.EqualFold(name, "localhost") {
		return true
	}
	return slices.ContainsFunc(e.Hosts, func(known string) bool { return known != "" && strings.EqualFold(name, known) })
}

// guard tells browsers to take every answer for what it says it is, to load and
// frame nothing, and to keep it from everybody else.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"X-Content-Type-Options":       "nosniff",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		next.ServeHTTP(w, r)
	})
}

// serveHealth answers /healthz.
func (e Endpoint) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := e.Health(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "subscribed")
	if remark := e.Remarks(); remark != nil {
		fmt.Fprintln(w, remark)
	}
}

// servePage answers /, and /?still with a page that does not reload itself.
func (e Endpoint) servePage(w http.ResponseWriter, r *http.Request) {
	html, err := e.Page.render(time.Now(), r.URL.Query().Has("still"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", e.Page.policy)
	_, _ = w.Write(html) // who has gone needs no answer
}
