// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/railyard-net/railyard/test/cluster"
)

// controller is a railyard-controller that is started again when it ends, as it does when it cannot renew its lease.
type controller struct {
	end   context.CancelFunc
	ended chan struct{}
}

func startController(ctx context.Context, o options, api *cluster.API) (*controller, error) {
	kubeconfig, err := api.ServiceAccountKubeconfig(ctx, cluster.AgentNamespace, cluster.ControllerServiceAccount, "")
	if err != nil {
		return nil, err
	}
	start := func() (*cluster.Process, error) {
		cmd := exec.Command(filepath.Join(o.bin, "railyard-controller"), "--kubeconfig="+kubeconfig, "--metrics-address=127.0.0.1:0")
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + api.Dir()}
		return cluster.StartProcess(cmd, filepath.Join(api.Dir(), "controller.log"))
	}
	p, err := start()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &controller{cancel, make(chan struct{})}
	go func() {
		defer close(c.ended)
		for {
			select {
			case <-p.Done():
			case <-ctx.Done():
				p.Kill()
				return
			}
			if sleep(ctx, time.Second) != nil {
				return
			}
			if next, err := start(); err == nil { // else it is tried again
				p = next
			}
		}
	}()
	return c, nil
}

func (c *controller) stop() {
	c.end()
	<-c.ended
}
