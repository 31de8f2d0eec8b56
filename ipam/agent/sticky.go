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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/store"
)

const (
	// stickyPause is the time between two looks at a reservation that another pod uses.
	stickyPause = 200 * time.Millisecond
	// stickyTries is how often a reservation is read and written, or gets other addresses, before the request gives up.
	stickyTries = 6
)

// errInUse: another pod has the reservation's addresses.
var errInUse = fmt.Errorf("%w: the addresses are in use", ipam.ErrTaken)

// leaseSticky leases from a pool with sticky addresses: those of a reservation where the pod's addresses follow somebody, else any.
func (a *Agent) leaseSticky(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	p, err := a.store.Pool(req.Pool)
	if err != nil {
		return ipam.Lease{}, err
	}
	w, err := a.wishOf(ctx, req, p.Sticky)
	switch {
	case err != nil:
		return ipam.Lease{}, err
	case w == nil:
		req.Settled = true
		return a.lease(ctx, req)
	}
	name := v1alpha1.ReservationName(p.Name, w.holder)
	unlock, err := a.reserving.lock(ctx, name)
	if err != nil {
		return ipam.Lease{}, err
	}
	defer unlock()
	for began := time.Now(); ; {
		l, err := a.leaseReserved(ctx, req, p, *w)
		if !errors.Is(err, errInUse) || time.Since(began) > a.cfg.CedeWait {
			return l, err
		}
		pause := time.NewTimer(stickyPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return l, err
		case <-a.ending:
			pause.Stop()
			return l, err
		}
	}
}

// leaseReserved binds the reservation to the request, sees to it that its addresses are nobody else's, and leases them.
func (a *Agent) leaseReserved(ctx context.Context, req ipam.Request, p ipam.Pool, w wish) (ipam.Lease, error) {
	r, err := a.bind(ctx, req, p, w)
	if err != nil {
		return ipam.Lease{}, err
	}
	for range stickyTries {
		err = a.occupy(ctx, req, p, r)
		if err == nil {
			return a.store.Confirm(req.Key, r.Name)
		}
		if !errors.Is(err, ipam.ErrTaken) || len(w.static) > 0 {
			return ipam.Lease{}, err
		}
		if err := a.pickOthers(ctx, req, p, r, err); err != nil {
			return ipam.Lease{}, err
		}
	}
	return ipam.Lease{}, fmt.Errorf("%w: for reservation %s others took every address that was picked: %w", ipam.ErrUnavailable, r.Name, err)
}

// bind makes the request's attachment the user of the reservation, by a write that was acknowledged; it makes the reservation if
// there is none, with addresses that this node has free. That every bind is a write, of another time, is what makes a late one that
// ended the use before fail.
func (a *Agent) bind(ctx context.Context, req ipam.Request, p ipam.Pool, w wish) (*v1alpha1.IPReservation, error) {
	me, err := a.owner(ctx)
	if err != nil {
		return nil, err
	}
	name := v1alpha1.ReservationName(p.Name, w.holder)
	u := &v1alpha1.ReservationUser{
		Node: me.Node, NodeUID: me.NodeUID, Session: me.Session, Network: req.Key.Network, ContainerID: req.Key.ContainerID,
		Pod: req.Pod.Name, PodUID: req.Pod.UID, Since: metav1.NewMicroTime(time.Now().Truncate(time.Microsecond)),
	}
	var last error
	for range stickyTries {
		r := &v1alpha1.IPReservation{}
		err := a.cfg.Client.Get(ctx, client.ObjectKey{Name: name}, r)
		switch {
		case apierrors.IsNotFound(err):
			r, err = a.reserve(ctx, req, p, w, u)
		case err == nil && sameUse(r.Spec.User, u):
			return r, nil // written, and the answer was lost
		case err == nil:
			if err := a.mayUse(r, req, p, w); err != nil {
				return nil, err
			}
			r.SetUser(u)
			err = a.write(func() error { return a.cfg.Client.Update(ctx, r) })
		}
		if err == nil {
			return r, nil
		}
		if last = err; isIPAM(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			break
		}
	}
	if isIPAM(last) {
		return nil, last
	}
	return nil, fmt.Errorf("%w: reserve the addresses of %s: %w", ipam.ErrUnavailable, w.holder, last)
}

