// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"
	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Holding is what an acknowledged write to the API said is this node's in one block.
type Holding struct {
	Block  string          `json:"block"`
	Pool   string          `json:"pool"`
	Slot   netip.Prefix    `json:"slot"`
	Ranges []iprange.Range `json:"ranges"`
	// Retired: on its way back. Nothing of it is leased again, whatever happens.
	Retired bool `json:"retired,omitempty"`
}

func (h Holding) check() error {
	bad := func(field, format string, args ...any) error {
		return &ipam.FieldError{Field: "holding." + field, Detail: fmt.Sprintf(format, args...)}
	}
	if err := ipam.CheckPoolName("holding.pool", h.Pool); err != nil {
		return err
	}
	if !h.Slot.IsValid() || h.Slot != h.Slot.Masked() || h.Slot.Addr().BitLen()-h.Slot.Bits() > 12 {
		return bad("slot", "%s is no slot of at most %d addresses", h.Slot, ipam.MaxBlockSize)
	}
	if want := ipam.BlockName(h.Pool, h.Slot); h.Block != want {
		return bad("block", "%q must be %q, the name of slot %s", h.Block, want, h.Slot)
	}
	for i, r := range h.Ranges {
		if !r.IsValid() || !h.Slot.Contains(r.From()) || !h.Slot.Contains(r.To()) {
			return bad(fmt.Sprintf("ranges[%d]", i), "%s lies outside of %s", r, h.Slot)
		}
	}
	return nil
}

// Grant records that an acknowledged write made h this node's. It replaces what was known of the block: new
// addresses join the front of the queue, missing ones leave it. A block that is retired stays so: Grant does
// nothing. Granting the same again is fine.
func (s *Store) Grant(h Holding) error {
	_, err := s.GrantInUse(h, nil)
	return err
}

