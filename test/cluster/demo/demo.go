// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/railyard-net/railyard/test/cluster"
	"github.com/railyard-net/railyard/test/cluster/keep"
)

const (
	nodeCount   = 3
	podsPerNode = 2
	setUpLimit  = 90 * time.Second
	waitLimit   = 45 * time.Second // for one condition
	stopGrace   = 10 * time.Second
)

// demo is a running cluster.
type demo struct {
	o   options
	out *keep.Progress

	api        *cluster.API
	fabric     *cluster.Fabric
	hosts      []*host
	agents     []*cluster.Process
	controller *cluster.Process

	controllerKubeconfig string

	kubelet     *kubelet
	stopKubelet func()

	network network
}

// upAndDown is the whole demo in one process.
func upAndDown(ctx context.Context, o options, out *keep.Progress) (err error) {
	links, err := hostLinks()
	if err != nil {
		return err
	}
	d := &demo{o: o, out: out}
	defer func() {
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			err = errors.Join(errors.New("interrupted"), d.close(false))
			return
		}
		err = errors.Join(err, d.close(true))
	}()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if err := d.empty(ctx); err != nil {
		return err
	}
	if err := d.end(ctx); err != nil {
		return err
	}
	after, err := hostLinks()
	if err != nil {
		return err
	}
	if !slices.Equal(links, after) {
		return fmt.Errorf("the host had links %v before, and has %v now", links, after)
	}
	d.out.Step("done: every pod reached every other, and nothing is left")
	return nil
}

// hostLinks lists the network interfaces of the host, by name.
func hostLinks() ([]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names, nil
}

// start brings everything up, and returns when the network that the samples describe can be used.
func (d *demo) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpLimit)
	defer cancel()
	if err := d.startAPI(ctx); err != nil {
		return err
	}
	if err := d.startNodes(ctx); err != nil {
		return err
	}
	return d.applySamples(ctx)
}

func (d *demo) startAPI(ctx context.Context) error {
	for _, name := range []string{"railyard", "railyard-ipam", "railyard-agent", "railyard-controller"} {
		if _, err := os.Stat(filepath.Join(d.o.bin, name)); err != nil {
			return fmt.Errorf("%w: run \"make build\"", err)
		}
	}
	var err error
	if d.api, err = cluster.StartAPI(ctx, cluster.APIOptions{Log: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	d.out.Step("kube-apiserver and etcd run at %s", d.api.URL())
	if err := d.api.InstallMultus(ctx); err != nil {
		return err
	}
	if err := d.api.Apply(ctx, "manifests/install"); err != nil {
		return err
	}
	d.out.Step("manifests/install applied, and what Multus brings: its CRD and its RBAC")
	if d.controllerKubeconfig, err = d.api.ServiceAccountKubeconfig(ctx, cluster.AgentNamespace, cluster.ControllerServiceAccount, ""); err != nil {
		return err
	}
	if d.controller, err = d.startController(); err != nil {
		return err
	}
	d.out.Step("railyard-controller runs, pid %d", d.controller.Pid())
	return nil
}

func (d *demo) startController() (*cluster.Process, error) {
	cmd := exec.Command(filepath.Join(d.o.bin, "railyard-controller"), "--kubeconfig="+d.controllerKubeconfig, "--metrics-address=127.0.0.1:0")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cluster.StartProcess(cmd, filepath.Join(d.api.Dir(), "railyard-controller.log"))
}

func (d *demo) startAgent(h *host) (*cluster.Process, error) {
	return h.Start([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, filepath.Join(d.o.bin, "railyard-agent"),
		"--node-name="+h.Name(), "--kubeconfig="+h.agentKubeconfig,
		"--install-dir="+cniBinDir, "--install-from="+d.o.bin,
		// What takes minutes in a cluster takes seconds here.
		"--gc-interval=1s", "--gc-grace=2s", "--release-after=1s", "--mirror-interval=300ms", "--log-format=text")
}

// restartDead starts those of our programs again that have ended, as a DaemonSet and a Deployment do: a person may kill them to see
// what happens.
func (d *demo) restartDead() error {
	for i, p := range d.agents {
		if p.Err() == nil {
			continue
		}
		agent, err := d.startAgent(d.hosts[i])
		if err != nil {
			return err
		}
		d.agents[i] = agent
		d.out.Step("the agent of %s had ended, it runs again, pid %d; %v", d.hosts[i].Name(), agent.Pid(), p.Err())
	}
	if p := d.controller; p.Err() != nil {
		var err error
		if d.controller, err = d.startController(); err != nil {
			return err
		}
		d.out.Step("the controller had ended, it runs again, pid %d; %v", d.controller.Pid(), p.Err())
	}
	return nil
}

func (d *demo) startNodes(ctx context.Context) error {
	var err error
	if d.fabric, err = cluster.NewFabric(); err != nil {
		return err
	}
	for i := range nodeCount {
		n, err := cluster.NewNode(ctx, fmt.Sprintf("node-%d", i+1), d.fabric, d.api)
		if err != nil {
			return err
		}
		h, err := newHost(ctx, n, i+1)
		if err != nil {
			return errors.Join(err, n.Close())
		}
		d.hosts = append(d.hosts, h)
		agent, err := d.startAgent(h)
		if err != nil {
			return err
		}
		d.agents = append(d.agents, agent)
		d.out.Step("%s is up: railyard-agent pid %d with a token bound to this node, link %s into the fabric", n.Name(), agent.Pid(), cluster.RailLink)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	d.kubelet = newKubelet(d.api.Client(), d.hosts)
	d.kubelet.tell = func(pod string, err error) {
		d.out.Step("pod %s is not as it should be, and is tried again: %v", pod, err)
	}
	go func() {
		defer close(done)
		_ = d.kubelet.run(ctx) // fails only when ctx ends
	}()
	d.stopKubelet = func() { cancel(); <-done }
	return nil
}

// await repeats check until it is nil; it fails when a process has died, or with the last error of check when the time is up.
func (d *demo) await(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if err := d.died(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			var failures error
			if d.kubelet != nil {
				failures = d.kubelet.failures()
			}
			return fmt.Errorf("%s: %w", what, errors.Join(last, failures))
		case <-tick.C:
		}
	}
}

// died says which of our long-running programs has ended.
func (d *demo) died() error {
	var errs []error
	for _, p := range append([]*cluster.Process{d.controller}, d.agents...) {
		if p != nil {
			errs = append(errs, p.Err())
		}
	}
	return errors.Join(errs...)
}

// close ends everything at once, whatever state it is in; with keepLogs it says where they are. It may be called again.
func (d *demo) close(keepLogs bool) error {
	if d.stopKubelet != nil {
		d.stopKubelet()
	}
	var errs []error
	for _, h := range d.hosts {
		errs = append(errs, h.Close())
	}
	d.hosts = nil
	if d.controller != nil {
		d.controller.Kill()
	}
	if d.fabric != nil {
		errs = append(errs, d.fabric.Close())
	}
	if d.api == nil {
		return errors.Join(errs...)
	}
	if keepLogs {
		d.out.Step("logs are kept in %s", d.api.Dir())
		return errors.Join(append(errs, d.api.StopKeepingLogs())...)
	}
	return errors.Join(append(errs, d.api.Stop())...)
}

// fprintln writes lines to a person; a terminal that is gone is no reason to fail.
func fprintln(w io.Writer, a ...any) { _, _ = fmt.Fprintln(w, a...) }
