// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Railyard-agent runs on every node: it leases the node's addresses to the CNI plugins, claims and returns blocks
// in the API, undoes attachments whose DEL never came, and installs the plugins. Its flags are what --help prints; package ipam/agent says how it works.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/ipam/agent"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/ipam/wire"
	"github.com/railyard-net/railyard/plugins/install"
)

// The heap is small, a few MiB with 10,000 leases, and what looks at all leases makes short peaks of garbage:
// gcPercent and memoryLimit trade a little CPU for flat ones. GOGC and GOMEMLIMIT win over them.
const (
	gcPercent   = 10
	memoryLimit = 28 << 20
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "railyard-agent:", err)
		stop()
		os.Exit(1)
	}
}

// run is the agent, until ctx ends. Stdout is for --help and --version only.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) > 0 && (args[0] == installCommand || args[0] == uninstallCommand) {
		return runPlacing(ctx, args[0], args[1:], stdout, stderr)
	}
	o, err := parseOptions(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return command().Help(stdout, (&options{}).flags())
	case err != nil:
		return fmt.Errorf("%w\nrun railyard-agent --help for the flags", err)
	case o.Version:
		_, err := fmt.Fprintln(stdout, "railyard-agent", build.Version())
		return err
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	log := o.Logger(stderr)
	log.InfoContext(ctx, "start", "version", build.Version(), "go", runtime.Version(), "node", o.nodeName, "stateDir", o.stateDir)
	if o.installDir != "" {
		if err := install.Install(ctx, log, o.installFrom, o.installDir, o.installAs...); err != nil {
			return err
		}
	}
	s, err := openStore(ctx, o)
	if err != nil {
		return err
	}
	err = serve(ctx, log, o, s)
	if closeErr := s.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close the lease store: %w", closeErr))
	}
	if err == nil {
		log.InfoContext(ctx, "stopped, leases stay")
	}
	return err
}

// openStore makes this process the node's allocator. The lock on the store is also what makes it the only agent
// of the state folder.
func openStore(ctx context.Context, o options) (*store.Store, error) {
	so, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(o.stateDir, "ipam.db")
	wait, cancel := context.WithTimeout(ctx, o.lockTimeout)
	defer cancel()
	s, err := store.Open(wait, path, so)
	if errors.Is(err, store.ErrLocked) && ctx.Err() == nil {
		return nil, fmt.Errorf("%s is locked by %s since more than %s: another agent runs on this state folder; "+
			"stop it, or give this one a --state-dir of its own", path, lockHolder(path), o.lockTimeout)
	}
	return s, err
}

// serve runs the agent, its socket and its metrics on the open store.
func serve(ctx context.Context, log *slog.Logger, o options, s *store.Store) error {
	cfg, err := o.RESTConfig(command().Name)
	if err != nil {
		return err
	}
	api, cache, err := agent.Connect(cfg, o.nodeName)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		storeBytes(filepath.Join(o.stateDir, "ipam.db")),
	)
	a, err := agent.New(agent.Config{
		Node: o.nodeName, Store: s, Client: api, Cache: cache, Log: log, Registerer: reg,
		GCInterval: o.gcInterval, GCGrace: o.gcGrace, ReleaseAfter: o.releaseAfter, CedeWait: o.cedeWait, MirrorInterval: o.mirrorInterval,
	})
	if err != nil {
		return err
	}
	attached, err := newAttachments(log, o, a.Gone, reg)
	if err != nil {
		return err
	}
	var web net.Listener
	if o.MetricsAddress != "" {
		if web, err = net.Listen("tcp", o.MetricsAddress); err != nil {
			return fmt.Errorf("--metrics-address: %w", err)
		}
	}
	sock, err := wire.Listen(o.socket)
	if err != nil {
		if web != nil {
			_ = web.Close()
		}
		return fmt.Errorf("--socket: %w", err)
	}
	log.InfoContext(ctx, "serving", "socket", o.socket, "session", s.Session(), "newStore", s.Fresh())
	// Requests under way may need the agent's loops, so these end after the socket.
	loops, endLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer endLoops()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer endLoops()
		return wire.Serve(ctx, sock, a, log)
	})
	g.Go(func() error { return a.Run(loops) })
	g.Go(func() error { return attached.run(ctx) })
	if web != nil {
		g.Go(func() error { return daemon.Serve(ctx, log, web, reg, a, o.Pprof) })
	}
	return g.Wait()
}

func storeBytes(path string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "railyard_ipam_store_bytes", Help: "Size of the lease store's file.",
	}, func() float64 {
		info, err := os.Stat(path)
		if err != nil {
			return math.NaN()
		}
		return float64(info.Size())
	})
}
