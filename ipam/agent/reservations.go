// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/store"
)

// reservationsAgain is how long after a failure the reservations are looked at once more.
const reservationsAgain = time.Second

// keepReservations ends the use of reservations whose leases have ended here, until ctx ends.
func (a *Agent) keepReservations(ctx context.Context) error {
	if !a.cfg.Cache.WaitForCacheSync(ctx) || !a.awaitReady(ctx) {
		return nil
	}
	for {
		var again <-chan time.Time
		if err := a.endUses(ctx); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "try again later", "doing", "end the use of reservations", "error", err)
			again = time.After(reservationsAgain)
		}
		select {
		case <-ctx.Done():
		case <-a.unused:
		case <-again:
		}
		if !a.goesOn(ctx, "end uses") {
			return nil
		}
	}
}

// endUses looks at each reservation that the watch shows as this node's, and lets go what was picked and came to nothing.
func (a *Agent) endUses(ctx context.Context) error {
	me, err := a.owner(ctx)
	if err != nil {
		return err
	}
	var list v1alpha1.IPReservationList
	if err := a.cfg.Cache.List(ctx, &list); err != nil {
		return fmt.Errorf("list reservations: %w", err)
	}
	picked := a.picked.Swap(false)
	if len(list.Items) == 0 && !picked {
		return nil // nothing of it is in use here
	}
	used, err := a.reservedHere()
	if err != nil {
		return err
	}
	var errs []error
	for i := range list.Items {
		r := &list.Items[i]
		u := r.Spec.User
		if u == nil || u.Node != me.Node {
			continue
		}
		if _, ok := used[r.Name]; !ok || u.Session != me.Session || u.NodeUID != me.NodeUID {
			errs = append(errs, a.endUse(ctx, me, r.Name))
		}
	}
	err = errors.Join(append(errs, a.letGo(ctx))...)
	if err != nil {
		a.picked.Store(true)
	}
	return err
}

// endUse has the reservation used by nobody if nobody here does, and by this life of the node otherwise.
func (a *Agent) endUse(ctx context.Context, me ipam.Owner, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	unlock, err := a.reserving.lock(ctx, name) // no request is in the middle of it
	if err != nil {
		return err
	}
	defer unlock()
	r := &v1alpha1.IPReservation{}
	switch err := a.cfg.Client.Get(ctx, client.ObjectKey{Name: name}, r); {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("%w: read reservation %s: %w", ipam.ErrUnavailable, name, err)
	case r.Spec.User == nil || r.Spec.User.Node != me.Node:
		return nil
	}
	if err := a.takeUseOver(ctx, me, r); err != nil {
		return err
	}
	used, err := a.reservedHere()
	if err != nil {
		return err
	}
	if _, ok := used[name]; ok {
		return nil
	}
	r.SetUser(nil)
	if err := a.cfg.Client.Update(ctx, r); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: end the use of reservation %s: %w", ipam.ErrUnavailable, name, err)
	}
	a.log.InfoContext(ctx, "a reservation is not used here any more", "reservation", name)
	return nil
}

// takeUseOver makes a use of an earlier life of the node this one's: the session is written first, so that no write of the earlier one
// can succeed, and what a live namespace has of the addresses is leased to it. A fresh store's session says nothing of the second: it
// may have been written without an answer, or by an agent that died then.
func (a *Agent) takeUseOver(ctx context.Context, me ipam.Owner, r *v1alpha1.IPReservation) error {
	u := *r.Spec.User
	before := u
	if u.Session, u.NodeUID = me.Session, me.NodeUID; u != before {
		r.SetUser(&u)
		if err := a.cfg.Client.Update(ctx, r); err != nil {
			return fmt.Errorf("%w: take over reservation %s: %w", ipam.ErrUnavailable, r.Name, err)
		}
	}
	if before.Session == me.Session && !a.fresh.Load() {
		return nil
	}
	addrs, err := r.Addrs()
	if err != nil {
		return err
	}
	inUse, err := a.cfg.inUse(ctx)
	if err != nil {
		return fmt.Errorf("look for the addresses of reservation %s: %w", r.Name, err)
	}
	return a.restoreUse(ctx, r, addrs, inUse)
}

// restoreUse leases to live namespaces what they have of the reservation's addresses.
func (a *Agent) restoreUse(ctx context.Context, r *v1alpha1.IPReservation, addrs []netip.Addr, inUse []found) error {
	a.leasing.Lock()
	defer a.leasing.Unlock()
	for _, f := range inUse {
		if !slices.Contains(addrs, f.addr) {
			continue
		}
		u := r.Spec.User
		l := ipam.Lease{
			Key: u.Key(r.Spec.Holder.Interface), Pool: r.Spec.Pool, NetNS: f.netns, Reservation: r.Name,
			Pod:       ipam.Pod{Namespace: r.Spec.Holder.Namespace, Name: u.Pod, UID: u.PodUID},
			Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(f.addr, f.addr.BitLen())}},
		}
		if err := a.store.RestoreReserved(l); err != nil {
			return fmt.Errorf("lease %s of reservation %s again: %w", f.addr, r.Name, err)
		}
		a.metrics.recovered.Inc()
		a.log.InfoContext(ctx, "address in use leased again", "address", f.addr, "reservation", r.Name, "netns", f.netns.Path)
	}
	return nil
}

// recoverReserved takes over, for a fresh store, the uses of the node's earlier life, before anything is leased.
func (a *Agent) recoverReserved(ctx context.Context, me ipam.Owner) error {
	var list v1alpha1.IPReservationList
	if err := a.cfg.Client.List(ctx, &list, client.MatchingLabels{v1alpha1.NodeLabel(me.Node): ""}); err != nil {
		return fmt.Errorf("%w: list the reservations of node %s: %w", ipam.ErrUnavailable, me.Node, err)
	}
	var errs []error
	for i := range list.Items {
		r := &list.Items[i]
		if r.Spec.User == nil || r.Spec.User.Node != me.Node {
			continue
		}
		if _, err := a.store.Pool(r.Spec.Pool); errors.Is(err, ipam.ErrPoolUnknown) {
			continue // nothing of it can be leased; once it is known, endUse takes over
		}
		errs = append(errs, a.takeUseOver(ctx, me, r))
	}
	return errors.Join(errs...)
}

// letGo frees what was picked for reservations that do not have it: their requests have ended.
func (a *Agent) letGo(ctx context.Context) error {
	leases, err := a.store.Leases()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range leases {
		if l.Key.Network != store.PickedNetwork {
			continue
		}
		unlock, err := a.reserving.lock(ctx, l.Key.ContainerID)
		if err != nil {
			return err
		}
		errs = append(errs, a.store.Release(ctx, l.Key))
		unlock()
		a.wake()
		a.freed()
	}
	return errors.Join(errs...)
}
