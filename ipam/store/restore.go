// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"net/netip"

	"github.com/railyard-net/railyard/ipam"
)

// Restore puts back a lease that was found alive on the node: its addresses become leased under its key, all or
// none of them. They need be granted, and free, cooling or reserved; otherwise the error is ipam.ErrTaken. A
// lease under the same key gains the addresses that it lacks, so an attachment may be restored in pieces, and
// more than once. Routes, gateways and prefix lengths are the pool's.
func (s *Store) Restore(l ipam.Lease) error {
	req := ipam.Request{Key: l.Key, Pool: l.Pool, NetNS: l.NetNS, Pod: l.Pod}
	if err := req.Validate(); err != nil {
		return err
	}
	if len(l.Addresses) == 0 {
		return &ipam.FieldError{Field: "addresses", Detail: "are none: a lease holds at least one"}
	}
	return s.update(func(t *tx) error {
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
		if !ok {
			rec = record{Lease: l}
			rec.Addresses, rec.Routes = nil, p.Routes
			if rec.Since.IsZero() {
				rec.Since = s.options.Wall().UTC().Round(0)
			}
		}
		if l.NetNS != (ipam.NetNS{}) {
			rec.NetNS = l.NetNS
		}
		for _, a := range l.Addresses {
			if err := t.restoreAddr(p, &rec, a.Prefix.Addr()); err != nil {
				return err
			}
		}
		return t.putLease(rec)
	})
}

func (t *tx) restoreAddr(p ipam.Pool, rec *record, a netip.Addr) error {
	if rec.holds(a) {
		return nil
	}
	h, _, err := t.holdingOf(p, a)
	if err != nil {
		return err
	}
	if !h.covers(a) {
		return fmt.Errorf("%w: %s is not this node's", ipam.ErrTaken, a)
	}
	was, ok, err := t.state(p.Name, a)
	if err != nil {
		return err
	}
	if ok && was.leased() {
		return fmt.Errorf("%w: %s is held by %q", ipam.ErrTaken, a, was.key)
	}
	return t.hold(p, rec, a)
}
