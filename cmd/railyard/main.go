// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Railyard is the CNI plugin that gives a pod an interface on a rail. A container runtime or Multus executes it.
//
// All of its configuration is the CNI config on stdin. The environment variable RAILYARD_STATE_DIR stands in for the
// key stateDir where the config has none, and RAILYARD_LOG (debug, info, warn, error; default warn) says how
// much is logged to stderr.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

func main() {
	// It does one thing after the other. With a second processor the runtime has a thread wait for the answers of the kernel that the first one has
	// already read: it wakes for each of them, a dozen times in an ADD.
	runtime.GOMAXPROCS(1)
	os.Exit(run(context.Background(), os.Args, os.Getenv, os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

const usage = `railyard is a CNI plugin: a container runtime or Multus executes it, with a config like

  {"cniVersion": "1.0.0", "name": "rail0", "type": "railyard",
   "kind": "macvlan", "master": "ens2f0", "ipam": {"type": "railyard-ipam", "pool": "rail0"}}

on stdin and the call in the environment (CNI_COMMAND and others).

  RAILYARD_STATE_DIR  the folder of the node's state where the config has no stateDir (/run/railyard)
  RAILYARD_LOG        debug, info, warn or error: what is logged to stderr (warn)

railyard --version says which build it is.
`

// run serves one call and gives the exit status. Without a call in the environment it explains itself.
func run(ctx context.Context, args []string, getenv func(string) string, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 2 && strings.TrimLeft(args[1], "-") == "version":
		fmt.Fprintln(stdout, "railyard", build.Version())
		return 0
	case len(args) > 1 || getenv("CNI_COMMAND") == "":
		fmt.Fprint(stderr, usage)
	}
	if len(args) > 1 {
		return 0
	}
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	if text := getenv("RAILYARD_LOG"); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			fmt.Fprintf(stderr, "RAILYARD_LOG: %v: write debug, info, warn or error\n", err)
		}
	}
	hook := hooks(getenv)
	p := cni.New(cni.Options{
		Log:      slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: &level})),
		Sys:      os.DirFS(hook.sys),
		SysDir:   hook.sys,
		ConfigFS: rdma.ConfigFS,
		Labels:   hook.labels,
		StateDir: getenv("RAILYARD_STATE_DIR"),
		Environ:  environ,
		Leaser: func(paths conf.Paths) ipam.Leaser {
			return client.New(paths.AgentSocket, paths.Store())
		},
		Hit: hook.hit,
	})
	return dispatch.Run(ctx, p, getenv, stdin, stdout, stderr)
}

// hook is where a test's binary differs from a real one.
type hook struct {
	sys    string
	labels string
	hit    func(point string)
}
