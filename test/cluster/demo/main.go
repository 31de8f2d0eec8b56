// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command demo shows the whole path on real parts, on one machine and without touching it: a real kube-apiserver, three nodes in
// namespaces, an agent on each of them, the controller, and pods that get their rails from Multus, our plugin and our IPAM.
//
//	demo up          sets all up, checks that every pod reaches every other, takes all down and checks that nothing is left
//	demo up --keep   sets all up, checks it, and leaves it running in the background
//	demo down        ends what "up --keep" left running
//
// The exit status of up is 0 only if every check was made and passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/keep"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const usage = "usage: demo up [--keep] | demo down   (flags: --bin DIR, --state DIR)"

// options are the demo's flags.
type options struct {
	keep  bool
	bin   string // folder of our programs
	state string // folder of what "down" must know
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	root, err := cluster.ModuleRoot()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return errors.New(usage)
	}
	var o options
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&o.keep, "keep", false, "leave the cluster running")
	fs.StringVar(&o.bin, "bin", filepath.Join(root, "bin"), "folder of railyard, railyard-ipam, railyard-agent and railyard-controller")
	fs.StringVar(&o.state, "state", filepath.Join(root, "build", "demo"), "folder for what a kept cluster is known by")
	if err := fs.Parse(args[1:]); err != nil {
		return fmt.Errorf("%w\n%s", err, usage)
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if o.state, err = filepath.Abs(o.state); err != nil {
		return err
	}
	switch verb := args[0]; {
	case fs.NArg() > 0:
		return errors.New(usage)
	case verb == "up" && o.keep:
		return o.keeper().Up(ctx, stdout)
	case verb == "up":
		return upAndDown(ctx, o, keep.NewProgress(stdout))
	case verb == "serve": // what the keeper starts
		return serve(ctx, o, keep.NewProgress(stdout))
	case verb == "down":
		return o.keeper().Down(ctx, stdout)
	default:
		return errors.New(usage)
	}
}
