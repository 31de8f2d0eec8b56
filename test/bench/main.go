// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command bench compares railyard with its peers and with the floor, all in one run on one machine, and writes the figures
// to build/bench and docs. docs/benchmarks.md, which it writes, says what is measured and how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options is what the command line says.
type options struct {
	short, check, peers bool
	out, docs, bin      string
	tools, against      string
	inside              bool
}

var errInterrupted = errors.New("interrupted")

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.BoolVar(&o.short, "short", false, "a smoke test of under half a minute; writes to -out only, not to -docs")
	fs.BoolVar(&o.check, "check", false, "fail if a bar is missed")
	fs.BoolVar(&o.peers, "peers", false, "leave railyard out and write to -out only")
	fs.StringVar(&o.out, "out", "build/bench", "`folder` for the JSON")
	fs.StringVar(&o.docs, "docs", "docs", "`folder` for benchmarks.md and its plots")
	fs.StringVar(&o.bin, "bin", "bin", "`folder` of railyard's programs, as make build makes them")
	fs.StringVar(&o.tools, "tools", "", "`folder` of the tools; empty: what make -s tools-dir says")
	fs.StringVar(&o.against, "against", "", "`folder` of another build's programs: compare the plugin of -bin with that one's, and nothing else")
	fs.BoolVar(&o.inside, "inside", false, "run in the namespaces at hand; the program starts itself so")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.peers && o.against != "" {
		return o, errors.New("-peers leaves railyard out, -against measures nothing else: leave one of them out")
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag", fs.Arg(0))
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.inside {
		if err := bench(ctx, o, stdout, stderr); ctx.Err() == nil {
			return err
		}
		return errInterrupted // what failed because of that helps nobody
	}
	if os.Geteuid() != 0 {
		return errors.New("makes network namespaces and links: run it as root")
	}
	root, err := cluster.ModuleRoot()
	if err != nil {
		return err
	}
	if o.tools == "" {
		if o.tools, err = cluster.ToolsDir(); err != nil {
			return err
		}
	}
	for _, dir := range []*string{&o.out, &o.docs, &o.bin, &o.tools, &o.against} {
		if *dir != "" && !filepath.IsAbs(*dir) {
			*dir = filepath.Join(root, *dir)
		}
	}
	if err := buildFloor(ctx, root, o.out, stderr); err != nil {
		return err
	}
	if err := checkPrograms(o); err != nil {
		return err
	}
	if err := o.install(); err != nil {
		return fmt.Errorf("install the programs: %w", err)
	}
	err = lab.Reexec(ctx, []string{
		"-inside", fmt.Sprintf("-short=%t", o.short), fmt.Sprintf("-check=%t", o.check), fmt.Sprintf("-peers=%t", o.peers),
		"-out=" + o.out, "-docs=" + o.docs, "-bin=" + o.bin, "-tools=" + o.tools, "-against=" + o.against,
	}, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return fmt.Errorf("failed: %w", err)
	}
	return nil
}

// installed is where a contestant's program is, by its name.
func (o options) installed(name string) string { return filepath.Join(o.out, "installed", name) }

// install copies the contestants' programs, everybody's alike, as whoever installs them on a node does. A program that the linker has just
// written is in the cache in small pages, and needs up to a quarter more to start, the larger the more.
func (o options) install() error {
	from := []string{
		filepath.Join(o.out, "floor"), filepath.Join(o.out, "empty"),
		filepath.Join(o.tools, "cni", "macvlan"), filepath.Join(o.tools, "cni", "host-device"), filepath.Join(o.tools, "cni", "host-local"),
	}
	if !o.peers {
		from = append(from, filepath.Join(o.bin, "railyard"), filepath.Join(o.bin, "railyard-ipam"))
	}
	to := map[string]string{}
	for _, path := range from {
		to[o.installed(filepath.Base(path))] = path
	}
	if o.against != "" {
		to[o.installed(filepath.Join("against", "railyard"))] = filepath.Join(o.against, "railyard")
	}
	for target, source := range to {
		program, err := os.ReadFile(source)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(target), 0o755)
		}
		if err == nil {
			err = renameio.WriteFile(target, program, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// programs are those that make build and make tools must have made.
func (o options) programs() []string {
	programs := []string{filepath.Join(o.tools, "cni", "macvlan"), filepath.Join(o.tools, "cni", "host-local")}
	if !o.peers {
		programs = append(programs, filepath.Join(o.tools, "kube"))
		for _, name := range []string{"railyard", "railyard-ipam", "railyard-agent"} {
			programs = append(programs, filepath.Join(o.bin, name))
		}
	}
	if o.against != "" {
		programs = append(programs, filepath.Join(o.against, "railyard"))
	}
	return programs
}

func checkPrograms(o options) error {
	for _, path := range o.programs() {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run make build tools", err)
		}
	}
	return nil
}

// buildFloor builds the programs that are contestants of this benchmark only, as make build builds ours.
func buildFloor(ctx context.Context, root, out string, stderr io.Writer) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out+"/", "./test/bench/floor", "./test/bench/empty")
	cmd.Dir, cmd.Stderr = root, stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
