// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/client"
	"github.com/railyard-net/railyard/test/bench/lab"
	"github.com/railyard-net/railyard/test/bench/measure"
	"github.com/railyard-net/railyard/test/cluster"
)

const (
	nodeName     = "bench"
	readyTimeout = 30 * time.Second
)

// node is a kube-apiserver and an agent that serves its socket in the lab.
type node struct {
	api    *cluster.API
	agent  *cluster.Process
	client *client.Client
	// mirror is how often the agent shows its leases in the API.
	mirror time.Duration
}

// startNode returns when the agent leases from the pools of every family.
func startNode(ctx context.Context, o options) (_ *node, err error) {
	n := &node{client: client.New(client.SocketPath(client.DefaultStateDir), ""), mirror: 5 * time.Second} // the agent's default
	if o.short {
		n.mirror = time.Second
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start the agent: %w", errors.Join(err, n.stop()))
		}
	}()
	if n.api, err = cluster.StartAPI(ctx, cluster.APIOptions{Tools: cluster.Tools(o.tools)}); err != nil {
		return nil, err
	}
	if err := n.api.Apply(ctx, "manifests/crd", "manifests/install/namespace.yaml", "manifests/rbac"); err != nil {
		return nil, err
	}
	kubeconfig, err := n.api.NodeKubeconfig(ctx, nodeName, "")
	if err != nil {
		return nil, err
	}
	for _, f := range []families{dual, v4Only} {
		if err := n.makePool(ctx, f); err != nil {
			return nil, err
		}
	}
	// The blocks that an earlier table used must not be given back while a later one is measured.
	cmd := exec.Command(filepath.Join(o.bin, "railyard-agent"), "--node-name="+nodeName, "--kubeconfig="+kubeconfig,
		"--release-after=1h", "--mirror-interval="+n.mirror.String(), "--metrics-address=127.0.0.1:0", "--pprof")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + n.api.Dir()}
	if n.agent, err = cluster.StartProcess(cmd, filepath.Join(n.api.Dir(), "agent.log")); err != nil {
		return nil, err
	}
	for _, f := range []families{dual, v4Only} {
		if err := n.claim(ctx, f); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// makePool creates a pool and accepts it, as the controller would.
func (n *node) makePool(ctx context.Context, f families) error {
	subnet := func(cidr string) map[string]any { return map[string]any{"subnet": cidr, "blockSize": 4096} }
	spec := map[string]any{"cooldownSeconds": 5}
	if f.v4 {
		spec["ipv4"] = subnet(f.subnet4)
	}
	if f.v6 {
		spec["ipv6"] = subnet(f.subnet6)
	}
	pool := map[string]any{
		"apiVersion": "ipam.railyard.dev/v1alpha1", "kind": "IPPool",
		"metadata": map[string]any{"name": f.name, "finalizers": []string{"ipam.railyard.dev/blocks"}}, "spec": spec,
	}
	if err := n.api.ApplyYAML(ctx, string(encode(pool))); err != nil {
		return err
	}
	var granted []string
	for _, s := range []string{f.subnet4, f.subnet6} {
		if s != "" {
			granted = append(granted, s)
		}
	}
	accepted := map[string]any{
		"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}
	patch := encode(map[string]any{"status": map[string]any{
		"observedGeneration": 1, "granted": granted, "blocks": 0, "conditions": []any{accepted},
	}})
	out, err := n.api.Kubectl(ctx, "patch", "ippool", f.name, "--subresource=status", "--type=merge", "--patch="+string(patch)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("accept pool %s: %w: %s", f.name, err, out)
	}
	return nil
}

// claim leases and releases once, which makes the node own a block of the pool.
func (n *node) claim(ctx context.Context, f families) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	key := ipam.Key{Network: f.name, ContainerID: "first", IfName: ifName}
	for {
		_, err := n.client.Lease(ctx, ipam.Request{Key: key, Pool: f.name})
		if err == nil {
			return n.client.Release(ctx, key)
		}
		select {
		case <-n.agent.Done():
			return n.agent.Err()
		case <-ctx.Done():
			return fmt.Errorf("no lease from pool %s within %v: %w", f.name, readyTimeout, errors.Join(err, n.quoteLog()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// quoteLog is the agent's log as an error, for messages.
func (n *node) quoteLog() error {
	b, err := os.ReadFile(n.agent.Log())
	if err != nil {
		return err
	}
	return fmt.Errorf("the end of its log:\n%s", b[max(0, len(b)-2000):])
}

// stop ends what startNode has started so far. It may be called again.
func (n *node) stop() error {
	var errs []error
	if n.agent != nil {
		errs = append(errs, n.agent.Stop(context.Background(), 5*time.Second))
	}
	if n.api != nil {
		errs = append(errs, n.api.Stop())
	}
	return errors.Join(errs...)
}

// socket leases in this process through the agent's socket, as the railyard plugin does.
func (n *node) socket(name string, pods []lab.Pod, f families) measure.Contestant {
	return measure.Contestant{Name: name, Do: func(ctx context.Context, verb measure.Verb, job measure.Job) (time.Duration, error) {
		key := ipam.Key{Network: f.name, ContainerID: job.ID, IfName: ifName}
		if verb == measure.Del {
			return 0, n.client.Release(ctx, key)
		}
		ns, err := ipam.StatNetNS(pods[job.Slot].Path)
		if err != nil {
			return 0, err
		}
		_, err = n.client.Lease(ctx, ipam.Request{Key: key, Pool: f.name, NetNS: ns})
		return 0, err
	}}
}
