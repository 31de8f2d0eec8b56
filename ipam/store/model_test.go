// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"slices"
	"time"

	"github.com/railyard-net/railyard/ipam"
)

// model is what the store should do, as plainly as it can be said: maps, no file, no keys.
type model struct {
	pool     ipam.Pool
	now      time.Duration
	cooldown time.Duration
	blocks   map[string]*modelBlock
	released map[netip.Addr]time.Duration // free addresses
	leases   map[ipam.Key][]netip.Addr
	named    map[ipam.Key]bool // by key: the IPv4 address was asked for by name
}

type modelBlock struct {
	Holding
	since time.Duration
}

func (m *model) covered(a netip.Addr) bool {
	for _, b := range m.blocks {
		for _, r := range b.Ranges {
			if !b.Retired && r.Contains(a) {
				return true
			}
		}
	}
	return false
}

func (m *model) owner(a netip.Addr) (ipam.Key, bool) {
	for k, as := range m.leases {
		if slices.Contains(as, a) {
			return k, true
		}
	}
	return ipam.Key{}, false
}

// requeue says what is free: everything covered, leasable and not leased.
func (m *model) requeue(joining time.Duration) {
	for a := range m.released {
		if !m.covered(a) || !leasable(m.pool, a) {
			delete(m.released, a)
		}
	}
	for _, b := range m.blocks {
		for _, r := range b.Ranges {
			for a := r.From(); r.Contains(a); a = a.Next() {
				_, leased := m.owner(a)
				if _, known := m.released[a]; !known && !leased && m.covered(a) && leasable(m.pool, a) {
					m.released[a] = joining
				}
			}
		}
	}
}

func (m *model) next(is4, reuse bool) (netip.Addr, bool) {
	var best netip.Addr
	for a, at := range m.released {
		if a.Is4() != is4 {
			continue
		}
		if !best.IsValid() || at < m.released[best] || at == m.released[best] && a.Less(best) {
			best = a
		}
	}
	if !best.IsValid() {
		return best, false
	}
	at := m.released[best]
	return best, reuse || at == 0 || m.now-at >= m.cooldown
}

func (m *model) lease(k ipam.Key, static []netip.Addr, reuse bool) ([]netip.Addr, error) {
	if have, ok := m.leases[k]; ok {
		switch {
		case len(static) > 0 && !slices.Contains(have, static[0]), len(static) == 0 && m.named[k]:
			return nil, ipam.ErrInvalid
		}
		return have, nil
	}
	if m.pool.Closed != "" {
		return nil, ipam.ErrPoolClosed
	}
	var four netip.Addr
	ok4 := false
	if len(static) > 0 {
		if _, taken := m.owner(static[0]); taken {
			return nil, ipam.ErrTaken
		}
		four, ok4 = static[0], m.covered(static[0])
	} else {
		four, ok4 = m.next(true, reuse)
	}
	six, ok6 := m.next(false, reuse)
	if !ok4 || !ok6 {
		return nil, ipam.ErrPoolFull
	}
	delete(m.released, four)
	delete(m.released, six)
	m.leases[k], m.named[k] = []netip.Addr{four, six}, len(static) > 0
	return m.leases[k], nil
}

func (m *model) release(k ipam.Key) {
	for _, a := range m.leases[k] {
		if m.covered(a) && leasable(m.pool, a) {
			m.released[a] = m.now
		}
	}
	delete(m.leases, k)
	delete(m.named, k)
}

func (m *model) busy(slot netip.Prefix, idle time.Duration) bool {
	for a, at := range m.released {
		if slot.Contains(a) && at > 0 && m.now-at < idle {
			return true
		}
	}
	return m.leasedIn(func(a netip.Addr) bool { return slot.Contains(a) })
}

func (m *model) leasedIn(in func(netip.Addr) bool) bool {
	for _, as := range m.leases {
		if slices.ContainsFunc(as, in) {
			return true
		}
	}
	return false
}

// freeIn are the free addresses of a block: rested, and cooling.
func (m *model) freeIn(h Holding) (rested, cools []netip.Addr) {
	for a, at := range m.released {
		switch b := m.blocks[h.Block]; {
		case b == nil || !h.Slot.Contains(a):
		case at > 0 && m.now-at < m.cooldown:
			cools = append(cools, a)
		default:
			rested = append(rested, a)
		}
	}
	return rested, cools
}
