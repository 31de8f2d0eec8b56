// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/railyard-net/railyard/ipam"
)

// Check compares the file with the invariants of the design, as far as one node can: a lease holds only what was
// granted (2), each address has at most one lease (3), each lease and address can be read back (4), under its own
// key (5), and each granted address is exactly one of free, cooling, leased, reserved and excluded (6). The error
// joins everything that is wrong.
func (s *Store) Check() error {
	return s.view(func(t *tx) error {
		c := &checker{tx: t, pools: map[string]ipam.Pool{}, seen: map[string]addrState{}}
		if err := t.verify(); err != nil {
			return err
		}
		err := errors.Join(
			t.pools.ForEach(func(k, v []byte) error {
				p, err := decodePool(string(k), v)
				c.pools[p.Name] = p
				return err
			}),
			t.eachHolding(func(h holding) error { c.held = append(c.held, h); return nil }),
			t.addrs.ForEach(c.addr),
			t.leases.ForEach(c.leaseOf),
			t.free.ForEach(c.queued),
		)
		for _, h := range c.held {
			c.holdingOf(h)
		}
		if err := errors.Join(err, errors.Join(c.wrong...)); err != nil {
			return fmt.Errorf("%w: the lease store contradicts itself:\n%w", ipam.ErrUnavailable, err)
		}
		return nil
	})
}

type checker struct {
	*tx
	pools map[string]ipam.Pool
	held  []holding
	seen  map[string]addrState // addrs, by its keys
	wrong []error
}

func (c *checker) failf(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Errorf(format, args...))
}

// covering is the holding that a may be leased from.
func (c *checker) covering(pool string, a netip.Addr) bool {
	return slices.ContainsFunc(c.held, func(h holding) bool { return h.Pool == pool && h.covers(a) })
}

// reserved says that the address is leased for a reservation, so that no holding has it.
func (c *checker) reserved(s addrState) bool {
	is, err := c.isReserved(s)
	return err == nil && is
}

func (c *checker) addr(k, v []byte) error {
	pool, a, err := parseAddrKey(k)
	if err != nil {
		return err
	}
	s, err := parseAddrState(v)
	if err != nil {
		return err
	}
	c.seen[string(k)] = s
	p := c.pools[pool]
	switch {
	case p.Name == "":
		c.failf("%s is of pool %s, which is unknown", a, pool)
	case c.reserved(s):
		if c.covering(pool, a) {
			c.failf("%s of pool %s is leased for a reservation, and granted", a, pool)
		}
	case !c.covering(pool, a):
		c.failf("%s of pool %s is not granted", a, pool)
	case s.leased():
		if rec, ok, err := c.lease(s.key); err != nil || !ok || rec.Pool != pool || !rec.holds(a) {
			c.failf("%s is leased by %q, which does not hold it (%v)", a, s.key, err)
		}
	case !leasable(p, a):
		c.failf("%s is free, but pool %s does not lease it", a, pool)
	case c.free.Get(freeKey(pool, a, s.released)) == nil:
		c.failf("%s is free, but not in the queue", a)
	case s.released > c.now:
		c.failf("%s was released in the future", a)
	}
	return nil
}

func (c *checker) leaseOf(k, v []byte) error {
	rec, err := decodeRecord(k, v)
	if err != nil {
		return err
	}
	if len(rec.Addresses) == 0 {
		c.failf("lease %q holds no address", k)
	}
	for _, a := range rec.Addresses {
		if s := c.seen[string(addrKey(rec.Pool, a.Prefix.Addr()))]; !bytes.Equal(s.key, k) {
			c.failf("lease %q holds %s, which is not leased to it", k, a.Prefix.Addr())
		}
	}
	return nil
}

func (c *checker) queued(k, _ []byte) error {
	pool, a, released, err := parseFreeKey(k)
	if err != nil {
		return err
	}
	if s, ok := c.seen[string(addrKey(pool, a))]; !ok || s.leased() || s.released != released {
		c.failf("%s of pool %s is queued, but not free", a, pool)
	}
	return nil
}

// holdingOf makes the numbers of one holding add up.
func (c *checker) holdingOf(h holding) {
	p, ok := c.pools[h.Pool]
	if !ok {
		c.failf("block %s is of pool %s, which is unknown", h.Block, h.Pool)
		return
	}
	var total, free, leased, other int
	for _, r := range h.Ranges {
		for a := r.From(); r.Contains(a); a = a.Next() {
			total++
			s, known := c.seen[string(addrKey(h.Pool, a))]
			switch {
			case known && s.leased():
				leased++
			case known:
				free++
			case h.Retired || !leasable(p, a):
				other++
			}
		}
	}
	if total != free+leased+other {
		c.failf("block %s: %d addresses granted, but %d free, %d leased, %d reserved, excluded or retired", h.Block, total, free, leased, other)
	}
	if h.Retired && free+leased > 0 {
		c.failf("block %s is retired, but has %d free and %d leased addresses", h.Block, free, leased)
	}
}

// verify decodes every byte of the file.
func (t *tx) verify() error {
	return errors.Join(
		t.pools.ForEach(func(k, v []byte) error { _, err := decodePool(string(k), v); return err }),
		t.holdings.ForEach(func(k, v []byte) error { _, err := decodeHolding(string(k), v); return err }),
		t.leases.ForEach(func(k, v []byte) error { _, err := decodeRecord(k, v); return err }),
		t.addrs.ForEach(func(k, v []byte) error {
			_, _, err := parseAddrKey(k)
			_, err2 := parseAddrState(v)
			return errors.Join(err, err2)
		}),
		t.free.ForEach(func(k, _ []byte) error { _, _, _, err := parseFreeKey(k); return err }),
	)
}
