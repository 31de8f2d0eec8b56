// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// mirror writes the leases of changed blocks to their status, once per interval, until ctx ends. What could not be
// written is tried again at the next turn.
func (a *Agent) mirror(ctx context.Context) error {
	if !a.cfg.Cache.WaitForCacheSync(ctx) {
		return nil
	}
	dirty := map[string]bool{}
	return a.every(ctx, a.cfg.MirrorInterval, "mirror leases", func(ctx context.Context) error {
		for _, b := range a.store.Dirty() {
			dirty[b] = true
		}
		var errs []error
		for _, b := range slices.Sorted(maps.Keys(dirty)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := a.mirrorBlock(ctx, b)
			a.metrics.mirrored.WithLabelValues(result(err)).Inc()
			if err == nil {
				delete(dirty, b)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// mirrorBlock writes this node's part of the status of one block. A block with one sharer is written from the
// cache alone; one with several is read first, because the others' parts are not cached.
func (a *Agent) mirrorBlock(ctx context.Context, block string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	usage, leases, held, err := a.mirrorOf(block)
	if err != nil || !held {
		return err
	}
	live := false
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var obj v1alpha1.IPBlock
		key := types.NamespacedName{Name: block}
		err := a.cfg.Cache.Get(ctx, key, &obj)
		if live || apierrors.IsNotFound(err) || len(obj.Spec.Shares) > 1 {
			err = a.cfg.Client.Get(ctx, key, &obj)
		}
		if err != nil {
			return err
		}
		live = true // after a conflict
		obj.ForgetStrangers()
		obj.Status.SetNode(usage, leases)
		return a.cfg.Client.Status().Update(ctx, &obj)
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: write the status of block %s: %w", ipam.ErrUnavailable, block, err)
	}
	return nil
}

// mirrorOf is what the status of a block should say about this node.
func (a *Agent) mirrorOf(block string) (v1alpha1.NodeUsage, []v1alpha1.BlockLease, bool, error) {
	h, err := a.holding(block)
	if err != nil || h == nil {
		return v1alpha1.NodeUsage{}, nil, false, err
	}
	list, free, cooling, err := a.store.BlockLeases(block)
	if err != nil {
		return v1alpha1.NodeUsage{}, nil, true, err
	}
	var leases []v1alpha1.BlockLease
	for _, l := range list {
		for _, addr := range addressesOf(l, h.Slot) {
			leases = append(leases, v1alpha1.BlockLease{
				Address: addr.String(), Node: a.cfg.Node,
				Network: l.Key.Network, ContainerID: l.Key.ContainerID, IfName: l.Key.IfName,
				Namespace: l.Pod.Namespace, Pod: l.Pod.Name,
			})
		}
	}
	usage := v1alpha1.NodeUsage{Node: a.cfg.Node, Leased: int32(len(leases)), Free: int32(free), Cooling: int32(cooling)}
	return usage, leases, true, nil
}

// addressesOf are the addresses of l inside of slot.
func addressesOf(l ipam.Lease, slot netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, x := range l.Addresses {
		if slot.Contains(x.Prefix.Addr()) {
			out = append(out, x.Prefix.Addr())
		}
	}
	return out
}
