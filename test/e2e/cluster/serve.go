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

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/keep"
	"github.com/railyard-net/railyard/test/e2e/control"
)

// serve is the process that keeps the cluster: it brings it up, does to it what it is asked to, and takes it down in the end.
func serve(ctx context.Context, o options, out *keep.Progress) (err error) {
	release, err := o.keeper().Hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	w := &world{o: o, out: out}
	defer func() { err = errors.Join(err, w.close(err != nil && ctx.Err() == nil)) }()
	if err := w.start(ctx); err != nil {
		return err
	}
	if err := w.tell(); err != nil {
		return err
	}
	socket := filepath.Join(w.api.Dir(), "control.sock")
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, socket, w) }()
	if err := w.info(socket).Write(o.state); err != nil {
		return err
	}
	if err := o.keeper().Ready(); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
			if err := w.died(); err != nil {
				return err
			}
		}
	}
}

func (w *world) info(socket string) control.Info {
	i := control.Info{
		Kubeconfig: filepath.Join(w.o.state, "kubeconfig"), Kubectl: filepath.Join(w.o.state, "kubectl"), Socket: socket,
	}
	for _, m := range w.machines {
		i.Machines = append(i.Machines, m.Name())
	}
	return i
}

// tell writes what a person needs in order to use the cluster.
func (w *world) tell() error {
	kube, err := w.api.Tools().Path("kube")
	if err != nil {
		return err
	}
	i := w.info("")
	enter := filepath.Join(w.o.state, "enter")
	err = errors.Join(
		os.Symlink(kube, i.Kubectl), os.Symlink(w.api.Kubeconfig(), i.Kubeconfig),
		w.writeEnter(enter),
	)
	if err != nil {
		return err
	}
	w.out.Text(fmt.Sprintf(`
The cluster is up. Talk to it:

  export KUBECONFIG=%s
  alias kubectl=%s
  kubectl get pods -A -o wide
  kubectl apply -k manifests/samples

  %s %s                    # a shell in a node; the logs are in its /var/log

Logs of the control plane: %s
End it: make cluster-down
`, i.Kubeconfig, i.Kubectl, enter, w.machines[0].Name(), w.api.Dir()))
	return nil
}

// writeEnter writes a script that runs commands in the machines, and is written again when one has another first process.
func (w *world) writeEnter(path string) error {
	var script strings.Builder
	script.WriteString("#!/bin/sh\n# enter NODE [COMMAND...]: runs a command, or a shell, in a node of the cluster.\nnode=$1\nshift\n[ $# -gt 0 ] || set -- sh\ncase $node in\n")
	for _, m := range w.machines {
		fmt.Fprintf(&script, "%s) exec %s \"$@\" ;;\n", m.Name(), strings.Join(m.EnterCommand(), " "))
	}
	script.WriteString("*) echo \"no node $node\" >&2; exit 2 ;;\nesac\n")
	return os.WriteFile(path, []byte(script.String()), 0o755)
}

func (w *world) machine(name string) (*cluster.Machine, error) {
	for _, m := range w.machines {
		if m.Name() == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("there is no machine %q", name)
}

// Machine implements control.Cluster.
func (w *world) Machine(name, deed string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, err := w.machine(name)
	if err != nil {
		return err
	}
	deeds := map[string]func() error{"off": m.Off, "on": m.On, "reboot": m.Reboot}
	if deeds[deed] == nil {
		return fmt.Errorf("a machine cannot be told %q", deed)
	}
	if err := deeds[deed](); err != nil {
		return err
	}
	return w.writeEnter(filepath.Join(w.o.state, "enter"))
}

// Program implements control.Cluster.
func (w *world) Program(machine, order, program string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, err := w.machine(machine)
	if err != nil {
		return err
	}
	return m.Order(order, program)
}

// API implements control.Cluster.
func (w *world) API(ctx context.Context, deed string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch deed {
	case "stop":
		w.api.StopServer()
		return nil
	case "start":
		return w.api.RestartServer(ctx)
	default:
		return fmt.Errorf("the API server cannot be told %q", deed)
	}
}
