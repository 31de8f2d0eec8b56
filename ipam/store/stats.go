// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/ipam"
)

// PoolStats counts the addresses of one family of a pool on this node. Reserved addresses count while leased.
type PoolStats struct {
	Pool string
	Is4  bool
	// Leased, Free (cooled down or never used) and Cooling add up to what the node holds of the family, but for
	// granted addresses that the pool reserves or excludes.
	Leased, Free, Cooling int
	// Blocks are those held, retired ones included.
	Blocks int
}

// Stats counts every family of every pool, by pool, IPv4 first.
func (s *Store) Stats() (out []PoolStats, err error) {
	err = s.view(func(t *tx) error {
		pools := map[string]ipam.Pool{}
		at := func(name string, is4 bool) *PoolStats {
			i := slices.IndexFunc(out, func(x PoolStats) bool { return x.Pool == name && x.Is4 == is4 })
			if i < 0 { // a family without a subnet has no address either, unless the file is damaged
				out = append(out, PoolStats{Pool: name, Is4: is4})
				i = len(out) - 1
			}
			return &out[i]
		}
		if err := t.pools.ForEach(func(k, v []byte) error {
			p, err := decodePool(string(k), v)
			pools[p.Name] = p
			for _, sub := range p.Subnets {
				at(p.Name, sub.Is4())
			}
			return err
		}); err != nil {
			return err
		}
		if err := t.eachHolding(func(h holding) error { at(h.Pool, h.Slot.Addr().Is4()).Blocks++; return nil }); err != nil {
			return err
		}
		return t.addrs.ForEach(func(k, v []byte) error {
			pool, a, err := parseAddrKey(k)
			if err != nil {
				return err
			}
			state, err := parseAddrState(v)
			if err != nil {
				return err
			}
			t.count(state, pools[pool], at(pool, a.Is4()))
			return nil
		})
	})
	slices.SortStableFunc(out, func(a, b PoolStats) int { return strings.Compare(a.Pool, b.Pool) })
	return out, err
}

func (t *tx) count(s addrState, p ipam.Pool, n *PoolStats) {
	switch {
	case s.leased():
		n.Leased++
	case s.cools(t.now, p.Cooldown):
		n.Cooling++
	default:
		n.Free++
	}
}

// BlockLeases gives the leases that hold an address of the block, each whole, by the address that they hold in
// it, and how many of the block's addresses are free and cooling. A block that is not held has none. Leases of reservations are not among
// them: their addresses are not the block's on this node.
func (s *Store) BlockLeases(block string) (leases []ipam.Lease, free, cooling int, err error) {
	type entry struct{ key, value []byte }
	var entries []entry
	err = s.view(func(t *tx) error {
		h, ok, err := t.holding(block)
		if err != nil || !ok {
			return err
		}
		p, err := t.pool(h.Pool)
		if err != nil {
			return err
		}
		var n PoolStats
		err = t.eachAddr(h.Pool, h.Slot, func(_ netip.Addr, s addrState) error {
			if !s.leased() {
				t.count(s, p, &n)
				return nil
			}
			if v := t.leases.Get(s.key); v != nil {
				entries = append(entries, entry{s.key, bytes.Clone(v)})
			}
			return nil
		})
		free, cooling = n.Free, n.Cooling
		return err
	})
	if err != nil {
		return nil, 0, 0, err
	}
	// They are decoded when the transaction is over: as long as one reads, the pages that others replace stay in the file, which grows.
	for _, e := range entries {
		rec, err := decodeRecord(e.key, e.value)
		if err != nil {
			return nil, 0, 0, err
		}
		if rec.Reservation == "" {
			leases = append(leases, rec.Lease)
		}
	}
	return leases, free, cooling, nil
}

// Leases gives every lease, by key.
func (s *Store) Leases() (out []ipam.Lease, err error) {
	err = s.view(func(t *tx) error {
		return t.leases.ForEach(func(k, v []byte) error {
			rec, err := decodeRecord(k, v)
			out = append(out, rec.Lease)
			return err
		})
	})
	return out, err
}
