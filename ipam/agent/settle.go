// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
)

// settle decides about one block with a live read, and does what follows; nothing if what looked like a difference
// was a claim that has been granted meanwhile. Cached is what the watch says of the block. A share that the store does not know is
// granted here, or, while the store is fresh, returned for takeOver, which then grants all after one scan.
func (a *Agent) settle(ctx context.Context, me ipam.Owner, block, pool string, cached *ipam.Block) ([]taken, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	unlock, err := a.pools.lock(ctx, pool)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if v, err := a.view(me, block, pool, cached); err != nil || v.agreed() {
		return nil, err
	}
	return a.settleLocked(ctx, me, block, pool)
}

func (a *Agent) settleLocked(ctx context.Context, me ipam.Owner, block, pool string) ([]taken, error) {
	obj, b, err := a.read(ctx, block)
	if err != nil {
		return nil, err
	}
	v, err := a.view(me, block, pool, b)
	if err != nil {
		return nil, err
	}
	do := decide(v)
	a.log.DebugContext(ctx, "block differs", "block", block, "do", do)
	if do != fence && do != adopt {
		return nil, a.act(ctx, v, do, block)
	}
	t, err := a.fenceOff(ctx, v, obj)
	switch {
	case err != nil:
		return nil, err
	case a.fresh.Load():
		return []taken{t}, nil
	}
	return nil, a.takeOver(ctx, []taken{t})
}

// read asks the API server for a block; nil is none.
func (a *Agent) read(ctx context.Context, block string) (*v1alpha1.IPBlock, *ipam.Block, error) {
	var obj v1alpha1.IPBlock
	switch err := a.cfg.Client.Get(ctx, types.NamespacedName{Name: block}, &obj); {
	case apierrors.IsNotFound(err):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%w: read block: %w", ipam.ErrUnavailable, err)
	}
	b, err := obj.Block()
	if err != nil {
		return nil, nil, err
	}
	return &obj, &b, nil
}

// act does to one block what decide said about v, under the lock of its pool.
func (a *Agent) act(ctx context.Context, v view, do action, block string) error {
	switch do {
	case rename, resize:
		b, err := a.claims.Adopt(ctx, v.me, block)
		if err != nil {
			return err
		}
		if err := a.grant(v.me, b); err != nil {
			return err
		}
	case cede:
		return a.giveBack(ctx, v.me, v.held.Pool, block)
	case forget:
		return a.store.Forget(block)
	case regain:
		return a.regain(ctx, v, block)
	case orphan:
		return a.leaveOrphan(ctx, v, block)
	case shed:
		s, _ := v.share()
		return a.claims.Cede(ctx, v.me, block, v.spare(iprange.Set(s.Ranges...), iprange.Set(v.held.Ranges...))...)
	}
	return a.returnUnused(ctx, v.me, block)
}

// grant gives the store what an acknowledged write made the node's.
func (a *Agent) grant(me ipam.Owner, b ipam.Block) error { return a.store.Grant(holdingOf(me, b)) }

// holdingOf is the holding that b makes.
func holdingOf(me ipam.Owner, b ipam.Block) store.Holding {
	h := store.Holding{Block: b.Name, Pool: b.Pool, Slot: b.Slot}
	if s, ok := claim.Mine(me, b); ok {
		h.Ranges = s.Ranges
	}
	return h
}

// fenceOff makes sure that a share of the node's carries this session, by a write if it does not. A holding of it, if there is one, leases nothing
// meanwhile: two agents run under one node name, or did.
func (a *Agent) fenceOff(ctx context.Context, v view, obj *v1alpha1.IPBlock) (taken, error) {
	if s, _ := v.share(); v.held != nil && s.Session != v.me.Session {
		a.log.ErrorContext(ctx, "another agent has taken this node's block: do two run under one node name?",
			"block", obj.Name, "session", s.Session)
		if err := a.suspend(*v.held); err != nil {
			return taken{}, err
		}
	}
	b, err := a.claims.Adopt(ctx, v.me, obj.Name)
	if err != nil {
		return taken{}, err
	}
	t := taken{holding: holdingOf(v.me, b)}
	for _, l := range obj.Status.Leases {
		if l.Node == v.me.Node {
			t.mirror = append(t.mirror, l)
		}
	}
	return t, nil
}

