// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// SetPool records p, which replaces the pool of its name. Free addresses that p does not lease any more leave the
// queue at once; those that it leases anew and that are held here join it, behind all others. Leases stay. A pool
// whose UID, subnets or block sizes differ from those that blocks are held of is ipam.ErrInvalid.
func (s *Store) SetPool(p ipam.Pool) error {
	if err := checkPool(p); err != nil {
		return err
	}
	return s.update(func(t *tx) error {
		var held []holding
		if err := t.eachHolding(func(h holding) error {
			if h.Pool == p.Name {
				held = append(held, h)
			}
			return nil
		}); err != nil {
			return err
		}
		was, err := t.pool(p.Name)
		if err != nil && !errors.Is(err, ipam.ErrPoolUnknown) {
			return err
		}
		if err == nil && len(held) > 0 {
			if err := checkReplace(was, p); err != nil {
				return err
			}
		}
		if err := t.putJSON(t.pools, p.Name, p); err != nil {
			return err
		}
		for _, h := range held {
			if err := t.queueBlock(p, h, t.now); err != nil {
				return err
			}
		}
		return nil
	})
}

// DropPool forgets a pool. One that is unknown is success; one with holdings or leases is ipam.ErrInvalid.
func (s *Store) DropPool(name string) error {
	return s.update(func(t *tx) error {
		if err := t.eachHolding(func(h holding) error {
			if h.Pool == name {
				return fmt.Errorf("%w: pool %s still has block %s", ipam.ErrInvalid, name, h.Block)
			}
			return nil
		}); err != nil {
			return err
		}
		if k, _ := seek(t.addrs.Cursor(), poolPrefix(name)); k != nil {
			return fmt.Errorf("%w: pool %s still has leases", ipam.ErrInvalid, name)
		}
		return t.pools.Delete([]byte(name))
	})
}

// Pool gives the pool of that name, or ipam.ErrPoolUnknown.
func (s *Store) Pool(name string) (p ipam.Pool, err error) {
	err = s.view(func(t *tx) error { p, err = t.pool(name); return err })
	return p, err
}

// Pools gives every pool, by name.
func (s *Store) Pools() (out []ipam.Pool, err error) {
	err = s.view(func(t *tx) error {
		return t.pools.ForEach(func(k, v []byte) error {
			p, err := decodePool(string(k), v)
			out = append(out, p)
			return err
		})
	})
	return out, err
}

// checkPool refuses a Pool that ParsePool cannot have made, in what the store relies on.
func checkPool(p ipam.Pool) error {
	if err := ipam.CheckPoolName("pool.name", p.Name); err != nil {
		return err
	}
	if p.Cooldown < 0 || len(p.Subnets) == 0 || len(p.Subnets) > 2 {
		return &ipam.FieldError{Field: "pool", Detail: "is not one that ParsePool made: parse it first"}
	}
	for i, s := range p.Subnets {
		n := s.BlockSize
		inside := func(r iprange.Range) bool { return s.Prefix.Contains(r.From()) && s.Prefix.Contains(r.To()) }
		ok := s.Prefix.IsValid() && n > 0 && n <= ipam.MaxBlockSize && n&(n-1) == 0 && (i == 0 || p.Subnets[0].Is4() && !s.Is4())
		for _, r := range slices.Concat(s.Leasable, s.Reserved) {
			ok = ok && inside(r)
		}
		if !ok {
			return &ipam.FieldError{Field: fmt.Sprintf("pool.subnets[%d]", i), Detail: "is not one that ParsePool made: parse it first"}
		}
	}
	return nil
}

// checkReplace refuses an edit that would give blocks which are held another meaning.
func checkReplace(was, is ipam.Pool) error {
	if was.UID != is.UID {
		return fmt.Errorf("%w: pool %s is another one (UID %s) than the one whose blocks are held (UID %s)", ipam.ErrInvalid, is.Name, is.UID, was.UID)
	}
	for _, w := range was.Subnets {
		if !slices.ContainsFunc(is.Subnets, func(s ipam.Subnet) bool { return s.Prefix == w.Prefix && s.BlockSize == w.BlockSize }) {
			return &ipam.FieldError{Field: "pool.subnets", Detail: fmt.Sprintf("lost or changed %s in blocks of %d, of which blocks are held: release them first", w.Prefix, w.BlockSize)}
		}
	}
	return nil
}

// leasable says whether the pool queues a, i.e. gives it to whoever asks for no address in particular.
func leasable(p ipam.Pool, a netip.Addr) bool {
	return inRanges(p, a, func(s ipam.Subnet) []iprange.Range { return s.Leasable })
}

func reserved(p ipam.Pool, a netip.Addr) bool {
	return inRanges(p, a, func(s ipam.Subnet) []iprange.Range { return s.Reserved })
}

func inRanges(p ipam.Pool, a netip.Addr, of func(ipam.Subnet) []iprange.Range) bool {
	s, ok := p.Subnet(a)
	return ok && slices.ContainsFunc(of(s), func(r iprange.Range) bool { return r.Contains(a) })
}
