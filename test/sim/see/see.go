// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package see puts what a store and the API say into the words of package check. It copies, and decides nothing.
package see

import (
	"fmt"
	"net/netip"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/sim/check"
)

// Block is an object as check sees it.
func Block(b *v1alpha1.IPBlock) check.Block {
	out := check.Block{Name: b.Name, Pool: b.Spec.Pool, Slot: b.Spec.Slot}
	for _, s := range b.Spec.Shares {
		out.Shares = append(out.Shares, check.Share{Node: s.Node, UID: s.NodeUID, Session: s.Session, Ranges: s.Ranges})
	}
	return out
}

// Node is what the open store of a node says.
func Node(name string, s *store.Store) (check.Node, error) {
	out := check.Node{Name: name, Session: s.Session(), Fresh: s.Fresh()}
	leases, err := s.Leases()
	if err != nil {
		return out, err
	}
	for _, l := range leases {
		x := check.Lease{Key: fmt.Sprint(l.Key), NetNS: l.NetNS.Ino, Reservation: l.Reservation}
		if l.Reservation != "" {
			if _, x.Pending, err = s.State(l.Key); err != nil {
				return out, err
			}
		}
		for _, a := range l.Addresses {
			x.Addrs = append(x.Addrs, a.Prefix.Addr())
		}
		out.Leases = append(out.Leases, x)
	}
	holdings, err := s.Holdings()
	if err != nil {
		return out, err
	}
	for _, h := range holdings {
		x := check.Holding{Block: h.Block, Ranges: Ranges(h.Ranges), Retired: h.Retired}
		pool, err := s.Pool(h.Pool)
		if err != nil {
			return out, err
		}
		for _, sub := range pool.Subnets {
			x.Leasable = append(x.Leasable, Ranges(sub.Leasable)...)
		}
		held, free, cooling, err := s.BlockLeases(h.Block)
		if err != nil {
			return out, err
		}
		x.Leased, x.Free, x.Cooling = len(held), free, cooling
		out.Holdings = append(out.Holdings, x)
	}
	return out, nil
}

// Ranges are in, as check has them.
func Ranges(in []iprange.Range) []check.Range {
	var out []check.Range
	for _, r := range in {
		out = append(out, check.Range{From: r.From(), To: r.To()})
	}
	return out
}

// Each calls do for every address of r.
func Each(r check.Range, do func(netip.Addr)) {
	for a := r.From; r.Contains(a); a = a.Next() {
		do(a)
	}
}
