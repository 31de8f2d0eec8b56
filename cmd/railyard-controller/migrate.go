// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/cmd/internal/daemon"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/migrate"
)

// migrateCommand is the first argument that makes the program take addresses over instead of running the controller.
const migrateCommand = "migrate"

const migrateUsage = `railyard-controller migrate takes over the addresses that whereabouts or nv-ipam gave, so that none
is given twice. Without --apply it changes nothing and reports what it would do, with the steps.

Usage: railyard-controller migrate --from whereabouts|nv-ipam [flags]

`

// migration is what the command line says.
type migration struct {
	from             string
	apply, dryRun    bool
	forget           bool
	cluster          daemon.Options
	namespace, owner string
	settle           time.Duration
}

func (m *migration) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(migrateCommand, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&m.from, "from", "", "whose addresses: "+strings.Join(compat.Types(), " or "))
	fs.BoolVar(&m.apply, "apply", false, "do it; without, the report alone")
	fs.BoolVar(&m.dryRun, "dry-run", false, "report only, which is the default")
	fs.BoolVar(&m.forget, "forget-unknown", false, "give free the addresses that were taken over although no pod of that name existed: be sure that nothing has them")
	fs.StringVar(&m.cluster.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server; empty: as a pod does")
	fs.StringVar(&m.namespace, "namespace", "kube-system", "`namespace` of whereabouts")
	fs.StringVar(&m.owner, "service-account", "whereabouts", "`name` of the service account of whereabouts")
	fs.DurationVar(&m.settle, "settle", 5*time.Second, "time between two looks that must find the same addresses in use")
	return fs
}

// runMigrate is the command. The report goes to stdout.
func runMigrate(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	var o migration
	fs := o.flags()
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		if _, err := io.WriteString(stdout, migrateUsage); err != nil {
			return err
		}
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return nil
	case err != nil:
		return fmt.Errorf("%w\nrun railyard-controller migrate --help for the flags", err)
	case fs.NArg() > 0:
		return fmt.Errorf("%q is not a flag: migrate takes flags only", fs.Arg(0))
	case !compat.Is(o.from):
		return fmt.Errorf("--from is %.40q: write one of %s", o.from, strings.Join(compat.Types(), ", "))
	case o.apply && o.dryRun:
		return errors.New("--apply and --dry-run are both given: leave one out")
	}
	if o.cluster.Kubeconfig == "" {
		o.cluster.Kubeconfig = getenv("KUBECONFIG")
	}
	o.cluster.QPS, o.cluster.Burst = 50, 100
	m, err := o.connect()
	if err != nil {
		return err
	}
	if o.forget {
		n, err := m.Forget(ctx)
		_, printErr := fmt.Fprintf(stdout, "%d holds ended\n", n)
		return errors.Join(err, printErr)
	}
	if !o.apply {
		p, err := m.Plan(ctx)
		if err != nil {
			return err
		}
		return p.Report(stdout)
	}
	p, err := m.Apply(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "done: %d pools have the addresses of %s\n", len(p.Pools), o.from)
	return err
}

func (m *migration) connect() (*migrate.Migration, error) {
	cfg, err := m.cluster.RESTConfig(command().Name)
	if err != nil {
		return nil, err
	}
	scheme := kruntime.NewScheme()
	if err := migrate.AddToScheme(scheme); err != nil {
		return nil, err
	}
	api, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("reach the API server at %s: %w", cfg.Host, err)
	}
	return migrate.New(api, m.from, migrate.Options{Namespace: m.namespace, Account: m.owner, Settle: m.settle})
}
