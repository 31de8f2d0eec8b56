// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// What the mirror may cost. A cluster's pods come and go all day, and each block's status is some kB that the API server stores, and
// sends to its sharers.
const (
	// leasesPerWrite leases pay for one write of the mirror, and so do writeEvery intervals of MirrorInterval.
	leasesPerWrite, writeEvery = 100, 36
	// writesSaved is how many writes a quiet node saves up at most, so that what happens on it now and then is shown at once.
	writesSaved = 4
	// quietAfter intervals without a change a block is taken to be as it will stay; after showAfter of them it is not waited for
	// that any more, and after showAnyway it is written whatever was paid, though not all such blocks at once.
	quietAfter, showAfter, showAnyway = 1, 6, 60
)

// budget is what the mirror may still cost. It is a value to decide on.
type budget struct {
	saved  float64       // writes
	since  time.Duration // boot clock, when it was last added up
	leases int64         // made until then
}

// earned is b at a later time, at which so many leases have been made.
func (b budget) earned(now time.Duration, leases int64, interval time.Duration) budget {
	b.saved += float64(leases-b.leases)/leasesPerWrite + float64(now-b.since)/float64(writeEvery*interval)
	return budget{min(b.saved, writesSaved), now, leases}
}

// unshown is a block that has changed since it was written.
type unshown struct {
	block          string
	first, changed time.Duration // boot clock, when that was seen first and last
	asked          bool          // other nodes look there for addresses
}

// due says which of the blocks are to be written now, those that have waited longest first, and what that leaves of b.
func (b budget) due(blocks []unshown, now, interval time.Duration) ([]string, budget) {
	slices.SortFunc(blocks, func(x, y unshown) int { return cmp.Or(cmp.Compare(x.first, y.first), cmp.Compare(x.block, y.block)) })
	var out []string
	for _, u := range blocks {
		settled := now-u.changed >= quietAfter*interval || now-u.first >= showAfter*interval
		switch {
		case u.asked:
		case now-u.first >= showAnyway*interval && len(out) < writesSaved:
		case settled && b.saved >= 1:
		default:
			continue
		}
		b.saved = max(0, b.saved-1)
		out = append(out, u.block)
	}
	return out, b
}

// mirror writes the leases of changed blocks to their status until ctx ends: within two intervals where little happens, and otherwise
// as seldom as due says. What could not be written is tried again at the next turn.
func (a *Agent) mirror(ctx context.Context) error {
	if !a.cfg.Cache.WaitForCacheSync(ctx) {
		return nil
	}
	changed := map[string]unshown{}
	left := budget{saved: writesSaved, since: a.cfg.Now()}
	return a.every(ctx, a.cfg.MirrorInterval, "mirror leases", func(ctx context.Context) error {
		now := a.cfg.Now()
		for _, b := range a.store.Dirty() {
			u, known := changed[b]
			if u.block, u.changed = b, now; !known {
				u.first = now
			}
			changed[b] = u
		}
		crowded, err := a.crowdedPools()
		if err != nil {
			return err
		}
		for b, u := range changed {
			pool, _, _ := strings.Cut(b, ".")
			u.asked = crowded[pool]
			changed[b] = u
		}
		var blocks []string
		left = left.earned(now, a.made.Load(), a.cfg.MirrorInterval)
		blocks, left = left.due(slices.Collect(maps.Values(changed)), now, a.cfg.MirrorInterval)
		var errs []error
		for _, b := range blocks {
			err := a.mirrorBlock(ctx, b)
			a.metrics.mirrored.WithLabelValues(result(err)).Inc()
			if err == nil {
				delete(changed, b)
			}
			errs = append(errs, err)
			if err != nil && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
				break // no answer: the others would have none either
			}
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
