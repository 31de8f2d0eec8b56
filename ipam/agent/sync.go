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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/store"
)

const (
	// syncSettle is how long sync lets changes gather before it looks at them.
	syncSettle = 20 * time.Millisecond
	// syncRetryMin and syncRetryMax bound the wait after a sync in which something failed.
	syncRetryMin, syncRetryMax = 250 * time.Millisecond, 30 * time.Second
	// stepTimeout bounds what is done to one block.
	stepTimeout = 10 * time.Second
	// thoroughly is how often sync compares the leases too. It asks the API for nothing more.
	thoroughly = time.Minute
)

// node is what the agent knows of its Node object.
type node struct {
	uid    string
	labels map[string]string
}

// owner is this node as the owner of shares, or ErrUnavailable while its UID is unknown.
func (a *Agent) owner(ctx context.Context) (ipam.Owner, error) {
	me := ipam.Owner{Node: a.cfg.Node, Session: a.store.Session()}
	if n := a.node.Load(); n != nil {
		me.NodeUID = n.uid
		return me, nil
	}
	if _, me.NodeUID = a.store.Node(); me.NodeUID != "" {
		return me, nil
	}
	obj := nodeObject()
	switch err := a.cfg.Client.Get(ctx, types.NamespacedName{Name: a.cfg.Node}, obj); {
	case apierrors.IsNotFound(err):
		return me, fmt.Errorf("%w: there is no Node object %s: does --node-name name this node?", ipam.ErrUnavailable, a.cfg.Node)
	case err != nil:
		return me, fmt.Errorf("%w: read Node %s: %w", ipam.ErrUnavailable, a.cfg.Node, err)
	}
	me.NodeUID = string(obj.UID)
	return me, a.store.SetNode(a.cfg.Node, me.NodeUID)
}

// keepSync runs sync whenever something changed, and again after a failure.
func (a *Agent) keepSync(ctx context.Context) error {
	if !a.cfg.Cache.WaitForCacheSync(ctx) {
		return nil // ctx ended
	}
	retry := syncRetryMin
	for {
		wait := thoroughly
		switch err := a.sync(ctx); {
		case err == nil:
			retry = syncRetryMin
		case ctx.Err() == nil:
			a.log.WarnContext(ctx, "the store and the API do not agree yet, try again later", "error", err, "after", retry)
			wait, retry = retry, min(2*retry, syncRetryMax)
		}
		again := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-a.woken:
			settle := time.NewTimer(syncSettle)
			select {
			case <-ctx.Done():
			case <-settle.C:
			}
			settle.Stop()
		}
		if again.Stop(); !a.goesOn(ctx, "sync again") {
			return nil
		}
	}
}

// sync brings the store and the API together once, as far as that is possible now.
func (a *Agent) sync(ctx context.Context) error {
	obj := nodeObject()
	switch err := a.cfg.Cache.Get(ctx, types.NamespacedName{Name: a.cfg.Node}, obj); {
	case err == nil:
		a.node.Store(&node{string(obj.UID), obj.Labels})
		if _, uid := a.store.Node(); uid != string(obj.UID) {
			if err := a.store.SetNode(a.cfg.Node, string(obj.UID)); err != nil {
				return err
			}
		}
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("read Node %s: %w", a.cfg.Node, err)
	}
	// While there is no Node object, what was last known of it stands: the pods on it still run.
	var nodeLabels map[string]string
	if n := a.node.Load(); n != nil {
		nodeLabels = n.labels
	}
	errs := []error{a.syncPools(ctx, nodeLabels)}
	if errs[0] == nil {
		a.hearing.Do(func() { close(a.heard) })
	}
	me, err := a.owner(ctx)
	if err == nil {
		err = a.syncBlocks(ctx, me)
	}
	poke(a.unused) // the node may be another by now
	return errors.Join(append(errs, err)...)
}

