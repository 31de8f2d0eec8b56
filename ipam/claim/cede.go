// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// maxWants is how many wants a block has room for.
const maxWants = 64

// FullError is an ErrPoolFull that says whom to ask.
type FullError struct {
	Pool   string
	Subnet netip.Prefix
	// Askings are the sharers of the pool's blocks, those first that may have room; none if nobody else has a share.
	Askings []Asking
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: %s: every address of %s is owned by a node", ipam.ErrPoolFull, e.Pool, e.Subnet)
}

// Unwrap makes every FullError an ErrPoolFull.
func (e *FullError) Unwrap() error { return ipam.ErrPoolFull }

// Asking is a sharer that can be asked for addresses of a block.
type Asking struct {
	Block, From string
	// Free and Cooling are what the mirror says it has there. One of which the mirror says nothing has just come, and
	// counts as free what is in its share.
	Free, Cooling int

	object *v1alpha1.IPBlock
}

// askings are the sharers other than o of the subnet's blocks. Those with free addresses come first, then those with
// cooling ones, then all others; within the first two in an order that differs by o and salt, in which one with more
// comes sooner more often: so the askers of one moment spread, as far as room does.
func askings(o ipam.Owner, pool ipam.Pool, s ipam.Subnet, objects []v1alpha1.IPBlock, salt string) []Asking {
	type ranked struct {
		Asking
		class int
		key   float64
	}
	var all []ranked
	for i := range objects {
		obj := &objects[i]
		b, err := obj.Block()
		if err != nil || obj.DeletionTimestamp != nil || b.PoolUID != pool.UID || b.Slot.Addr().Is4() != s.Is4() {
			continue
		}
		leasable := s.LeasableIn(b.Slot)
		for _, share := range b.Shares {
			n := Count(common(share.Ranges, leasable))
			if _, held := share.Held(); n == 0 || held || share.Node == o.Node {
				continue
			}
			r := ranked{Asking: Asking{Block: b.Name, From: share.Node, Free: n, object: obj}, class: 2}
			if i := slices.IndexFunc(obj.Status.Nodes, func(u v1alpha1.NodeUsage) bool { return u.Node == share.Node }); i >= 0 {
				u := obj.Status.Nodes[i]
				r.Free, r.Cooling = min(n, int(u.Free)), min(n, int(u.Cooling))
			}
			switch {
			case r.Free > 0:
				r.class, r.key = 0, draw(o.Node, b.Name, share.Node, salt)/float64(r.Free)
			case r.Cooling > 0:
				r.class, r.key = 1, draw(o.Node, b.Name, share.Node, salt)/float64(r.Cooling)
			default:
				r.key = draw(o.Node, b.Name, share.Node, salt)
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.key, b.key)) })
	var out []Asking
	for _, r := range all {
		out = append(out, r.Asking)
	}
	return out
}

// draw is a number from the exponential distribution that follows from the words. The smallest of several, each
// divided by a weight, is one drawn by weight.
func draw(words ...string) float64 {
	h := fnv.New64a()
	for _, w := range words {
		_, _ = h.Write([]byte(w + "\x00"))
	}
	x := h.Sum64()
	x ^= x >> 32 // as in newWalk
	x *= 0x9e3779b97f4a7c15
	return -math.Log(float64(x>>11+1) / (1 << 53))
}

// common are the addresses that are in both.
func common(a, b []iprange.Range) []iprange.Range {
	var both netipx.IPSetBuilder
	both.AddSet(iprange.Set(a...))
	both.Intersect(iprange.Set(b...))
	set, _ := both.IPSet() // made of sets, which are valid
	return iprange.Ranges(set)
}

// Ask puts o's want into the block: count addresses of the sharer that a names, if they come before expires. It
// replaces what o wanted there before. It gives nothing; see Take.
//
// ErrNoShare: the sharer has none any more. ErrNoCeding: the API server does not know of wants. ErrUnavailable: too many
// ask there.
func (c *Claimer) Ask(ctx context.Context, o ipam.Owner, a Asking, count int, cooling bool, expires time.Time) error {
	w := ipam.Want{
		Node: o.Node, NodeUID: o.NodeUID, Session: o.Session, From: a.From,
		Count: min(max(count, 1), ipam.MaxBlockSize), Cooling: cooling, Expires: expires.Truncate(time.Microsecond),
	}
	b, err := c.settle(ctx, a.Block, source{object: a.object}, func(cur *view) (ipam.Block, error) {
		if cur == nil || cur.dying || !slices.ContainsFunc(cur.Shares, func(s ipam.Share) bool { return s.Node == a.From }) {
			return ipam.Block{}, fmt.Errorf("block %s: %w of node %s", a.Block, ErrNoShare, a.From)
		}
		return WithWant(cur.Block, w, cur.now)
	})
	if err == nil && !slices.ContainsFunc(b.Wants, o.Asks) {
		return fmt.Errorf("block %s: %w", a.Block, ErrNoCeding)
	}
	return err
}