// suspend keeps h's addresses from being leased, without forgetting the block.
func (a *Agent) suspend(h store.Holding) error {
	h.Ranges = nil
	return a.store.Grant(h)
}

// regain claims addresses again that are leased here and that somebody took out of the node's share. Until that is
// acknowledged nothing else of the block is leased.
func (a *Agent) regain(ctx context.Context, v view, block string) error {
	h := store.Holding{Block: block, Pool: v.pool.Name}
	if v.held != nil {
		h = *v.held
	}
	if s, ok := v.share(); ok {
		h.Ranges = s.Ranges
	} else {
		h.Ranges = nil
	}
	if err := a.store.Grant(h); err != nil {
		return err
	}
	var want []iprange.Range
	for _, addr := range v.leased {
		want = append(want, iprange.Of(addr))
	}
	b, err := a.claims.Reclaim(ctx, v.me, ipam.Block{Name: block, Pool: h.Pool, PoolUID: v.pool.UID, Slot: h.Slot}, want)
	if err != nil {
		a.log.ErrorContext(ctx, "addresses in use here are not this node's any more: was the block deleted by hand?",
			"block", block, "addresses", v.leased, "error", err)
		return fmt.Errorf("claim addresses in use again: %w", err)
	}
	a.log.WarnContext(ctx, "addresses in use here had been taken from this node and were claimed again", "block", block, "addresses", v.leased)
	return a.grant(v.me, b)
}

// giveBack takes the node's share out of a retired block, and forgets the block once that is acknowledged.
func (a *Agent) giveBack(ctx context.Context, me ipam.Owner, pool, block string) error {
	if err := a.claims.Release(ctx, me, block); err != nil {
		return err
	}
	if err := a.store.Forget(block); err != nil {
		return err
	}
	a.metrics.returned.WithLabelValues(pool).Inc()
	a.log.InfoContext(ctx, "block given back", "block", block, "pool", pool)
	return nil
}

// returnUnused gives back the reserved addresses of a block that nobody holds any more, and the block with them if
// nothing else is in it.
func (a *Agent) returnUnused(ctx context.Context, me ipam.Owner, block string) error {
	h, err := a.holding(block)
	if err != nil || h == nil {
		return err
	}
	p, err := a.store.Pool(h.Pool)
	if err != nil {
		return err
	}
	leased, err := a.leasedIn(h)
	if err != nil {
		return err
	}
	unused := view{held: h, pool: p, leased: leased}.unused()
	if len(unused) == 0 {
		return nil
	}
	if out, err := a.store.Withdraw(block, unused...); err != nil || !out {
		return err
	}
	if err := a.claims.Cede(ctx, me, block, unused...); err != nil {
		return err
	}
	if !iprange.Set(h.Ranges...).Equal(iprange.Set(unused...)) {
		return nil // the rest of the block stays
	}
	return a.store.Forget(block)
}

// leaveOrphan gives back a share in a block whose pool is gone, or is another one of the same name by now. Nothing
// can be leased from it; but while a pod still uses one of its addresses, it stays.
func (a *Agent) leaveOrphan(ctx context.Context, v view, block string) error {
	var pool v1alpha1.IPPool
	err := a.cfg.Client.Get(ctx, types.NamespacedName{Name: v.block.Pool}, &pool)
	switch {
	case err == nil && string(pool.UID) == v.block.PoolUID:
		return nil // it is there, but its spec is wrong
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("%w: read pool %s: %w", ipam.ErrUnavailable, v.block.Pool, err)
	}
	inUse, err := a.cfg.inUse(ctx)
	if err != nil {
		return err
	}
	s, _ := v.share()
	set := iprange.Set(s.Ranges...)
	for _, f := range inUse {
		if set.Contains(f.addr) {
			a.log.WarnContext(ctx, "block of a pool that is gone is kept, an address of it is in use", "block", block,
				"address", f.addr, "netns", f.netns.Path)
			return nil
		}
	}
	if err := a.claims.Release(ctx, v.me, block); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "block of a pool that is gone given back", "block", block)
	return nil
}