// syncBlocks compares every block, acts on differences, and at last lets a fresh store lease.
func (a *Agent) syncBlocks(ctx context.Context, me ipam.Owner) error {
	cached, err := a.cachedBlocks(ctx, func(string) bool { return true })
	if err != nil {
		return err
	}
	pools, _, err := a.storedPools()
	if err != nil {
		return err
	}
	holdings, err := a.store.Holdings()
	if err != nil {
		return err
	}
	type pair struct {
		pool string
		held *store.Holding
	}
	blocks := map[string]pair{}
	for _, b := range cached {
		blocks[b.Name] = pair{pool: b.Pool}
	}
	for i, h := range holdings {
		blocks[h.Block] = pair{h.Pool, &holdings[i]}
	}
	var errs []error
	var fenced []taken
	lost := 0
	thorough := a.thorough()
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		x := blocks[name]
		v := view{me: me, pool: pools[x.pool], held: x.held, block: cached[name]}
		if !thorough && v.agreed() {
			continue
		}
		v.leased, err = a.leasedIn(x.held)
		var more []taken
		if err == nil && !v.agreed() {
			more, err = a.settle(ctx, me, name, x.pool, cached[name])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("block %s: %w", name, err))
		}
		fenced = append(fenced, more...)
		n, err := a.lostIn(name)
		errs, lost = append(errs, err), lost+n
	}
	a.lost.Store(int64(lost))
	errs = append(errs, a.takeOver(ctx, fenced))
	err = errors.Join(errs...)
	if err == nil && a.fresh.Load() {
		if err = a.recoverReserved(ctx, me); err == nil {
			err = a.open()
		}
	}
	return err
}

// open ends the time in which a fresh store leases nothing.
func (a *Agent) open() error {
	if err := a.store.Recovered(); err != nil {
		return err
	}
	a.fresh.Store(false)
	close(a.ready)
	return nil
}

// cachedBlocks are the blocks of this node that the watch shows, by name, as far as they are wanted. While the store is fresh, they
// are what the API server itself says: the first list of a watch may be older than this boot, and lack a block whose addresses
// live pods use.
func (a *Agent) cachedBlocks(ctx context.Context, wanted func(name string) bool) (map[string]*ipam.Block, error) {
	var list v1alpha1.IPBlockList
	var err error
	if a.fresh.Load() {
		err = a.cfg.Client.List(ctx, &list, client.MatchingLabels{v1alpha1.NodeLabel(a.cfg.Node): ""})
	} else {
		err = a.cfg.Cache.List(ctx, &list, client.UnsafeDisableDeepCopy) // only read, and in here
	}
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	out := map[string]*ipam.Block{}
	for i := range list.Items {
		if !wanted(list.Items[i].Name) {
			continue
		}
		b, err := list.Items[i].Block()
		if err != nil {
			a.log.ErrorContext(ctx, "block is left alone", "block", list.Items[i].Name, "error", err)
			continue
		}
		out[b.Name] = &b
	}
	return out, nil
}

// thorough says whether this sync compares the leases too, and not only what is owned: now and then, and as long
// as something was wrong with them.
func (a *Agent) thorough() bool {
	now := a.cfg.Now()
	if a.lost.Load() == 0 && a.looked != 0 && now-a.looked < thoroughly {
		return false
	}
	a.looked = now
	return true
}

// view gathers both sides of a block. b is what the API says of it, nil if there is none.
func (a *Agent) view(me ipam.Owner, block, pool string, b *ipam.Block) (view, error) {
	held, err := a.holding(block)
	if err != nil {
		return view{}, err
	}
	v := view{me: me, held: held, block: b}
	v.pool, err = a.store.Pool(pool)
	if err != nil && (held != nil || !errors.Is(err, ipam.ErrPoolUnknown)) {
		return v, err
	}
	if v.leased, err = a.leasedIn(held); err == nil && held != nil {
		v.reserved, err = a.store.ReservedIn(*held)
	}
	return v, err
}

// agreed says that there is nothing to do about v.
func (v view) agreed() bool { return decide(v) == keep && len(v.unused()) == 0 }

// holding is what the store holds of block, nil if nothing.
func (a *Agent) holding(block string) (*store.Holding, error) {
	list, err := a.store.Holdings()
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Block == block {
			return &list[i], nil
		}
	}
	return nil, nil //nolint:nilnil // no holding is no error, and has no other value
}

// leasedIn are the addresses of a holding's slot that are leased here. held may be nil.
func (a *Agent) leasedIn(held *store.Holding) ([]netip.Addr, error) {
	if held == nil {
		return nil, nil
	}
	leases, _, _, err := a.store.BlockLeases(held.Block)
	var out []netip.Addr
	for _, l := range leases {
		out = append(out, addressesOf(l, held.Slot)...)
	}
	return out, err
}

// lostIn counts the addresses of a block that are leased here and are not this node's any more.
func (a *Agent) lostIn(block string) (int, error) {
	h, err := a.holding(block)
	if err != nil || h == nil {
		return 0, err
	}
	leased, err := a.leasedIn(h)
	return len(missing(h.Ranges, leased)), err
}
