// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/railyard-net/railyard/ipam"
)

// recoveredNetwork cannot be the name of a CNI network.
const recoveredNetwork = "(recovered)"

// RecoveredKey is the key of l if nobody remembers its attachment: only the namespace ends it.
func RecoveredKey(l ipam.Lease) ipam.Key {
	id := "netns-" + strconv.FormatUint(l.NetNS.Ino, 10) + "." + l.Pool
	return ipam.Key{Network: recoveredNetwork, ContainerID: id, IfName: l.Key.IfName}
}

func sameNetNS(a, b ipam.NetNS) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// Restore puts back a lease that was found alive on the node: its addresses become leased under its key, all or
// none of them. They need be granted, and free, cooling or reserved; otherwise the error is ipam.ErrTaken. A
// lease under the same key gains the addresses that it lacks, so an attachment may be restored in pieces, and
// more than once. Routes, gateways and prefix lengths are the pool's.
//
// A key other than RecoveredKey is hearsay: the namespace may be another attachment's by now. So until Lease under
// that key names the same namespace, releasing it leaves the addresses to the namespace, under RecoveredKey, and
// leasing under it for another namespace gives others.
func (s *Store) Restore(l ipam.Lease) error {
	if err := checkRestore(l); err != nil {
		return err
	}
	return s.update(func(t *tx) error { return t.restore(l) })
}

func checkRestore(l ipam.Lease) error {
	req := ipam.Request{Key: l.Key, Pool: l.Pool, NetNS: l.NetNS, Pod: l.Pod}
	if err := req.Validate(); err != nil {
		return err
	}
	if len(l.Addresses) == 0 {
		return &ipam.FieldError{Field: "addresses", Detail: "are none: a lease holds at least one"}
	}
	return nil
}

func (t *tx) restore(l ipam.Lease) error {
	p, err := t.pool(l.Pool)
	if err != nil {
		return err
	}
	rec, ok, err := t.lease(leaseKey(l.Key))
	if err != nil {
		return err
	}
	if ok && rec.Pool != l.Pool {
		return &ipam.FieldError{Field: "pool", Detail: fmt.Sprintf("%s, but the key holds a lease of %s", l.Pool, rec.Pool)}
	}
	if ok && !sameNetNS(rec.NetNS, l.NetNS) {
		return &ipam.FieldError{Field: "netns", Detail: fmt.Sprintf("is %s, but the key holds a lease of %s", l.NetNS.Path, rec.NetNS.Path)}
	}
	if !ok {
		rec = record{Lease: l, Hearsay: l.NetNS != (ipam.NetNS{}) && l.Key != RecoveredKey(l)}
		rec.Addresses, rec.Routes = nil, p.Routes
		if rec.Since.IsZero() {
			rec.Since = t.s.options.Wall().UTC().Round(0)
		}
	}
	for _, a := range l.Addresses {
		if err := t.restoreAddr(p, &rec, a.Prefix.Addr()); err != nil {
			return err
		}
	}
	return t.putLease(rec)
}

func (t *tx) restoreAddr(p ipam.Pool, rec *record, a netip.Addr) error {
	if rec.holds(a) {
		return nil
	}
	h, _, err := t.holdingOf(p, a)
	if err != nil {
		return err
	}
	if !h.covers(a) && rec.Reservation == "" {
		return fmt.Errorf("%w: %s is not this node's", ipam.ErrTaken, a)
	}
	was, ok, err := t.state(p.Name, a)
	if err != nil {
		return err
	}
	if ok && was.leased() {
		return fmt.Errorf("%w: %s is held by %q", ipam.ErrTaken, a, was.key)
	}
	if rec.Reservation != "" {
		if err := t.withdrawFor(p, rec.Reservation, a); err != nil {
			return err
		}
	}
	return t.hold(p, rec, a)
}

// disown leaves a lease whose key was hearsay to its namespace.
func (t *tx) disown(rec record) error {
	p, err := t.pool(rec.Pool)
	if err != nil {
		return err
	}
	if err := t.leases.Delete(leaseKey(rec.Key)); err != nil {
		return err
	}
	rec.Key, rec.Hearsay = RecoveredKey(rec.Lease), false
	key := leaseKey(rec.Key)
	for _, x := range rec.Addresses {
		if err := t.addrs.Put(addrKey(rec.Pool, x.Prefix.Addr()), addrState{key: key}.encode()); err != nil {
			return err
		}
		t.touch(p, x.Prefix.Addr())
	}
	more, _, err := t.lease(key)
	if err != nil {
		return err
	}
	rec.Addresses = append(rec.Addresses, more.Addresses...)
	slices.SortFunc(rec.Addresses, func(x, y ipam.Address) int { return x.Prefix.Addr().Compare(y.Prefix.Addr()) })
	return t.putLease(rec)
}
