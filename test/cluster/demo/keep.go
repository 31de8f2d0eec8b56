// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/railyard-net/railyard/test/cluster/keep"
)

const enterFile = "enter"

// keeper knows a kept demo by its state folder.
func (o options) keeper() keep.Keeper {
	return keep.Keeper{State: o.state, Name: "demo", End: "make demo-down", Serve: []string{"serve", "--bin=" + o.bin, "--state=" + o.state}}
}

// serve is the supervisor: it brings a cluster up, and keeps it until it is asked to end.
func serve(ctx context.Context, o options, out *keep.Progress) (err error) {
	release, err := o.keeper().Hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	d := &demo{o: o, out: out}
	defer func() { err = errors.Join(err, d.close(err != nil && ctx.Err() == nil)) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if err := d.tell(); err != nil {
		return err
	}
	if err := o.keeper().Ready(); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.restartDead(); err != nil {
				return err
			}
		}
	}
}

// tell writes what a person needs in order to use a kept cluster.
func (d *demo) tell() error {
	kube, err := d.api.Tools().Path("kube")
	if err != nil {
		return err
	}
	kubectl := filepath.Join(d.o.state, "kubectl")
	kubeconfig := filepath.Join(d.o.state, "kubeconfig")
	if err := errors.Join(os.Symlink(kube, kubectl), os.Symlink(d.api.Kubeconfig(), kubeconfig)); err != nil {
		return err
	}
	var script strings.Builder
	script.WriteString("#!/bin/sh\n# enter NODE [COMMAND...]: runs a command, or a shell, inside of a node of the demo.\nnode=$1\nshift\n[ $# -gt 0 ] || set -- sh\ncase $node in\n")
	for _, h := range d.hosts {
		fmt.Fprintf(&script, "%s) exec %s \"$@\" ;;\n", h.Name(), strings.Join(h.EnterCommand(), " "))
	}
	script.WriteString("*) echo \"no node $node\" >&2; exit 2 ;;\nesac\n")
	enter := filepath.Join(d.o.state, enterFile)
	if err := os.WriteFile(enter, []byte(script.String()), 0o755); err != nil {
		return err
	}
	first := d.hosts[0].Name()
	d.out.Text(fmt.Sprintf(`The cluster stays up. Talk to it:

  export KUBECONFIG=%[1]s
  %[2]s get pods -o wide
  %[2]s get ippools,ipblocks,macvlannetworks,net-attach-def -A
  %[2]s delete pod pod-1          # a DEL through Multus
  %[2]s run new --image=none --annotations=%[3]s=%[4]s   # an ADD, on the next node in turn

  %[5]s %[6]s                     # a shell in a node
  %[5]s %[6]s ip netns exec %[7]s.pod-1 ip addr show %[8]s   # a command in a pod

Logs: %[9]s
End it: make demo-down

`, kubeconfig, kubectl, networksAnnotation, d.network.namespace+"/"+d.network.name, enter, first, podNamespace, railLink, d.api.Dir()))
	return nil
}
