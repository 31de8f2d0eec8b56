// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command railyard-ipam is Railyard's IPAM for other CNI plugins. A container runtime or a main plugin executes it
// with the call in its environment; package plugins/ipam has what it does.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/railyard-net/railyard/cmd/internal/build"
	"github.com/railyard-net/railyard/plugins/dispatch"
	ipamplugin "github.com/railyard-net/railyard/plugins/ipam"
)

const usage = `railyard-ipam is a CNI IPAM plugin: a container runtime executes it, with the
call in CNI_ variables and the network's config on stdin. Put it where the other
CNI plugins are, usually /opt/cni/bin, and name it in a network's config:

    "ipam": {"type": "railyard-ipam", "pool": "<name of an IPPool>"}

optional keys: "stateDir" (default /run/railyard, or RAILYARD_STATE_DIR from
the environment), "agentSocket" (default agent.sock in stateDir)

It reads the ipam sections of whereabouts and nv-ipam as well: linked under one
of these names it takes their place.

railyard-ipam --version says which build it is.

CNI spec versions: %s
`

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && strings.TrimLeft(args[0], "-") == "version" {
		fmt.Fprintln(stdout, "railyard-ipam", build.Version())
		return 0
	}
	if len(args) > 0 || getenv("CNI_COMMAND") == "" && getenv("CNI_CONTAINERID") == "" && isTerminal(stdin) {
		fmt.Fprintf(stderr, usage, strings.Join(dispatch.Versions(), ", "))
		return 2
	}
	return dispatch.Run(ctx, ipamplugin.New(getenv("RAILYARD_STATE_DIR"), stderr), getenv, stdin, stdout, stderr)
}

// isTerminal says that a person is there to read the usage.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
