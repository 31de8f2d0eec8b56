// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Railyard-controller renders network resources to NetworkAttachmentDefinitions, and accepts pools and sums them up. Several may run;
// one leads. It is not on the path of a pod's start. Its flags are what --help prints; packages netdef/controller and ipam/controller
// say how they work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/cmd/internal/daemon"
	poolsv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
	whereabouts "github.com/railyard-net/railyard/ipam/compat/pools"
	pools "github.com/railyard-net/railyard/ipam/controller"
	"github.com/railyard-net/railyard/ipam/migrate"
	networks "github.com/railyard-net/railyard/netdef/controller"
	"github.com/railyard-net/railyard/netdef/gate"
)

const (
	// leaseName is the Lease that the leader holds. The RBAC rules name it.
	leaseName = "railyard-controller"
	// gcPercent trades a little CPU for a small resident set: most of the heap is watch caches, which hardly change.
	gcPercent = 40
	// stopWithin bounds the end of the passes under way; the Deployment's grace is a little longer.
	stopWithin = 10 * time.Second
)

// agentLabels are those of the agents' pods, which are in the namespace of the Lease.
func agentLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "railyard-agent"}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "railyard-controller:", err)
		stop()
		os.Exit(1)
	}
}

// run is the controller, until ctx ends. Stdout is for --help and --version only.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == migrateCommand {
		return runMigrate(ctx, args[1:], getenv, stdout)
	}
	o, err := parseOptions(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return command().Help(stdout, (&options{}).flags())
	case err != nil:
		return fmt.Errorf("%w\nrun railyard-controller --help for the flags", err)
	case o.Version:
		_, err := fmt.Fprintln(stdout, "railyard-controller", build.Version())
		return err
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log := o.Logger(stderr)
	log.InfoContext(ctx, "start", "version", build.Version(), "go", runtime.Version(), "leaderElection", o.leaderElect)
	mgr, err := newManager(ctx, log, o)
	if err != nil {
		return err
	}
	started := &readiness{elected: mgr.Elected()}
	if err := mgr.Add(started); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	// A cancelled group ends the manager, which waits for its passes and gives the lease back.
	group.Go(func() error { return mgr.Start(ctx) })
	if o.MetricsAddress != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.MetricsAddress)
		if err != nil {
			group.Go(func() error { return fmt.Errorf("--metrics-address: %w", err) })
			return group.Wait()
		}
		group.Go(func() error { return daemon.Serve(ctx, log, l, metrics.Registry, started, o.Pprof) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	log.InfoContext(context.WithoutCancel(ctx), "stopped")
	return nil
}

// newManager makes the manager with everything that runs in it.
func newManager(ctx context.Context, log *slog.Logger, o options) (manager.Manager, error) {
	cfg, err := o.RESTConfig(command().Name)
	if err != nil {
		return nil, err
	}
	scheme := kruntime.NewScheme()
	for _, add := range []func(*kruntime.Scheme) error{clientgoscheme.AddToScheme, networks.AddToScheme, poolsv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	grace := stopWithin
	slim := networks.CacheByObject()
	maps.Copy(slim, pools.CacheByObject())
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(log.Handler()),
		Cache:  cache.Options{ByObject: slim, DefaultTransform: cache.TransformStripManagedFields()},
		// Both are served by our own server, on one port.
		Metrics:                       server.Options{BindAddress: "0"},
		HealthProbeBindAddress:        "0",
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.leaderElectNamespace,
		LeaderElectionReleaseOnCancel: true, // the process ends when Start returns
		LeaseDuration:                 &o.leaseDuration,
		RenewDeadline:                 &o.renewDeadline,
		RetryPeriod:                   &o.retryPeriod,
		GracefulShutdownTimeout:       &grace,
	})
	if err != nil {
		return nil, fmt.Errorf("reach the API server at %s: %w", cfg.Host, err)
	}
	setUpPools := func(mgr ctrl.Manager) error { return pools.SetupWith(mgr, pools.Options{Quarantine: o.quarantine}) }
	setUpGate := func(mgr ctrl.Manager) error {
		return gate.Setup(ctx, mgr, gate.Options{Mode: gate.Mode(o.nodeGate), Namespace: o.leaderElectNamespace, Labels: agentLabels()})
	}
	setups := []func(ctrl.Manager) error{networks.Setup, setUpPools, migrate.Setup, setUpGate}
	if o.whereaboutsPools {
		setups = append(setups, whereabouts.Setup)
	}
	for _, setup := range setups {
		if err := setup(mgr); err != nil {
			return nil, err
		}
	}
	return mgr, nil
}