// write holds up the end of Run for one request.
func (a *Agent) write(do func() error) error {
	done, err := a.mayClaim()
	if err != nil {
		return err
	}
	defer done()
	return do()
}

func sameUse(a, b *v1alpha1.ReservationUser) bool {
	return a != nil && a.Node == b.Node && a.Session == b.Session && a.ContainerID == b.ContainerID && a.Since.Equal(&b.Since)
}

func isIPAM(err error) bool {
	return slices.ContainsFunc([]error{ipam.ErrInvalid, ipam.ErrPoolUnknown, ipam.ErrPoolClosed, ipam.ErrPoolFull, ipam.ErrTaken, ipam.ErrUnavailable},
		func(is error) bool { return errors.Is(err, is) })
}

// mayUse refuses a reservation that is another pod's now, or going.
func (a *Agent) mayUse(r *v1alpha1.IPReservation, req ipam.Request, p ipam.Pool, w wish) error {
	switch {
	case r.Spec.PoolUID != p.UID:
		return fmt.Errorf("%w: %s is of an earlier pool of its name: it goes when its last user does", ipam.ErrPoolClosed, r.Name)
	case r.DeletionTimestamp != nil:
		return fmt.Errorf("%w: %s is being given up", ipam.ErrUnavailable, r.Name)
	}
	has, err := r.Addrs()
	if err != nil {
		return err
	}
	for i, s := range w.static {
		if !slices.Contains(has, s) {
			return &ipam.FieldError{Field: fmt.Sprintf("ips[%d]", i), Detail: fmt.Sprintf("%s asked for, but %s has %v: delete IPReservation %s to have others", s, w.holder, has, r.Name)}
		}
	}
	u := r.Spec.User
	if u == nil {
		return nil
	}
	inUse := fmt.Errorf("%w: %s has %v in pod %s on node %s: this pod can have them when that one is gone", errInUse, w.holder, has, u.Pod, u.Node)
	if u.Node != a.cfg.Node {
		return inUse
	}
	users, err := a.reservedHere()
	if err != nil {
		return err
	}
	if k, used := users[r.Name]; used && k != req.Key {
		return inUse
	}
	return nil // it was this node's, and the store knows that it has ended
}

// reservedHere are the keys that lease addresses of reservations, by reservation.
func (a *Agent) reservedHere() (map[string]ipam.Key, error) {
	leases, err := a.store.Leases()
	if err != nil {
		return nil, err
	}
	out := map[string]ipam.Key{}
	for _, l := range leases {
		if l.Reservation != "" {
			out[l.Reservation] = l.Key
		}
	}
	return out, nil
}

// reserve picks addresses and makes the reservation.
func (a *Agent) reserve(ctx context.Context, req ipam.Request, p ipam.Pool, w wish, u *v1alpha1.ReservationUser) (*v1alpha1.IPReservation, error) {
	if p.Closed != "" {
		return nil, fmt.Errorf("%w: %s: %s", ipam.ErrPoolClosed, p.Name, p.Closed)
	}
	name := v1alpha1.ReservationName(p.Name, w.holder)
	picked, err := a.pick(ctx, req, name, w.static)
	if err != nil {
		return nil, err
	}
	r := v1alpha1.NewReservation(p, w.holder, picked, u)
	err = a.write(func() error { return a.cfg.Client.Create(ctx, r) })
	if apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) { // it will not be made with these
		err = errors.Join(err, a.store.Release(ctx, store.PickedKey(name)))
	}
	if err == nil {
		a.log.InfoContext(ctx, "addresses reserved", "reservation", name, "holder", w.holder.String(), "addresses", picked)
	}
	return r, err
}

