// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health answers whether the process is alive, and whether it can serve.
type Health interface {
	// Alive: the process is of use and need not be restarted.
	Alive() error
	// State: without an error, the process does its work or stands by to. The lines explain the state to people.
	State() (lines []string, err error)
}

// Serve answers /metrics, /healthz, /readyz and, if asked to, /debug/pprof on l until ctx ends.
func Serve(ctx context.Context, log *slog.Logger, l net.Listener, metrics prometheus.Gatherer, h Health, withPprof bool) error {
	srv := &http.Server{
		Handler: mux(metrics, h, withPprof), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	log.InfoContext(ctx, "serving metrics and health", "address", l.Addr().String())
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // a profile that still runs is cut off
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func mux(metrics prometheus.Gatherer, h Health, withPprof bool) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, h.Alive()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		lines, err := h.State()
		answer(w, lines, err)
	})
	if withPprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(w http.ResponseWriter, lines []string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	status := "ok"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		status = err.Error()
	}
	for _, l := range append([]string{status}, lines...) {
		_, _ = fmt.Fprintln(w, l) // whoever asked went away
	}
}
