// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Mine is o's share of b: all of them in one, should it be in several. False is none.
func Mine(o ipam.Owner, b ipam.Block) (ipam.Share, bool) {
	var ranges []iprange.Range
	for _, s := range b.Shares {
		if o.Owns(s) {
			if len(ranges) == 0 {
				o.NodeUID, o.Session = s.NodeUID, s.Session // as the API has them
			}
			ranges = append(ranges, s.Ranges...)
		}
	}
	if len(ranges) == 0 {
		return ipam.Share{}, false
	}
	return ipam.Share{Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, Ranges: normal(ranges)}, true
}

// withShare is b with ranges as o's share, in o's session; without one if ranges is empty. b is not changed.
func withShare(b ipam.Block, o ipam.Owner, ranges []iprange.Range) ipam.Block {
	var shares []ipam.Share
	for _, s := range b.Shares {
		switch {
		case !o.Owns(s):
			shares = append(shares, s)
		case len(ranges) > 0: // in the place of the first
			shares = append(shares, ipam.Share{Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, Ranges: normal(ranges)})
			ranges = nil
		}
	}
	if len(ranges) > 0 {
		shares = append(shares, ipam.Share{Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, Ranges: normal(ranges)})
	}
	b.Shares = shares
	return b
}

// join is b with want added to o's share.
func join(b ipam.Block, o ipam.Owner, want []iprange.Range) ipam.Block {
	mine, _ := Mine(o, b)
	return withShare(b, o, slices.Concat(mine.Ranges, want))
}

// leave is b with ranges taken from o's share, all of it if ranges is empty. The zero
// Block is a block without shares, of which nothing is offered to anybody.
func leave(b ipam.Block, o ipam.Owner, ranges []iprange.Range, now time.Time) ipam.Block {
	mine, _ := Mine(o, b)
	var rest []iprange.Range
	if len(ranges) > 0 {
		only := ipam.Block{Shares: []ipam.Share{{Ranges: ranges}}}
		rest = only.Unowned(mine.Ranges)
	}
	return orNone(withShare(b, o, rest), now)
}

// rival is a share of somebody else that holds one of ranges.
func rival(b ipam.Block, o ipam.Owner, ranges []iprange.Range) (ipam.Share, bool) {
	for _, s := range b.Shares {
		if o.Owns(s) {
			continue
		}
		for _, r := range s.Ranges {
			if slices.ContainsFunc(ranges, r.Overlaps) {
				return s, true
			}
		}
	}
	return ipam.Share{}, false
}

func normal(ranges []iprange.Range) []iprange.Range { return iprange.Ranges(iprange.Set(ranges...)) }

// Count is how many addresses ranges hold; ranges of one slot only.
func Count(ranges []iprange.Range) int {
	n := 0
	for _, r := range ranges {
		f, t := r.From().As16(), r.To().As16()
		n += (int(t[14])-int(f[14]))<<8 + int(t[15]) - int(f[15]) + 1
	}
	return n
}

// walk is the order in which a node tries the slots of a subnet: one that visits every slot once, differs between
// nodes and pools, and does not make those who met once meet again at the next slot.
type walk struct {
	subnet      ipam.Subnet
	n, at, step uint64
}

