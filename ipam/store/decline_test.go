// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"slices"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

func TestDecline(t *testing.T) {
	s, c, _ := standard(t, func(p *ipam.PoolSpec) { p.DetectConflicts = true })
	l, err := s.Lease(background, request(1))
	if err != nil || !l.Probe {
		t.Fatalf("%+v %v", l, err)
	}
	foreign := ipam.Conflict{Address: mustAddr("10.20.0.2"), Neighbour: "02:00:00:00:00:01"}
	if err := s.Decline(background, key(1), ipam.Conflict{Address: mustAddr("10.20.0.3")}); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("an address of another's: %v", err)
	}
	if err := s.Decline(background, key(1), ipam.Conflict{}); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("no address: %v", err)
	}
	if err := s.Decline(background, key(1), foreign); err != nil {
		t.Fatal(err)
	}
	if err := s.Decline(background, key(1), foreign); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("once more: %v", err)
	}
	c.advance(1 << 40) // all has cooled
	seen := map[string]bool{}
	for i := 1; ; i++ {
		l, err := s.LeaseReusing(background, request(i))
		if errors.Is(err, ipam.ErrPoolFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs(l) {
			seen[a] = true
		}
	}
	if seen["10.20.0.2"] || len(seen) != 26 { // 13 of each family: the reserved ones are had by name only
		t.Errorf("leased %v", seen)
	}
	held, err := s.Lookup(background, ipam.ConflictKey("rail0", foreign))
	if err != nil || !slices.Equal(addrs(held), []string{"10.20.0.2"}) || held.NetNS != (ipam.NetNS{}) {
		t.Errorf("held back: %+v %v", held, err)
	}
	if err := s.Release(background, held.Key); err != nil {
		t.Fatal(err)
	}
	c.advance(1 << 40)
	if err := s.Release(background, key(1)); err != nil {
		t.Fatal(err)
	}
	if l, err = s.Lease(background, request(99)); err != nil || addrs(l)[0] != "10.20.0.2" {
		t.Errorf("after its time: %v %v", addrs(l), err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}
