// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/plugins/install"
)

// The first arguments that make the program put the plugins on a node or take them away, instead of running the agent.
const (
	installCommand   = "install"
	uninstallCommand = "uninstall"
)

// placing is what the command line of either says.
type placing struct {
	verb     string
	host     string
	dir      string
	from     string
	stateDir string
	as       names
}

func (p *placing) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(p.verb, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&p.host, "host", "", "`folder` at which the node's file system is mounted; empty: this one's is the node's")
	fs.StringVar(&p.dir, "dir", "", "`folder` of the CNI plugins on the node; empty: the one that its container runtime is configured with")
	fs.Var(&p.as, "as", "more `names` for railyard-ipam there: whereabouts,nv-ipam")
	if p.verb == installCommand {
		fs.StringVar(&p.from, "from", "/usr/local/bin", "`folder` to take the CNI plugins from")
	} else {
		fs.StringVar(&p.stateDir, "state-dir", "/run/railyard", "`folder` of the node's leases and attachments, on the node")
	}
	return fs
}

const installUsage = `railyard-agent install puts the CNI plugins into the folder from which the node's container runtime
executes them, each in one step, and only if it answers there.

Usage: railyard-agent install [flags]

`

const uninstallUsage = `railyard-agent uninstall takes the CNI plugins away from the node. It refuses while pods of the node
have rails or addresses, or an agent runs, and changes nothing then.

Usage: railyard-agent uninstall [flags]

`

// runPlacing is the command that verb says. Help goes to stdout, the log to stderr.
func runPlacing(ctx context.Context, verb string, args []string, stdout, stderr io.Writer) error {
	p := placing{verb: verb}
	fs := p.flags()
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		usage := map[string]string{installCommand: installUsage, uninstallCommand: uninstallUsage}[verb]
		if _, err := io.WriteString(stdout, usage); err != nil {
			return err
		}
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return nil
	case err != nil:
		return fmt.Errorf("%w\nrun railyard-agent %s --help for the flags", err, verb)
	case fs.NArg() > 0:
		return fmt.Errorf("%q is not a flag: %s takes flags only", fs.Arg(0), verb)
	}
	if err := checkAs(p.as); err != nil {
		return fmt.Errorf("--as: %w", err)
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	host := install.Host(p.host)
	if host == "" {
		host = "/"
	}
	found := install.Found{Folder: p.dir, Because: "--dir says so"}
	if p.dir == "" {
		var err error
		if found, err = install.Find(host); err != nil {
			return err
		}
	}
	log.InfoContext(ctx, "the node's folder of CNI plugins", "path", found.Folder, "because", found.Because)
	dir, err := host.Path(found.Folder)
	if err != nil {
		return err
	}
	if verb == uninstallCommand {
		state, err := host.Path(p.stateDir)
		if err != nil {
			return err
		}
		return install.Remove(ctx, log, dir, state, p.as...)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return install.Install(ctx, log, p.from, dir, p.as...)
}

// checkAs refuses names that nobody's IPAM plugin has.
func checkAs(as names) error {
	for _, name := range as {
		if !compat.Is(name) {
			return fmt.Errorf("%.40q is none of %v", name, compat.Types())
		}
	}
	return nil
}