// GrantInUse is Grant for a block of which addresses are in use already, and Restore of the leases on them, which have one
// address each, in one transaction: nobody who comes between, or after a crash, finds an address in use free. What the key
// of a lease contradicts is leased under RecoveredKey; what is leased already stays so. It says which were restored.
func (s *Store) GrantInUse(h Holding, inUse []ipam.Lease) (restored []ipam.Lease, err error) {
	h.Retired = false
	if err := h.check(); err != nil {
		return nil, err
	}
	for _, l := range inUse {
		if err := checkRestore(l); err != nil {
			return nil, err
		}
	}
	err = s.update(func(t *tx) error {
		if err := t.grant(h); err != nil {
			return err
		}
		for _, l := range inUse {
			err := t.restore(l)
			if errors.Is(err, ipam.ErrInvalid) {
				l.Key = RecoveredKey(l)
				err = t.restore(l)
			}
			switch {
			case err == nil:
				restored = append(restored, l)
			case !errors.Is(err, ipam.ErrTaken):
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return restored, nil
}

func (t *tx) grant(h Holding) error {
	p, err := t.pool(h.Pool)
	if err != nil {
		return err
	}
	if sub, ok := p.Subnet(h.Slot.Addr()); !ok || sub.Slot(h.Slot.Addr()) != h.Slot {
		return &ipam.FieldError{Field: "holding.slot", Detail: fmt.Sprintf("%s is no slot of pool %s", h.Slot, h.Pool)}
	}
	was, ok, err := t.holding(h.Block)
	if err != nil || was.Retired {
		return err
	}
	if h, err = t.withoutReserved(h); err != nil {
		return err
	}
	is := holding{Holding: h, Since: t.now}
	if ok {
		is.Since = was.Since
	}
	if err := t.putHolding(is); err != nil {
		return err
	}
	return t.queueBlock(p, is, 0)
}

// Retire makes every address of the block unleasable for good, provided that none is leased and all have been
// idle, granted or released, for the pool's cooldown and for minIdle. It says whether the block is retired. A
// block that is not held is.
func (s *Store) Retire(block string, minIdle time.Duration) (retired bool, err error) {
	err = s.update(func(t *tx) error {
		h, ok, err := t.holding(block)
		if err != nil || !ok || h.Retired {
			retired = err == nil
			return err
		}
		p, err := t.pool(h.Pool)
		if err != nil {
			return err
		}
		if t.now-h.Since < minIdle {
			return nil
		}
		rest, busy := max(minIdle, p.Cooldown), false
		if err := t.eachAddr(h.Pool, h.Slot, func(a netip.Addr, s addrState) error {
			busy = busy || s.leased() && h.covers(a) || !s.leased() && s.released > 0 && t.now-s.released < rest
			return nil
		}); err != nil || busy {
			return err
		}
		h.Retired, retired = true, true
		if err := t.putHolding(h); err != nil {
			return err
		}
		return t.queueBlock(p, h, 0)
	})
	return retired && err == nil, err
}

// Withdraw makes the addresses in ranges unleasable at once and takes them out of the holding, provided that none
// of them is leased; it says whether they are out. It is what comes before a write that gives part of a block to
// somebody else, or a static address back.
func (s *Store) Withdraw(block string, ranges ...iprange.Range) (out bool, err error) {
	err = s.update(func(t *tx) error {
		h, ok, err := t.holding(block)
		if err != nil || !ok || h.Retired {
			out = err == nil
			return err
		}
		p, err := t.pool(h.Pool)
		if err != nil {
			return err
		}
		gone, leased := iprange.Set(ranges...), false
		if err := t.eachAddr(h.Pool, h.Slot, func(a netip.Addr, s addrState) error {
			leased = leased || s.leased() && gone.Contains(a)
			return nil
		}); err != nil || leased {
			return err
		}
		h.Ranges, out = minus(h.Ranges, ranges), true
		if err := t.putHolding(h); err != nil {
			return err
		}
		return t.queueBlock(p, h, 0)
	})
	return out && err == nil, err
}

// Forget drops the holding and its free addresses, once the API has said that the block, or this node's share of
// it, is gone. Leases stay and are reported by Check.
func (s *Store) Forget(block string) error {
	return s.update(func(t *tx) error {
		h, ok, err := t.holding(block)
		if err != nil || !ok {
			return err
		}
		p, err := t.pool(h.Pool)
		if err != nil {
			return err
		}
		h.Ranges = nil
		if err := t.queueBlock(p, h, 0); err != nil {
			return err
		}
		return t.holdings.Delete([]byte(block))
	})
}

// Holdings gives every holding, by block.
func (s *Store) Holdings() (out []Holding, err error) {
	err = s.view(func(t *tx) error {
		return t.eachHolding(func(h holding) error { out = append(out, h.Holding); return nil })
	})
	return out, err
}

// queueBlock makes the queue hold what it should of h: every address that is held, leasable and not leased.
// Those that join it do as released at the time given.
func (t *tx) queueBlock(p ipam.Pool, h holding, released time.Duration) error {
	t.dirty[h.Block] = true
	known := map[netip.Addr]addrState{}
	if err := t.eachAddr(h.Pool, h.Slot, func(a netip.Addr, s addrState) error {
		known[a] = s
		return nil
	}); err != nil {
		return err
	}
	want := wanted(p, h)
	for a, s := range known {
		if !s.leased() && !want.Contains(a) {
			if err := t.dequeue(h.Pool, a, s.released); err != nil {
				return err
			}
		}
	}
	for _, r := range want.Ranges() {
		for a := r.From(); r.Contains(a); a = a.Next() {
			if _, ok := known[a]; ok {
				continue
			}
			if err := t.enqueue(h.Pool, a, released); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted are the addresses of h that are leased to whoever asks for none in particular.
func wanted(p ipam.Pool, h holding) *netipx.IPSet {
	var b netipx.IPSetBuilder
	if sub, ok := p.Subnet(h.Slot.Addr()); ok && !h.Retired {
		b.AddSet(iprange.Set(h.Ranges...))
		b.Intersect(iprange.Set(sub.LeasableIn(h.Slot)...))
	}
	set, _ := b.IPSet() // as above
	return set
}

// eachAddr visits the addresses of a slot that are leased or free, ascending.
func (t *tx) eachAddr(pool string, slot netip.Prefix, do func(netip.Addr, addrState) error) error {
	all := iprange.FromPrefix(slot)
	last := addrKey(pool, all.To())
	c := t.addrs.Cursor()
	for k, v := c.Seek(addrKey(pool, all.From())); k != nil && bytes.Compare(k, last) <= 0; k, v = c.Next() {
		_, a, err := parseAddrKey(k)
		if err != nil {
			return err
		}
		s, err := parseAddrState(v)
		if err != nil {
			return err
		}
		if err := do(a, s); err != nil {
			return err
		}
	}
	return nil
}

// seek is the first entry whose key starts with prefix.
func seek(c *bbolt.Cursor, prefix []byte) (k, v []byte) {
	if k, v = c.Seek(prefix); k == nil || !bytes.HasPrefix(k, prefix) {
		return nil, nil
	}
	return k, v
}
