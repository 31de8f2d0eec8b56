// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

const stateDir = "/run/railyard" // of a node's agent and plugin

// empty deletes the pods and checks that what was made for them is gone.
func (d *demo) empty(ctx context.Context) error {
	if err := d.deletePods(ctx); err != nil {
		return err
	}
	d.out.Step("the pods are deleted, each by a DEL of Multus")
	for _, h := range d.hosts {
		if err := checkLeftOnNode(h); err != nil {
			return fmt.Errorf("after the pods were deleted, on %s: %w", h.Name(), err)
		}
	}
	d.out.Step("no link, namespace, journal or cache entry is left on the nodes")
	err := d.await(ctx, "wait for the nodes to give their blocks back", func(ctx context.Context) error {
		blocks, err := d.network.blocks(ctx)
		if err == nil && len(blocks) > 0 {
			err = fmt.Errorf("%d blocks are left, the first is %s: shares %+v, status %+v", len(blocks), blocks[0].Name, blocks[0].Spec.Shares, blocks[0].Status)
		}
		return err
	})
	if err != nil {
		return err
	}
	d.out.Step("the nodes gave all blocks back")
	return d.table(ctx, nil)
}

// deletePods deletes all pods, and returns when they have ended.
func (d *demo) deletePods(ctx context.Context) error {
	pods := d.api.Client().CoreV1().Pods(podNamespace)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	return d.await(ctx, "wait for the pods to end", func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(list.Items))
		}
		return err
	})
}

// checkLeftOnNode is nil if there is no trace of a pod on the node, outside of the agent's store.
func checkLeftOnNode(h *host) error {
	links, err := h.Links()
	if err != nil {
		return err
	}
	slices.Sort(links)
	if !slices.Equal(links, []string{"lo", cluster.RailLink}) {
		err = fmt.Errorf("links are left: %v", links)
	}
	namespaces, nsErr := h.PodNetNSs()
	if nsErr == nil && len(namespaces) > 0 {
		nsErr = fmt.Errorf("network namespaces are left: %v", namespaces)
	}
	return errors.Join(err, nsErr, h.Do(func() error {
		return errors.Join(
			checkNoFiles("attachment journals", filepath.Join(stateDir, "attachments"), ".lock"),
			checkNoFiles("multus's files", cluster.MultusCacheDir),
			checkNoFiles("host-local's leases", filepath.Join(cluster.HostLocalDir, "default"), "lock", "last_reserved_ip.0"),
		)
	}))
}

// checkNoFiles is nil if there is no file under dir but those with the names given.
func checkNoFiles(what, dir string, but ...string) error {
	var left []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !slices.Contains(but, e.Name()) {
			left = append(left, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s are left: %s", what, strings.Join(left, ", "))
	}
	return nil
}

// end deletes the samples, stops our programs in order, and checks what they leave.
func (d *demo) end(ctx context.Context) error {
	if err := d.deleteSamples(ctx); err != nil {
		return err
	}
	for i, agent := range d.agents {
		if err := agent.Stop(ctx, stopGrace); err != nil {
			return err
		}
		if err := checkStore(ctx, d.hosts[i]); err != nil {
			return fmt.Errorf("the store of %s: %w", d.hosts[i].Name(), err)
		}
	}
	d.agents = nil
	if err := d.controller.Stop(ctx, stopGrace); err != nil {
		return err
	}
	d.controller = nil
	d.out.Step("agents and controller stopped when asked to; no lease and no block is left in the nodes' stores, and they are sound")
	dir := d.api.Dir()
	if err := d.close(false); err != nil {
		return err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the cluster's folder %s is left: %w", dir, err)
	}
	return nil
}

// checkStore opens a node's store as a plugin does when no agent runs. It holds nothing any more, and is consistent.
func checkStore(ctx context.Context, h *host) error {
	return h.Do(func() error {
		o, err := store.SystemOptions()
		if err != nil {
			return err
		}
		s, err := store.Open(ctx, filepath.Join(stateDir, "ipam.db"), o)
		if err != nil {
			return err
		}
		leases, leasesErr := s.Leases()
		holdings, holdingsErr := s.Holdings()
		err = errors.Join(leasesErr, holdingsErr, s.Check())
		if s.Fresh() {
			err = errors.Join(err, errors.New("there is none"))
		}
		if len(leases) > 0 || len(holdings) > 0 {
			err = errors.Join(err, fmt.Errorf("leases %v and holdings %v are left", leases, holdings))
		}
		return errors.Join(err, s.Close())
	})
}
