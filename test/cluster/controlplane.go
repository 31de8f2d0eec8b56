// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"os/exec"
	"path/filepath"
)

// ControlPlane is what decides in a cluster beside the API server: kube-controller-manager and kube-scheduler.
type ControlPlane struct {
	processes []*Process
}

// StartControlPlane starts it for an API server in a LAN. It ends with Stop, or with this process.
func StartControlPlane(api *API) (*ControlPlane, error) {
	if api.lan == nil {
		return nil, errors.New("the control plane needs an API server that is in a LAN (APIOptions.LAN)")
	}
	in := func(name string) string { return filepath.Join(api.Dir(), name) }
	manager, err := api.ComponentKubeconfig("system:kube-controller-manager")
	if err != nil {
		return nil, err
	}
	scheduler, err := api.ComponentKubeconfig("system:kube-scheduler")
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{}
	for _, args := range [][]string{
		{
			"kube-controller-manager", "--kubeconfig=" + manager, "--leader-elect=false", "--bind-address=127.0.0.1",
			"--service-account-private-key-file=" + in("sa.key"), "--root-ca-file=" + in("ca.crt"), "--use-service-account-credentials=true",
			"--profiling=false",
		},
		{"kube-scheduler", "--kubeconfig=" + scheduler, "--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"},
	} {
		program, err := api.tools.Path("kubenode")
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = api.Dir(), api.env()
		p, err := startIn(api.space, cmd, in(args[0]+".log"))
		if err != nil {
			c.Stop()
			return nil, err
		}
		c.processes = append(c.processes, p)
	}
	return c, nil
}

// Err says which of them has ended, if one has.
func (c *ControlPlane) Err() error {
	var errs []error
	for _, p := range c.processes {
		errs = append(errs, p.Err())
	}
	return errors.Join(errs...)
}

// Stop ends them at once. It may be called again.
func (c *ControlPlane) Stop() {
	for _, p := range c.processes {
		p.Kill()
	}
}
