// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

// A key that is remembered of another namespace is free for a request in a pool with sticky addresses too, although the agent, and not
// the store, decides what it gets: what the namespace has stays its own, so that the reservation counts as used by another.
func TestReservedKeyIsHearsay(t *testing.T) {
	s, _, _ := standard(t, func(p *ipam.PoolSpec) { p.Sticky.StatefulSets = true })
	addr, reservation := mustAddr("10.20.0.7"), "rail0.x"
	a, b := ipam.NetNS{Path: "/run/netns/a", Ino: 1}, ipam.NetNS{Path: "/run/netns/b", Ino: 2}
	was := ipam.Lease{
		Key: key(1), Pool: "rail0", NetNS: a, Reservation: reservation, Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(addr, 32)}},
	}
	if err := s.RestoreReserved(was); err != nil {
		t.Fatal(err)
	}
	req := request(1)
	req.NetNS = b
	if _, err := s.Lease(background, req); !isStickyError(err) {
		t.Fatalf("Lease: %v, want a *StickyError", err)
	}
	if _, _, err := s.State(key(1)); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("the key still has a lease: %v", err)
	}
	if err := s.LeaseReserved(background, req, reservation, []netip.Addr{addr}); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("what lives in %s is leased to %s: %v", a.Path, b.Path, err)
	}
	all, err := s.Leases()
	if err != nil || len(all) != 1 || all[0].NetNS != a || all[0].Reservation != reservation {
		t.Errorf("leases %v, %v; want that of %s alone", all, err, a.Path)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

func isStickyError(err error) bool {
	_, ok := errors.AsType[*StickyError](err)
	return ok
}
