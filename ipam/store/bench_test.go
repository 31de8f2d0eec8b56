// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"path/filepath"
	"testing"

	"github.com/railyard-net/railyard/ipam"
)

func benchPool(b *testing.B) ipam.Pool {
	return testPool(b, func(s *ipam.PoolSpec) {
		s.IPv4 = &ipam.SubnetSpec{Subnet: "10.0.0.0/8", BlockSize: 4096}
		s.IPv6 = &ipam.SubnetSpec{Subnet: "fd00:20::/64", BlockSize: 4096}
	})
}

// BenchmarkLeaseRelease is one ADD and one DEL on a node that has so many leases already.
func BenchmarkLeaseRelease(b *testing.B) {
	for name, have := range map[string]int{"empty": 0, "10000": 10000} {
		b.Run(name, func(b *testing.B) {
			s := newStore(b, newClock())
			p := benchPool(b)
			setPool(b, s, p)
			grant(b, s, p, "10.0.0.0", "10.0.16.0", "10.0.32.0", "fd00:20::", "fd00:20::1000", "fd00:20::2000")
			for i := range have {
				if _, err := s.Lease(background, request(i)); err != nil {
					b.Fatal(err)
				}
			}
			for i := 0; b.Loop(); i++ {
				r := request(have + i)
				if _, err := s.LeaseReusing(background, r); err != nil {
					b.Fatal(err)
				}
				if err := s.Release(background, r.Key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDirect is what a CNI process does while the agent is down: open, lease, close.
func BenchmarkDirect(b *testing.B) {
	path, c := filepath.Join(b.TempDir(), "ipam.db"), newClock()
	s := mustOpen(b, path, c.options())
	p := benchPool(b)
	setPool(b, s, p)
	grant(b, s, p, "10.0.0.0", "10.0.16.0", "10.0.32.0", "fd00:20::", "fd00:20::1000", "fd00:20::2000")
	for i := range 10000 {
		if _, err := s.Lease(background, request(i)); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	o := c.options()
	o.MustExist = true
	for i := 0; b.Loop(); i++ {
		s := mustOpen(b, path, o)
		r := request(20000 + i)
		if _, err := s.LeaseReusing(background, r); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(background, r.Key); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
