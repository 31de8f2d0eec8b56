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
	"github.com/railyard-net/railyard/plugins/kubelet"
	"github.com/railyard-net/railyard/rdma"
)

// attachments undoes those whose DEL never came: links go with their namespace by themselves, but a device that was moved
// is to be what it was, and a virtual function's settings too.
type attachments struct {
	log        *slog.Logger
	reconciler *cni.Reconciler
	now        func() time.Duration
	every      time.Duration

	count, empty    atomic.Int64
	gone, abandoned prometheus.Counter
	fails, doubts   prometheus.Counter
	doubted         bool // at the last look
}

func newAttachments(log *slog.Logger, o options, gone func(ipam.NetNS) bool, r prometheus.Registerer) (*attachments, error) {
	so, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	undone := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "railyard_attachments_reconciled_total", Help: "Attachments that were undone because their network namespace was gone, or abandoned, and no DEL came.",
	}, []string{"reason"})
	a := &attachments{
		log: log, now: so.Now, every: o.gcInterval, gone: undone.WithLabelValues("gone"), abandoned: undone.WithLabelValues("abandoned"),
		doubts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_attachments_doubts_total", Help: "Looks at which nobody could say whether an empty network namespace is abandoned; the log says why.",
		}),
		fails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "railyard_attachments_reconcile_errors_total", Help: "Looks at the attachments of which something failed; the log says what.",
		}),
	}
	gauge := func(name, help string, of *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of.Load()) })
	}
	count := gauge("railyard_attachments", "Attachments that have a journal on this node, at the last look.", &a.count)
	empty := gauge("railyard_attachments_empty", "Attachments in a network namespace without a process, at the last look.", &a.empty)
	for _, c := range []prometheus.Collector{count, empty, undone, a.doubts, a.fails} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	a.reconciler, err = cni.NewReconciler(cni.Options{
		Log: log, Sys: os.DirFS("/sys"), SysDir: "/sys", ConfigFS: rdma.ConfigFS, StateDir: o.stateDir,
		Leaser: func(paths conf.Paths) ipam.Leaser { return client.New(paths.AgentSocket, paths.Store()) },
	}, o.stateDir, o.evidence(gone))
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	return a, nil
}

// evidence is that of the namespaces, and of the kubelet if there is one to ask.
func (o options) evidence(gone func(ipam.NetNS) bool) cni.Evidence {
	e := cni.Evidence{Gone: gone, Grace: o.gcGrace, AbandonedGrace: o.abandonedGrace}
	if o.kubeletSocket != "" {
		e.Kubelet = func(ctx context.Context) (cni.Running, error) { return kubelet.Running(ctx, o.kubeletSocket) }
	}
	return e
}

// run looks at the attachments once per interval, until ctx ends.
func (a *attachments) run(ctx context.Context) error {
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		report, err := a.reconciler.Look(ctx, a.now())
		a.tell(ctx, report)
		if err != nil && ctx.Err() == nil {
			a.fails.Inc()
			a.log.ErrorContext(ctx, "attachments whose pods are gone could not all be undone; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tell counts what a look found. A doubt is logged when it comes up, and not again until it has passed.
func (a *attachments) tell(ctx context.Context, r cni.Report) {
	a.count.Store(int64(r.Attachments))
	a.empty.Store(int64(r.Empty))
	a.gone.Add(float64(r.Gone))
	a.abandoned.Add(float64(r.Abandoned))
	if r.Doubt != nil && ctx.Err() == nil {
		a.doubts.Inc()
		if !a.doubted {
			a.log.WarnContext(ctx, "nobody can say whether network namespaces are abandoned, so they count as alive", "error", r.Doubt)
		}
	}
	a.doubted = r.Doubt != nil
}