// Offer gives up a part of o's share under the rules of Release: to the node of that want if it stands, and else to
// nobody in particular. It says whether the want stood.
// Obj is the block as it was read, or as a cache has it.
func (c *Claimer) Offer(ctx context.Context, o ipam.Owner, obj *v1alpha1.IPBlock, to ipam.Want, ranges ...iprange.Range) (stood bool, err error) {
	b, err := c.settle(ctx, obj.Name, source{object: obj}, func(cur *view) (ipam.Block, error) {
		if cur == nil {
			return ipam.Block{}, nil
		}
		return WithOffer(cur.Block, o, to, ranges, cur.now), nil
	})
	return slices.ContainsFunc(b.Wants, func(w ipam.Want) bool { return same(w, to) && overlap(w.Offered, ranges) }), err
}

// Take makes o the owner of what nobody owns in the block and nobody else was offered, and ends o's want there. It
// says how many addresses that was: the block is one to grant from only if it was any. The zero Block is no block. Obj is the block
// as it may be, such as a cache has it; nil if unknown.
func (c *Claimer) Take(ctx context.Context, o ipam.Owner, pool ipam.Pool, block string, obj *v1alpha1.IPBlock) (b ipam.Block, joined int, err error) {
	var added []iprange.Range
	b, err = c.settle(ctx, block, source{object: obj}, func(cur *view) (ipam.Block, error) {
		added = nil
		switch {
		case cur == nil:
			return ipam.Block{}, nil
		case cur.PoolUID != pool.UID:
			return ipam.Block{}, &ForeignError{block, pool.Name, pool.UID, cur.PoolUID}
		}
		if s, ok := pool.Subnet(cur.Slot.Addr()); ok && pool.Closed == "" && !cur.dying {
			added = cur.Free(o, s.LeasableIn(cur.Slot), cur.now)
		}
		return WithTaken(cur.Block, o, added, cur.now), nil
	})
	mine, _ := Mine(o, b)
	return b, Count(common(added, mine.Ranges)), err
}

// WithWant is b with w in it, instead of what that node wanted there before.
func WithWant(b ipam.Block, w ipam.Want, now time.Time) (ipam.Block, error) {
	b.Wants = append(without(b.Wants, w.Node, w.NodeUID), w)
	if len(standing(b.Wants, now)) > maxWants {
		return ipam.Block{}, fmt.Errorf("%w: block %s: %d nodes ask for addresses already", ipam.ErrUnavailable, b.Name, maxWants)
	}
	return b, nil
}

// WithOffer is b with ranges taken from o's share, offered to the want if it stands and has no answer yet. Where
// they are not in o's share, it is b: they have been offered or given up before.
func WithOffer(b ipam.Block, o ipam.Owner, to ipam.Want, ranges []iprange.Range, now time.Time) ipam.Block {
	mine, ok := Mine(o, b)
	if !ok || !overlap(mine.Ranges, ranges) {
		return b
	}
	b.Wants = slices.Clone(b.Wants)
	for i, w := range b.Wants {
		if same(w, to) && w.From == o.Node && len(w.Offered) == 0 && now.Before(w.Expires) {
			b.Wants[i].Offered = common(ranges, mine.Ranges)
		}
	}
	return leave(b, o, ranges, now)
}

// WithTaken is b with ranges in o's share, and no want of o's node.
func WithTaken(b ipam.Block, o ipam.Owner, ranges []iprange.Range, now time.Time) ipam.Block {
	b.Wants = without(b.Wants, o.Node, o.NodeUID)
	return orNone(join(b, o, ranges), now)
}

// WithSession is b with o's session, and node UID, on o's share.
func WithSession(b ipam.Block, o ipam.Owner) ipam.Block { return join(b, o, nil) }

// same says that a is w, whatever was offered to it since.
func same(a, w ipam.Want) bool {
	return a.Node == w.Node && a.NodeUID == w.NodeUID && a.Session == w.Session && a.From == w.From && a.Expires.Equal(w.Expires)
}

func without(wants []ipam.Want, node, uid string) []ipam.Want {
	return slices.DeleteFunc(slices.Clone(wants), func(w ipam.Want) bool { return w.Node == node && w.NodeUID == uid })
}

// standing are the wants that have not expired.
func standing(wants []ipam.Want, now time.Time) []ipam.Want {
	return slices.DeleteFunc(slices.Clone(wants), func(w ipam.Want) bool { return !now.Before(w.Expires) })
}

// orNone is b, or no block if nobody has a share in it and nobody is to get one.
func orNone(b ipam.Block, now time.Time) ipam.Block {
	if len(b.Shares) > 0 || slices.ContainsFunc(standing(b.Wants, now), func(w ipam.Want) bool { return len(w.Offered) > 0 }) {
		return b
	}
	return ipam.Block{}
}
