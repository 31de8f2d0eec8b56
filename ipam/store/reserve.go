// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// PickedNetwork is in the key of addresses that were picked for a reservation which is not made yet. It cannot be the name of a CNI network.
const PickedNetwork = "(picked)"

// PickedKey is the key under which they are leased.
func PickedKey(reservation string) ipam.Key {
	return ipam.Key{Network: PickedNetwork, ContainerID: reservation, IfName: "-"}
}

// StickyError is an ipam.ErrUnavailable: the pool has addresses that follow their holders from pod to pod, and only an agent can say
// whether the request is for one of these.
type StickyError struct {
	Pool string
	// Pending: it is, and what was begun for it has not been acknowledged by the API server.
	Pending bool
}

func (e *StickyError) Error() string {
	if e.Pending {
		return fmt.Sprintf("%v: the API server has not acknowledged yet that an address of pool %s is reserved", ipam.ErrUnavailable, e.Pool)
	}
	return fmt.Sprintf("%v: pool %s has sticky addresses, and the node's agent, which must say whether this is one, is away", ipam.ErrUnavailable, e.Pool)
}

// Unwrap makes every StickyError an ipam.ErrUnavailable.
func (e *StickyError) Unwrap() error { return ipam.ErrUnavailable }

// LeaseReserved leases the addresses of a reservation, which no holding has: the API says that they are nobody's, and that this
// node may lease them. What the node holds of them, free or picked for the reservation, leaves the holding for good, in the same
// transaction. The lease is pending: until Confirm nobody else is answered with it. A key that has that lease already keeps it.
// ErrTaken: another key has one of the addresses.
func (s *Store) LeaseReserved(ctx context.Context, req ipam.Request, reservation string, addrs []netip.Addr) error {
	if err := orDone(ctx, req.Validate()); err != nil {
		return err
	}
	return s.update(func(t *tx) error {
		p, err := t.pool(req.Pool)
		if err != nil {
			return err
		}
		rec, ok, err := t.lease(leaseKey(req.Key))
		switch {
		case err != nil:
			return err
		case ok && rec.Pending && rec.Reservation == reservation: // begun before, perhaps with other addresses
			if err := t.drop(leaseKey(req.Key), rec); err != nil {
				return err
			}
		case ok:
			return &ipam.FieldError{Field: "key", Detail: fmt.Sprintf("holds %s already: release it first", addresses(rec.Lease))}
		}
		rec = record{Pending: true, Lease: ipam.Lease{
			Key: req.Key, Pool: p.Name, Routes: p.Routes, NetNS: req.NetNS, Pod: req.Pod, Since: t.s.options.Wall().UTC().Round(0),
			Probe: p.DetectConflicts, Reservation: reservation,
		}}
		for _, a := range addrs {
			if err := t.withdrawFor(p, reservation, a); err != nil {
				return err
			}
			if err := t.hold(p, &rec, a); err != nil {
				return err
			}
		}
		if err := t.letGo(leaseKey(PickedKey(reservation)), addrs); err != nil {
			return err
		}
		return t.putLease(rec)
	})
}

// letGo ends the lease of what was picked; what of it is not among those taken is free again.
func (t *tx) letGo(picked []byte, taken []netip.Addr) error {
	was, ok, err := t.lease(picked)
	if err != nil || !ok {
		return err
	}
	for _, x := range was.Addresses {
		if a := x.Prefix.Addr(); !slices.Contains(taken, a) {
			if err := t.giveBack(was.Pool, a, picked); err != nil {
				return err
			}
		}
	}
	return t.leases.Delete(picked)
}

// withdrawFor takes a out of the holding that has it.
func (t *tx) withdrawFor(p ipam.Pool, reservation string, a netip.Addr) error {
	if _, ok := p.Subnet(a); !ok {
		return &ipam.FieldError{Field: "addresses", Detail: fmt.Sprintf("%s is in no subnet of pool %s", a, p.Name)}
	}
	was, ok, err := t.state(p.Name, a)
	if err != nil {
		return err
	}
	if ok && was.leased() && string(was.key) != string(leaseKey(PickedKey(reservation))) {
		return fmt.Errorf("%w: %s is held by %q", ipam.ErrTaken, a, was.key)
	}
	h, held, err := t.holdingOf(p, a)
	if err != nil || !held { // a retired one, too: its numbers are to add up
		return err
	}
	h.Ranges = minus(h.Ranges, []iprange.Range{iprange.Of(a)})
	t.dirty[h.Block] = true
	return t.putHolding(h)
}

// Confirm makes a pending lease one like others, and gives it.
func (s *Store) Confirm(k ipam.Key, reservation string) (l ipam.Lease, err error) {
	err = s.update(func(t *tx) error {
		rec, ok, err := t.lease(leaseKey(k))
		switch {
		case err != nil:
			return err
		case !ok || rec.Reservation != reservation:
			return notFound(k)
		}
		rec.Pending = false
		l = rec.Lease
		return t.putLease(rec)
	})
	if err != nil {
		return ipam.Lease{}, err
	}
	return l, nil
}

// State says which reservation's addresses the key has, empty if none's, and whether they are pending. ErrNotFound: the key has nothing.
func (s *Store) State(k ipam.Key) (reservation string, pending bool, err error) {
	err = s.view(func(t *tx) error {
		rec, ok, err := t.lease(leaseKey(k))
		if err == nil && !ok {
			err = notFound(k)
		}
		reservation, pending = rec.Reservation, rec.Pending
		return err
	})
	return reservation, pending, err
}

// RestoreReserved puts back a lease of a reservation that was found alive on the node, as Restore does with others.
func (s *Store) RestoreReserved(l ipam.Lease) error {
	if err := checkRestore(l); err != nil {
		return err
	}
	return s.update(func(t *tx) error {
		err := t.restore(l)
		if errors.Is(err, ipam.ErrInvalid) {
			l.Key = RecoveredKey(l)
			err = t.restore(l)
		}
		return err
	})
}

// ReservedIn are the addresses of the block's slot that are leased for reservations.
func (s *Store) ReservedIn(h Holding) (out []netip.Addr, err error) {
	err = s.view(func(t *tx) error { out, err = t.reservedIn(h); return err })
	return out, err
}

func (t *tx) reservedIn(h Holding) (out []netip.Addr, err error) {
	err = t.eachAddr(h.Pool, h.Slot, func(a netip.Addr, s addrState) error {
		is, err := t.isReserved(s)
		if is {
			out = append(out, a)
		}
		return err
	})
	return out, err
}

// isReserved says whether an address of that state is leased for a reservation.
func (t *tx) isReserved(s addrState) (bool, error) {
	if !s.leased() {
		return false, nil
	}
	rec, _, err := t.lease(s.key)
	return rec.Reservation != "", err
}

// withoutReserved is h without what is leased for reservations: that is nobody's to lease otherwise, whatever a share still says.
func (t *tx) withoutReserved(h Holding) (Holding, error) {
	reserved, err := t.reservedIn(h)
	if err != nil || len(reserved) == 0 {
		return h, err
	}
	var gone []iprange.Range
	for _, a := range reserved {
		gone = append(gone, iprange.Of(a))
	}
	h.Ranges = slices.Clone(minus(h.Ranges, gone))
	return h, nil
}
