// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni"
)

// attachments undoes those whose DEL never came: links go with their namespace by themselves, but a device that was moved
// is to be what it was, and a virtual function's settings too.
type attachments struct {
	log        *slog.Logger
	reconciler *cni.Reconciler
	now        func() time.Duration
	every      time.Duration

	count         atomic.Int64
	undone, fails prometheus.Counter
}

func newAttachments(log *slog.Logger, o options, gone func(ipam.NetNS) bool, r prometheus.Registerer) (*attachments, error) {
	so, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	a := &attachments{
		log: log, now: so.Now, every: o.gcInterval,
		undone: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_attachments_reconciled_total", Help: "Attachments that were undone because their network namespace was gone and no DEL came.",
		}),
		fails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_attachments_reconcile_errors_total", Help: "Looks at the attachments of which something failed; the log says what.",
		}),
	}
	count := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "railyard_attachments", Help: "Attachments that have a journal on this node, at the last look.",
	}, func() float64 { return float64(a.count.Load()) })
	for _, c := range []prometheus.Collector{count, a.undone, a.fails} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	a.reconciler, err = cni.NewReconciler(cni.Options{
		Log: log, Sys: os.DirFS("/sys"), StateDir: o.stateDir,
		Leaser: func(paths conf.Paths) ipam.Leaser { return client.New(paths.AgentSocket, paths.Store()) },
	}, o.stateDir, gone, o.gcGrace)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return a, nil
}

// run looks at the attachments once per interval, until ctx ends.
func (a *attachments) run(ctx context.Context) error {
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		count, undone, err := a.reconciler.Look(ctx, a.now())
		a.count.Store(int64(count))
		a.undone.Add(float64(undone))
		if err != nil && ctx.Err() == nil {
			a.fails.Inc()
			a.log.ErrorContext(ctx, "attachments whose namespaces are gone could not all be undone; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
