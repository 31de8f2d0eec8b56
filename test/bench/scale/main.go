// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command scale runs the agents of whole clusters against a real API server and controller, and writes what that costs to build/bench
// and docs/benchmarks-scale.md, which says what is measured and how.
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
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/railyard-net/railyard/test/bench/host"
	"github.com/railyard-net/railyard/test/bench/report"
	"github.com/railyard-net/railyard/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// options is what the command line says.
type options struct {
	short            bool
	nodes            counts
	pods, block      int
	rate             float64
	warm, steady     time.Duration
	flat             time.Duration
	outage, full     time.Duration
	settle, patience time.Duration
	out, docs, bin   string
	tools, log       string
	agentLog         *slog.Logger
}

// counts are numbers of nodes, with commas between.
type counts []int

func (c *counts) String() string {
	var out []string
	for _, n := range *c {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, ",")
}

// most is what fits the pools.
const most = 8000

func (c *counts) Set(text string) error {
	*c = nil
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 2 || n > most {
			return fmt.Errorf("%q is no number of nodes from 2 to %d", part, most)
		}
		*c = append(*c, n)
	}
	return nil
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{nodes: counts{10, 100, 1000}, block: 64}
	fs := flag.NewFlagSet("scale", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.BoolVar(&o.short, "short", false, "a smoke test of 10 nodes and some seconds; writes to -out only, not to -docs")
	fs.Var(&o.nodes, "nodes", "how many `nodes`, run after run")
	fs.IntVar(&o.pods, "pods", 100, "pods on each node")
	fs.Float64Var(&o.rate, "rate", 0.5, "pods replaced per second on each node, in steady churn")
	fs.DurationVar(&o.warm, "warm", 90*time.Second, "how long it goes on before that; more than the cooldown of 60 s")
	fs.DurationVar(&o.steady, "steady", 2*time.Minute, "how long steady churn goes on")
	fs.DurationVar(&o.flat, "flat", 5*time.Second, "how long pods are replaced as fast as can be")
	fs.DurationVar(&o.outage, "outage", 2*time.Minute, "how long the API server is away")
	fs.DurationVar(&o.full, "full", 30*time.Second, "how long pods are replaced in a pool at 99 %")
	fs.DurationVar(&o.settle, "settle", 6*time.Second, "how long the agents' writes after a phase are counted as its own")
	fs.DurationVar(&o.patience, "patience", 5*time.Minute, "how long the agents may take to start, to come back after the outage, and to fill a pool")
	fs.StringVar(&o.out, "out", "build/bench", "`folder` for the JSON")
	fs.StringVar(&o.docs, "docs", "docs", "`folder` for benchmarks-scale.md and its plot")
	fs.StringVar(&o.bin, "bin", "bin", "`folder` of railyard's programs, as make build makes them")
	fs.StringVar(&o.tools, "tools", "", "`folder` of the tools; empty: what make -s tools-dir says")
	fs.StringVar(&o.log, "log", "", "`file` for all that the agents log, which slows them down; empty: nowhere")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("%q is not a flag", fs.Arg(0))
	case o.pods < 1 || o.rate <= 0:
		return o, errors.New("-pods and -rate must be more than 0")
	}
	if o.short {
		o.nodes, o.pods, o.rate, o.block = counts{10}, 20, 2, 8
		o.warm, o.steady, o.flat, o.outage, o.full, o.settle = time.Second, 2*time.Second, time.Second/4, time.Second, time.Second/4, time.Second
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	ctrllog.SetLogger(logr.Discard()) // of all agents at once: -log has what ours say
	klog.SetLogger(logr.Discard())
	root, err := cluster.ModuleRoot()
	if err != nil {
		return err
	}
	if o.tools == "" {
		if o.tools, err = cluster.ToolsDir(); err != nil {
			return err
		}
	}
	for _, dir := range []*string{&o.out, &o.docs, &o.bin, &o.tools} {
		if !filepath.IsAbs(*dir) {
			*dir = filepath.Join(root, *dir)
		}
	}
	for _, path := range []string{filepath.Join(o.bin, "railyard-controller"), filepath.Join(o.tools, "kube")} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run make build tools", err)
		}
	}
	o.agentLog = slog.New(slog.DiscardHandler)
	if o.log != "" {
		f, err := os.Create(o.log)
		if err != nil {
			return err
		}
		defer f.Close()
		o.agentLog = slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	all := report.Scale{About: host.About(ctx), Settings: report.ScaleSettings{
		Pods: o.pods, Rate: o.rate, Steady: o.steady.Seconds(), Outage: o.outage.Seconds(), BlockSize: o.block,
	}}
	all.Short = o.short
	for _, n := range o.nodes {
		f, err := scenario(ctx, o, n, stderr)
		if err != nil {
			return err
		}
		all.Fleets = append(all.Fleets, f)
		debug.FreeOSMemory() // the next one is measured by difference
	}
	return publish(o, all, stdout)
}

// publish writes the files. A bar that was missed is an error, after that.
func publish(o options, all report.Scale, stdout io.Writer) error {
	all.Bars = all.Judge()
	errs := []error{report.WriteJSON(o.out, "scale.json", all)}
	if !o.short {
		errs = append(errs,
			report.WriteFile(o.docs, report.ScalePlotName, all.Plot()),
			report.WriteFile(o.docs, "benchmarks-scale.md", all.Markdown()))
	}
	for _, b := range all.Bars {
		fmt.Fprintln(stdout, b.Line())
		if !b.Pass && !b.Reading {
			errs = append(errs, fmt.Errorf("falls short: %s: %g %s, the limit is %g", b.Name, b.Measured, b.Unit, b.Limit))
		}
	}
	return errors.Join(errs...)
}
