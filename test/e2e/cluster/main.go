// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command cluster runs a Kubernetes cluster on one machine without touching it: etcd, API server, controller manager and scheduler,
// and whole machines as namespaces, each with a containerd and a kubelet, on which Multus and Railyard are installed from
// manifests/install with images of our own programs.
//
//	cluster up [--nodes N]       starts it in the background, and returns when Railyard is ready on every node
//	cluster down                 ends it and takes away every trace
//	cluster running              says by its exit status whether one does
//	cluster do PATH              asks the one that runs for something: machines/node-1/reboot, machines/node-1/kill/kubelet, api/stop
//	cluster image FILE           writes the image of our programs, as manifests/install names it, for "docker load" or "ctr images import"
//
// "serve", "boot" and "init" are for itself: the process that keeps the cluster, and the two steps of a machine's first process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/boot"
	"github.com/railyard-net/railyard/test/cluster/keep"
	"github.com/railyard-net/railyard/test/e2e/control"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

const usage = "usage: cluster up [--nodes N] | cluster down | cluster running | cluster do PATH | cluster image FILE   (flags, before arguments: --bin DIR, --pod FILE, --state DIR)"

// options are the flags.
type options struct {
	nodes int
	bin   string // folder of our programs
	pod   string // program of the pods of tests
	state string // folder of what "down" must know
}

func parse(args []string) (o options, rest []string, err error) {
	root, err := cluster.ModuleRoot()
	if err != nil {
		return o, nil, err
	}
	fs := flag.NewFlagSet("cluster", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.IntVar(&o.nodes, "nodes", 2, "number of nodes")
	fs.StringVar(&o.bin, "bin", filepath.Join(root, "bin"), "folder of our programs")
	fs.StringVar(&o.pod, "pod", filepath.Join(root, "build", "e2e", "pod"), "program of the pods of tests")
	fs.StringVar(&o.state, "state", filepath.Join(root, "build", "cluster"), "folder that a cluster is known by")
	if err := fs.Parse(args); err != nil {
		return o, nil, fmt.Errorf("%w\n%s", err, usage)
	}
	if o.nodes < 1 {
		return o, nil, errors.New("--nodes: a cluster has at least one node")
	}
	for _, path := range []*string{&o.bin, &o.pod, &o.state} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, nil, err
		}
	}
	return o, fs.Args(), nil
}

func (o options) keeper() keep.Keeper {
	return keep.Keeper{State: o.state, Name: "cluster", End: "make cluster-down", Serve: []string{
		"serve", "--nodes=" + strconv.Itoa(o.nodes), "--bin=" + o.bin, "--pod=" + o.pod, "--state=" + o.state,
	}}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	verb, args := args[0], args[1:]
	if (verb == "boot" || verb == "init") && len(args) == 1 {
		return inside(ctx, verb, args[0], stdin, stderr)
	}
	o, rest, err := parse(args)
	if err != nil {
		return err
	}
	switch {
	case verb == "do" && len(rest) == 1:
		info, err := control.Read(o.state)
		if err != nil {
			return err
		}
		return control.NewClient(info.Socket).Do(ctx, rest[0])
	case verb == "image" && len(rest) == 1:
		return writeImage(o, rest[0])
	case len(rest) > 0:
		return errors.New(usage)
	case verb == "up":
		return o.keeper().Up(ctx, stdout)
	case verb == "serve":
		return serve(ctx, o, keep.NewProgress(stdout))
	case verb == "running":
		if !o.keeper().Running() {
			return errors.New("no cluster runs")
		}
		return nil
	case verb == "down":
		return o.keeper().Down(ctx, stdout)
	default:
		return errors.New(usage)
	}
}

// inside is the first process of a machine.
func inside(ctx context.Context, verb, spec string, stdin io.Reader, stderr io.Writer) error {
	if verb == "init" {
		return boot.Serve(ctx, slog.New(slog.NewTextHandler(stderr, nil)), spec, stdin)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return boot.Furnish(spec, stdin, self, "init", spec)
}
