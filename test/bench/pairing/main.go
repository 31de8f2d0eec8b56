// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Pairing says how often a pod gets a GPU and the NIC beside it, by four ways to place pods on the machines of rdma/topology/testdata, and writes
// docs/benchmarks-pairing.md with its plot. The machines are drawings of real ones, read by rdma/inventory from a simulated sysfs; the ways are models of what kubelets and
// plugins do. It needs no hardware, and the same seed gives the same figures.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pairing:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("pairing", flag.ContinueOnError)
	flags.SetOutput(stderr)
	sequences := flags.Int("sequences", 10_000, "how many random `sequences` of pods for each machine")
	machines := flags.String("machines", "rdma/topology/testdata", "`folder` of drawings")
	out := flags.String("o", "docs", "`folder` for the page and the plot")
	if err := flags.Parse(args); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(*machines, "*.txtar"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no drawings in %s", *machines)
	}
	var results []result
	for _, file := range files {
		m, err := load(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		r := result{machine: m}
		for w := range ways {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.by[w] = simulate(m, way(w), *sequences)
		}
		results = append(results, r)
		fmt.Fprintf(stderr, "%-20s %s\n", m.name, r)
	}
	var page, plot bytes.Buffer
	writePage(&page, results, *sequences)
	writePlot(&plot, results)
	return errors.Join(
		os.WriteFile(filepath.Join(*out, "benchmarks-pairing.md"), page.Bytes(), 0o644),
		os.WriteFile(filepath.Join(*out, "benchmarks-pairing.svg"), plot.Bytes(), 0o644),
	)
}
