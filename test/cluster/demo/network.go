// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
	netdefv1alpha1 "github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

const samples = "manifests/samples"

// network is the sample network that the pods join.
type network struct {
	client    client.Client
	namespace string
	name      string // of the MacvlanNetwork and of its NetworkAttachmentDefinition
	pool      string // of its addresses
	families  int    // of the pool
}

// applySamples applies the samples and returns when the network and the pool are ready.
func (d *demo) applySamples(ctx context.Context) error {
	if err := d.api.Apply(ctx, samples); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), ipamv1alpha1.AddToScheme(scheme), netdefv1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	c, err := client.New(d.api.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	err = d.await(ctx, "wait for the sample network", func(ctx context.Context) error {
		d.network, err = findNetwork(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	d.out.Step("%s applied: MacvlanNetwork %s is rendered to a NetworkAttachmentDefinition, IPPool %s is accepted", samples, d.network.name, d.network.pool)
	return nil
}

// findNetwork returns the first network of the cluster, by name, that has a pool, when both are ready.
func findNetwork(ctx context.Context, c client.Client) (network, error) {
	var networks netdefv1alpha1.MacvlanNetworkList
	if err := c.List(ctx, &networks); err != nil {
		return network{}, err
	}
	for _, mn := range networks.Items {
		if mn.Spec.Pool == nil {
			continue
		}
		if !meta.IsStatusConditionTrue(mn.Status.Conditions, netdefv1alpha1.ConditionReady) {
			return network{}, fmt.Errorf("MacvlanNetwork %s is not ready: %+v", mn.Name, mn.Status.Conditions)
		}
		var pool ipamv1alpha1.IPPool
		if err := c.Get(ctx, client.ObjectKey{Name: mn.Spec.Pool.Name}, &pool); err != nil {
			return network{}, err
		}
		if !meta.IsStatusConditionTrue(pool.Status.Conditions, ipamv1alpha1.ConditionAccepted) {
			return network{}, fmt.Errorf("IPPool %s is not accepted: %+v", pool.Name, pool.Status.Conditions)
		}
		n := network{client: c, namespace: mn.Spec.Namespace(), name: mn.Name, pool: pool.Name}
		for _, s := range []*ipamv1alpha1.Subnet{pool.Spec.IPv4, pool.Spec.IPv6} {
			if s != nil {
				n.families++
			}
		}
		return n, nil
	}
	return network{}, fmt.Errorf("no MacvlanNetwork with a pool among %d", len(networks.Items))
}

// blocks lists the blocks of all pools.
func (n *network) blocks(ctx context.Context) ([]ipamv1alpha1.IPBlock, error) {
	var list ipamv1alpha1.IPBlockList
	if err := n.client.List(ctx, &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// blockOf finds the block in which node owns the address.
func blockOf(blocks []ipamv1alpha1.IPBlock, node string, a netip.Addr) (string, error) {
	for _, b := range blocks {
		for _, share := range b.Spec.Shares {
			for _, text := range share.Ranges {
				r, err := iprange.Parse(text)
				if err != nil {
					return "", fmt.Errorf("block %s: %w", b.Name, err)
				}
				if !r.Contains(a) {
					continue
				}
				if share.Node != node {
					return "", fmt.Errorf("address %s is used on %s, but block %s says that %s owns it", a, node, b.Name, share.Node)
				}
				return b.Name, nil
			}
		}
	}
	return "", fmt.Errorf("address %s on %s is in no block", a, node)
}

// deleteSamples deletes the samples, and checks that the controller took away what it had made of them.
func (d *demo) deleteSamples(ctx context.Context) error {
	root, err := cluster.ModuleRoot()
	if err != nil {
		return err
	}
	if err := d.api.Delete(ctx, filepath.Join(root, samples)); err != nil {
		return err
	}
	out, err := d.api.Kubectl(ctx, "get", "network-attachment-definitions,ippools,macvlannetworks", "-A", "-o", "name").CombinedOutput()
	if err != nil || len(out) > 0 {
		return fmt.Errorf("left after the samples were deleted (%w): %s", err, out)
	}
	d.out.Step("the samples are deleted, and with them the NetworkAttachmentDefinition")
	return nil
}
