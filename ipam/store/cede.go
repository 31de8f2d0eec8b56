// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam/iprange"
)

// WithdrawFree makes up to n free addresses of the block unleasable at once and takes them out of the holding, as
// Withdraw does with given ones, and says which. They are rested ones, in runs as long as can be had and from the upper
// ends of these, since leases come from the lower. Where none is rested, and cooling is true, they are those that have
// cooled longest.
func (s *Store) WithdrawFree(block string, n int, cooling bool) (out []iprange.Range, err error) {
	err = s.update(func(t *tx) error {
		h, ok, err := t.holding(block)
		if err != nil || !ok || h.Retired {
			return err
		}
		p, err := t.pool(h.Pool)
		if err != nil {
			return err
		}
		var rested, cools []freeAddr
		if err := t.eachAddr(h.Pool, h.Slot, func(a netip.Addr, s addrState) error {
			switch {
			case s.leased():
			case s.cools(t.now, p.Cooldown):
				cools = append(cools, freeAddr{a, s.released})
			default:
				rested = append(rested, freeAddr{a, s.released})
			}
			return nil
		}); err != nil {
			return err
		}
		switch {
		case len(rested) > 0:
			out = inRuns(rested, n)
		case cooling:
			out = oldest(cools, n)
		}
		if len(out) == 0 {
			return nil
		}
		h.Ranges = minus(h.Ranges, out)
		if err := t.putHolding(h); err != nil {
			return err
		}
		return t.queueBlock(p, h, 0)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// freeAddr is an address in the queue.
type freeAddr struct {
	netip.Addr
	released time.Duration
}

// inRuns chooses n of free, which ascend: of the shortest run that has as many the upper end, or else the longest run,
// and then of the others.
func inRuns(free []freeAddr, n int) []iprange.Range {
	var runs [][]netip.Addr
	for _, a := range free {
		if k := len(runs) - 1; k >= 0 && runs[k][len(runs[k])-1].Next() == a.Addr {
			runs[k] = append(runs[k], a.Addr)
		} else {
			runs = append(runs, []netip.Addr{a.Addr})
		}
	}
	slices.SortStableFunc(runs, func(a, b []netip.Addr) int { return cmp.Compare(len(a), len(b)) })
	var out []iprange.Range
	for n > 0 && len(runs) > 0 {
		i := slices.IndexFunc(runs, func(r []netip.Addr) bool { return len(r) >= n })
		if i < 0 {
			i = len(runs) - 1
		}
		take := runs[i][max(0, len(runs[i])-n):]
		for _, a := range take {
			out = append(out, iprange.Of(a))
		}
		n -= len(take)
		runs = slices.Delete(runs, i, i+1)
	}
	return iprange.Ranges(iprange.Set(out...))
}

// oldest chooses the n of free that were released first.
func oldest(free []freeAddr, n int) []iprange.Range {
	slices.SortStableFunc(free, func(a, b freeAddr) int { return cmp.Compare(a.released, b.released) })
	var out []iprange.Range
	for _, a := range free[:min(n, len(free))] {
		out = append(out, iprange.Of(a.Addr))
	}
	return iprange.Ranges(iprange.Set(out...))
}

func minus(from, without []iprange.Range) []iprange.Range {
	var left netipx.IPSetBuilder
	left.AddSet(iprange.Set(from...))
	left.RemoveSet(iprange.Set(without...))
	set, _ := left.IPSet() // ranges of a Range cannot be invalid
	return iprange.Ranges(set)
}
