// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
)

// action is what brings one block of the store and of the API together.
type action string

const (
	keep   action = "keep"   // they agree
	adopt  action = "adopt"  // the API has a share of this session that the store does not know: look who uses it, then grant it
	fence  action = "fence"  // the share is another session's: write ours, then as adopt
	rename action = "rename" // the share names an old node UID, of a Node object made again: write the present one
	resize action = "resize" // the share lacks what the holding has: grant what it has
	shed   action = "shed"   // the share has addresses that the store does not know of: write it without them
	cede   action = "cede"   // the holding is retired: take the share out of the block
	forget action = "forget" // no share, no lease: drop the holding
	regain action = "regain" // addresses are leased that the share does not have (any more): claim them again
	orphan action = "orphan" // the share is in a block of a pool that the store does not have: leave it if it is idle
)

// view is one block as both sides see it. It is a value to decide on.
type view struct {
	// held is the store's side; nil if it knows of none.
	held *store.Holding
	// block is the API's side; nil if there is no such object.
	block *ipam.Block
	me    ipam.Owner
	// pool is the block's, as the store knows it.
	pool ipam.Pool
	// leased are the addresses of the block's slot that are leased here, and reserved those of reservations: they are not this node's,
	// though its share may have one until the API server has acknowledged that.
	leased, reserved []netip.Addr
}

// share is this node's in the block: all that it owns there, under the first identity that is not the node's
// present one if there is such.
func (v view) share() (ipam.Share, bool) {
	if v.block == nil {
		return ipam.Share{}, false
	}
	out, ok := claim.Mine(v.me, *v.block)
	for _, s := range v.block.Shares {
		if !v.me.Owns(s) {
			continue
		}
		if s.Session != v.me.Session {
			out.Session = s.Session
		}
		if s.NodeUID != v.me.NodeUID {
			out.NodeUID = s.NodeUID
		}
	}
	if len(v.reserved) > 0 {
		set := iprange.Set(out.Ranges...)
		var b netipx.IPSetBuilder
		b.AddSet(set)
		for _, a := range v.reserved {
			b.Remove(a)
		}
		rest, _ := b.IPSet() // as in spare
		out.Ranges = iprange.Ranges(rest)
	}
	return out, ok
}

// decide says what to do about v. It must be asked again with a live read of the block before anything but keep
// is done: what the watch cache says may be older than the node's own last write.
func decide(v view) action {
	s, ours := v.share()
	switch {
	case v.held != nil && v.held.Retired && ours:
		return cede
	case v.held != nil && v.held.Retired:
		return forget
	case !ours && v.held == nil:
		return keep // somebody else's, or nobody's
	case !ours && len(v.leased) > 0:
		return regain
	case !ours:
		return forget
	case v.held == nil && v.pool.UID != v.block.PoolUID:
		return orphan
	case s.Session != v.me.Session:
		return fence
	case v.held == nil:
		return adopt
	case s.NodeUID != v.me.NodeUID:
		return rename
	}
	has, holds := iprange.Set(s.Ranges...), iprange.Set(v.held.Ranges...)
	spare := v.spare(has, holds)
	switch {
	case !covers(has, v.leased):
		return regain
	case len(spare) > 0:
		return shed
	case !has.Equal(holds):
		return resize
	}
	return keep
}

// spare are the addresses of the share that the store neither holds nor leases: claimed without an answer, or
// withdrawn, as a static address is that was released. They must not be granted on the strength of a read, because
// the write that gives them back may be under way still, whatever the pool has come to say of them.
func (v view) spare(has, holds *netipx.IPSet) []iprange.Range {
	var b netipx.IPSetBuilder
	b.AddSet(has)
	b.RemoveSet(holds)
	for _, a := range v.leased {
		b.Remove(a)
	}
	set, _ := b.IPSet() // made of sets, which are valid
	return iprange.Ranges(set)
}

func (v view) subnet() (ipam.Subnet, bool) {
	if v.held == nil {
		return ipam.Subnet{}, false
	}
	return v.pool.Subnet(v.held.Slot.Addr())
}

// unused are the addresses of a holding that the pool gives by name only and that nobody leases: they go back at
// once, because each may be the one that a pod elsewhere asks for.
func (v view) unused() []iprange.Range {
	sub, ok := v.subnet()
	if !ok || v.held.Retired {
		return nil
	}
	var b netipx.IPSetBuilder
	b.AddSet(iprange.Set(v.held.Ranges...))
	b.Intersect(iprange.Set(sub.ReservedIn(v.held.Slot)...))
	for _, a := range v.leased {
		b.Remove(a)
	}
	set, _ := b.IPSet() // as above
	return iprange.Ranges(set)
}

func covers(set *netipx.IPSet, addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !set.Contains(a) })
}

// missing are the addresses that no range of held covers: leased, but not this node's any more.
func missing(held []iprange.Range, leased []netip.Addr) []netip.Addr {
	set := iprange.Set(held...)
	var out []netip.Addr
	for _, a := range leased {
		if !set.Contains(a) {
			out = append(out, a)
		}
	}
	return out
}
