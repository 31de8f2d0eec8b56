// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Railyard-device-plugin runs on every node, in the pod of the agent: it offers RDMA NICs, GPUs, and pairs of them to the kubelet. Its flags are what --help prints;
// package plugins/device says how it works. With --probe it prints what it finds and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/plugins/device"
	"github.com/railyard-net/railyard/plugins/device/cdi"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "railyard-device-plugin:", err)
		stop()
		os.Exit(1)
	}
}

// run is the plugin, until ctx ends. Stdout is for --help, --version and --probe only.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return command().Help(stdout, (&options{}).flags())
	case err != nil:
		return fmt.Errorf("%w\nrun railyard-device-plugin --help for the flags", err)
	case o.Version:
		_, err := fmt.Fprintln(stdout, "railyard-device-plugin", build.Version())
		return err
	case o.probe:
		return probe(ctx, o, stdout)
	}
	log := o.Logger(stderr)
	log.InfoContext(ctx, "start", "version", build.Version(), "go", runtime.Version(), "nvml", gpu.Linked)
	return serve(ctx, log, o)
}

func serve(ctx context.Context, log *slog.Logger, o options) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p, err := device.New(device.Options{
		Hardware: o.hardware(), WatchGPUs: o.watchGPUs(), GPUSpec: o.gpuSpec(), Events: device.HardwareEvents,
		ReadConfig: o.readConfig, ConfigDirs: o.configDirs(),
		PluginDir: o.pluginDir, KubeletSocket: o.kubeletSocket, StateDir: o.stateDir, CDIDir: o.cdiDir, DevInfoDir: o.devInfoDir, DevRoot: o.devRoot,
		SyncEvery: o.syncEvery, FreeAfter: o.freeAfter, Log: log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if o.MetricsAddress != "" {
		web, err := net.Listen("tcp", o.MetricsAddress)
		if err != nil {
			return fmt.Errorf("--metrics-address: %w", err)
		}
		g.Go(func() error { return daemon.Serve(ctx, log, web, reg, p, o.Pprof) })
	}
	g.Go(func() error { return p.Run(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	log.InfoContext(ctx, "stopped, pods keep their devices")
	return nil
}

func (o options) hardware() inventory.Source {
	return inventory.Source{
		Sys: os.DirFS(o.sysRoot), Proc: os.DirFS(o.procRoot),
		GPUs: func() (gpu.Inventory, error) { return gpu.List(o.driverRoot) },
	}
}

func (o options) watchGPUs() func(context.Context, func(gpu.Event)) error {
	if !gpu.Linked {
		return nil
	}
	return func(ctx context.Context, report func(gpu.Event)) error { return gpu.Watch(ctx, o.driverRoot, report) }
}

func (o options) gpuSpec() func(inventory.Snapshot) (*cdi.Spec, error) {
	if !gpu.Linked {
		return nil
	}
	n := cdi.NVIDIA{Root: o.driverRoot, HostRoot: o.driverHostRoot, DevRoot: o.nvidiaDevRoot, Hook: o.cdiHook}
	return func(inventory.Snapshot) (*cdi.Spec, error) { return n.GPUs() }
}
