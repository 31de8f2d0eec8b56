// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command vm runs test packages in virtual machines, on kernels with RDMA and with NICs that can do SR-IOV, and writes to stdout what
// "go test -json" would. docs/dev/testing.md says what can be shown there, and how to add a test.
//
//	go run ./test/vm                                       all machines of the matrix
//	go run ./test/vm -vm 7.3-exclusive -run Rxe ./test/vm/rails    one machine, one package, some tests
//	go run ./test/vm -vm 6.12-shared -shell                a shell in the machine, with all that the tests have
//
// It is started at the root of the module, as the Makefile does. It needs no root.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

// options is what the command line says.
type options struct {
	machines string
	packages []string // as ./test/netns; none: all
	tests    []string // flags for the test binaries
	skip     string   // pattern of tests
	shell    bool
	logs     string
	limit    time.Duration
	jobs     int
	cache    string
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	var o options
	var pattern string
	var verbose, short, failfast bool
	var count int
	fs := flag.NewFlagSet("vm", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.machines, "vm", "", "run only the machines of these `names`, separated by commas; there are "+strings.Join(names(), ", "))
	fs.BoolVar(&o.shell, "shell", false, "open a shell in the first machine instead of running tests")
	fs.StringVar(&o.logs, "logs", filepath.Join("build", "test"), "`folder` for what the consoles say")
	fs.DurationVar(&o.limit, "limit", 15*time.Minute, "end a machine that takes longer")
	fs.IntVar(&o.jobs, "jobs", max(1, runtime.NumCPU()/2), "`machines` at once; each has two processors and 1 GiB of memory")
	fs.StringVar(&o.cache, "cache", "", "`folder` of the images; empty: railyard/vm in the user's cache folder")
	fs.StringVar(&pattern, "run", "", "as of go test")
	fs.StringVar(&o.skip, "skip", "", "as of go test")
	fs.IntVar(&count, "count", 1, "as of go test")
	fs.BoolVar(&short, "short", false, "as of go test")
	fs.BoolVar(&failfast, "failfast", false, "as of go test")
	fs.BoolVar(&verbose, "v", false, "is taken, and left to who reads stdout")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.packages = slices.DeleteFunc(fs.Args(), func(p string) bool { return p == "./..." })
	o.tests = []string{"-test.v=test2json", fmt.Sprint("-test.count=", count), fmt.Sprint("-test.short=", short),
		fmt.Sprint("-test.failfast=", failfast), "-test.run=" + pattern}
	if o.cache == "" {
		base := getenv("XDG_CACHE_HOME")
		if base == "" {
			base = filepath.Join(getenv("HOME"), ".cache")
		}
		o.cache = filepath.Join(base, "railyard", "vm")
	}
	return o, nil
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	if _, err := os.Stat("go.mod"); err != nil {
		return fmt.Errorf("start this at the root of the module: %w", err)
	}
	todo, err := choose(matrix(), o.machines, o.packages)
	if err != nil {
		return err
	}
	s := session{options: o, out: &lines{w: stdout}, say: func(format string, args ...any) { fmt.Fprintf(stderr, "vm: "+format+"\n", args...) }}
	return s.all(ctx, todo)
}