func newWalk(node, pool string, s ipam.Subnet) walk {
	w := walk{subnet: s, n: s.SlotCount()}
	if w.n == 0 {
		return w
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(pool + "\x00" + node))
	seed := h.Sum64()
	seed ^= seed >> 32 // the low bits of FNV alone are alike for names that differ in their last character
	seed *= 0x9e3779b97f4a7c15
	w.at, w.step = (seed>>16)%w.n, (seed>>8)%w.n
	for gcd(w.step, w.n) != 1 {
		w.step++
	}
	return w
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// slots gives up to want slots, in order, whose block's name is not in skip.
func (w walk) slots(pool string, want int, skip map[string]bool) []netip.Prefix {
	var out []netip.Prefix
	for i := uint64(0); i < w.n && len(out) < want && i < uint64(want+len(skip)); i++ {
		s := w.subnet.SlotAt(w.at)
		if !skip[ipam.BlockName(pool, s)] {
			out = append(out, s)
		}
		w.at = (w.at + w.step%w.n) % w.n // both below 2^63: SlotCount is at most 2^32 a run
	}
	return out
}

// candidate is a slot worth trying, with its object where there is one.
type candidate struct {
	slot   netip.Prefix
	object *v1alpha1.IPBlock
}

// most bounds how many candidates of a kind one list yields: after so many lost races the list is stale.
const most = 16

// candidates says where o may find room in the pool: shares that are its own already and not in held, then free
// slots in the order of w, then blocks with addresses that nobody owns or was offered, the emptiest first. Blocks that cannot be
// read count as taken. A block of another pool of the name is an error: its slots may be cut differently, so that
// no slot of the pool is known to be free.
func candidates(o ipam.Owner, pool ipam.Pool, w walk, objects []v1alpha1.IPBlock, held map[string]bool, now time.Time) ([]candidate, error) {
	type partial struct {
		candidate
		room int
	}
	var own []candidate
	var partials []partial
	exists := map[string]bool{}
	for i := range objects {
		obj := &objects[i]
		exists[obj.Name] = true
		b, err := obj.Block()
		if err != nil || obj.DeletionTimestamp != nil {
			continue
		}
		if b.PoolUID != pool.UID {
			return nil, &ForeignError{b.Name, pool.Name, pool.UID, b.PoolUID}
		}
		if b.Slot.Addr().Is4() != w.subnet.Is4() {
			continue
		}
		if earlier(o, b) {
			continue
		}
		c := candidate{b.Slot, obj}
		leasable := w.subnet.LeasableIn(b.Slot)
		if m, ok := Mine(o, b); ok && !held[b.Name] && overlap(m.Ranges, leasable) {
			own = append(own, c)
		} else if n := Count(b.Free(o, leasable, now)); n > 0 {
			partials = append(partials, partial{c, n})
		}
	}
	slices.SortStableFunc(partials, func(a, b partial) int { return cmp.Compare(b.room, a.room) })
	out := own
	for _, s := range w.slots(pool.Name, most, exists) {
		out = append(out, candidate{slot: s})
	}
	for _, p := range partials[:min(most, len(partials))] {
		out = append(out, p.candidate)
	}
	return out, nil
}

// earlier says that o has a share of an earlier session in b. Whoever uses its addresses has to be looked for before any of
// them is leased, so it is for Adopt, and no claim enters the block before.
func earlier(o ipam.Owner, b ipam.Block) bool {
	return slices.ContainsFunc(b.Shares, func(s ipam.Share) bool { return o.Owns(s) && s.Session != o.Session })
}

func overlap(a, b []iprange.Range) bool {
	return slices.ContainsFunc(a, func(r iprange.Range) bool { return slices.ContainsFunc(b, r.Overlaps) })
}

// enter decides about one slot of a pool: a new block; or a share in the block that is there, if that gives o
// at least room addresses more or is o's already. Otherwise errSlotTaken.
func enter(o ipam.Owner, pool ipam.Pool, s ipam.Subnet, slot netip.Prefix, held bool, room int) decision {
	return func(cur *view) (ipam.Block, error) {
		leasable := s.LeasableIn(slot)
		if cur == nil {
			b := ipam.Block{Name: ipam.BlockName(pool.Name, slot), Pool: pool.Name, PoolUID: pool.UID, Slot: slot}
			return withShare(b, o, leasable), nil
		}
		if cur.PoolUID != pool.UID {
			return ipam.Block{}, &ForeignError{cur.Name, pool.Name, pool.UID, cur.PoolUID}
		}
		free := cur.Free(o, leasable, cur.now)
		mine, _ := Mine(o, cur.Block)
		own := !held && overlap(mine.Ranges, leasable)
		if cur.dying || earlier(o, cur.Block) || !own && (len(free) == 0 || Count(free) < room) {
			return ipam.Block{}, errSlotTaken
		}
		return WithTaken(cur.Block, o, free, cur.now), nil
	}
}
