// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// tally is the figures of one family of a pool.
type tally struct{ capacity, owned, leased, draining uint64 }

// count makes the status' figures of a pool from its blocks. Blocks that cannot be read count as blocks only.
func count(pool ipam.Pool, objects []v1alpha1.IPBlock, into *v1alpha1.IPPoolStatus) {
	var v4, v6 *tally
	of := func(a netip.Addr) *tally {
		if a.Is4() {
			return v4
		}
		return v6
	}
	for _, s := range pool.Subnets {
		t := &tally{capacity: add(sum(s.Leasable), sum(s.Reserved))}
		if s.Is4() {
			v4 = t
		} else {
			v6 = t
		}
	}
	into.Blocks = 0
	nodes := map[string]bool{}
	for i := range objects {
		into.Blocks++
		b, err := objects[i].Block()
		if err != nil {
			continue
		}
		t := of(b.Slot.Addr())
		if t == nil {
			continue
		}
		sub, _ := pool.Subnet(b.Slot.Addr())
		used := iprange.Set(slices.Concat(sub.LeasableIn(b.Slot), sub.ReservedIn(b.Slot))...)
		for _, s := range b.Shares {
			t.owned += sum(s.Ranges)
			var left netipx.IPSetBuilder
			left.AddSet(iprange.Set(s.Ranges...))
			left.RemoveSet(used)
			set, _ := left.IPSet() // made of sets, which are valid
			t.draining += sum(iprange.Ranges(set))
			if _, held := s.Held(); !held {
				nodes[s.Node] = true
			}
		}
		t.leased += uint64(max(0, objects[i].Status.Leased))
	}
	into.Nodes = int32(len(nodes))
	both := func(figure func(*tally) uint64) string {
		var out []string
		for _, t := range []*tally{v4, v6} {
			if t != nil {
				out = append(out, short(figure(t)))
			}
		}
		return strings.Join(out, "/")
	}
	into.Capacity = both(func(t *tally) uint64 { return t.capacity })
	into.Owned = both(func(t *tally) uint64 { return t.owned })
	into.Leased = both(func(t *tally) uint64 { return t.leased })
	into.Draining = both(func(t *tally) uint64 { return t.draining })
	if strings.Trim(into.Draining, "0/") == "" {
		into.Draining = ""
	}
}

// sum is how many addresses ranges hold, at most 2^64-1.
func sum(ranges []iprange.Range) uint64 {
	var n uint64
	for _, r := range ranges {
		f, t := r.From().As16(), r.To().As16()
		lo, borrow := bits.Sub64(binary.BigEndian.Uint64(t[8:]), binary.BigEndian.Uint64(f[8:]), 0)
		hi, _ := bits.Sub64(binary.BigEndian.Uint64(t[:8]), binary.BigEndian.Uint64(f[:8]), borrow)
		if hi > 0 {
			return 1<<64 - 1
		}
		n = add(add(n, lo), 1)
	}
	return n
}

func add(a, b uint64) uint64 {
	s, carry := bits.Add64(a, b, 0)
	if carry > 0 {
		return 1<<64 - 1
	}
	return s
}

// short is n, or the power of two that it is about where nobody would read the digits.
func short(n uint64) string {
	if n < 1<<53 {
		return fmt.Sprint(n)
	}
	k := bits.Len64(n)
	if n < 3<<(k-2) {
		k--
	}
	return fmt.Sprintf("~2^%d", k)
}