// pick leases addresses of the node's own for a reservation that does not have them yet. Until it has, or they are let go, nobody
// else gets them.
func (a *Agent) pick(ctx context.Context, req ipam.Request, reservation string, static []netip.Addr) ([]netip.Addr, error) {
	pick := ipam.Request{Key: store.PickedKey(reservation), Pool: req.Pool, Static: static, Pod: req.Pod, Settled: true}
	defer a.picked.Store(true) // not before: a look of endUses in between would find nothing, and take it back
	l, err := a.lease(ctx, pick)
	if errors.Is(err, ipam.ErrInvalid) { // what was picked before for another wish
		if err := a.store.Release(ctx, pick.Key); err != nil {
			return nil, err
		}
		l, err = a.lease(ctx, pick)
	}
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, x := range l.Addresses {
		out = append(out, x.Prefix.Addr())
	}
	return out, nil
}

// occupy leases the reservation's addresses to the request, and has the API server acknowledge that they are the reservation's. They
// leave the node's holdings before the first write, and never come back by a read.
func (a *Agent) occupy(ctx context.Context, req ipam.Request, p ipam.Pool, r *v1alpha1.IPReservation) error {
	addrs, err := r.Addrs()
	if err != nil {
		return err
	}
	me, err := a.owner(ctx)
	if err != nil {
		return err
	}
	done, err := a.mayClaim()
	if err != nil {
		return err
	}
	defer done()
	unlock, err := a.pools.lock(ctx, p.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.leaseNow(ctx, req, r.Name, addrs); err != nil {
		return err
	}
	for _, addr := range addrs {
		sub, ok := p.Subnet(addr)
		if !ok {
			return fmt.Errorf("%w: %s of %s is in no subnet of pool %s", ipam.ErrTaken, addr, r.Name, p.Name)
		}
		slot := sub.Slot(addr)
		b := ipam.Block{Name: ipam.BlockName(p.Name, slot), Pool: p.Name, PoolUID: p.UID, Slot: slot}
		if err := a.claims.Reserve(ctx, me, b, r.Hold(), addr); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) leaseNow(ctx context.Context, req ipam.Request, reservation string, addrs []netip.Addr) error {
	if a.fresh.Load() && !a.awaits(ctx, a.ready) {
		return fmt.Errorf("%w: the lease store of node %s is new", ipam.ErrUnavailable, a.cfg.Node)
	}
	a.leasing.RLock()
	defer a.leasing.RUnlock()
	return a.store.LeaseReserved(ctx, req, reservation, addrs)
}

// pickOthers gives the reservation other addresses, because those that it has are somebody else's: it never had them, as where an agent
// died before it could take them out of its share, or they were taken from it by hand.
func (a *Agent) pickOthers(ctx context.Context, req ipam.Request, p ipam.Pool, r *v1alpha1.IPReservation, why error) error {
	if err := a.store.Release(ctx, req.Key); err != nil {
		return err
	}
	a.wake() // what was withdrawn for nothing goes back
	if p.Closed != "" {
		return fmt.Errorf("%w: %s: %s", ipam.ErrPoolClosed, p.Name, p.Closed)
	}
	picked, err := a.pick(ctx, req, r.Name, nil)
	if err != nil {
		return err
	}
	a.log.WarnContext(ctx, "a reservation gets other addresses, those it named are not its own", "reservation", r.Name, "had", r.Spec.Addresses, "gets", picked, "why", why)
	u := r.Spec.User
	for range stickyTries {
		r.SetAddrs(picked)
		err = a.write(func() error { return a.cfg.Client.Update(ctx, r) })
		if err == nil {
			return nil
		}
		if got := a.cfg.Client.Get(ctx, client.ObjectKey{Name: r.Name}, r); got != nil {
			err = got
			continue
		}
		if !sameUse(r.Spec.User, u) {
			return fmt.Errorf("%w: reservation %s is another's by now", ipam.ErrUnavailable, r.Name)
		}
	}
	return fmt.Errorf("%w: write reservation %s: %w", ipam.ErrUnavailable, r.Name, err)
}
