package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// An endpoint tells over HTTP how the daemon is. It changes nothing, and
// whoever reaches it may read it.
type endpoint struct {
	registry *prometheus.Registry
	health   func() error // why requests cannot be received, or nil
}

// serve answers until the context ends.
func (e endpoint) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: e.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

// handler answers GET and HEAD; the mux refuses what else is asked for, and how.
func (e endpoint) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", e.serveHealth)
	return mux
}

// serveHealth answers /healthz.
func (e endpoint) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := e.health(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "subscribed")
}
