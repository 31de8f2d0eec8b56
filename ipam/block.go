// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"time"

	"go4.org/netipx"

	"github.com/railyard-net/railyard/ipam/iprange"
)

// Block is what the API says about one slot of a pool: who owns which of its addresses. The object behind it is
// the only arbiter of them.
type Block struct {
	Name    string
	Pool    string
	PoolUID string
	Slot    netip.Prefix
	Shares  []Share
	// Wants are what nodes without room ask of the sharers. They say who is meant, and own nothing.
	Wants []Want
}

// Share is one node's part of a block.
type Share struct {
	Node    string
	NodeUID string
	// Session names the node store that the owner leases from. A new store (after a reboot, or after losing the
	// old one) writes its own before it leases, which fences whatever the old one may still have under way.
	Session string
	Ranges  []iprange.Range
}

// Want is a node's request for addresses of a block that somebody else owns, and the answer to it.
type Want struct {
	Node, NodeUID, Session string
	// From is the sharer that is asked.
	From string
	// Count is how many addresses would do. Cooling: ones that still cool, too.
	Count   int
	Cooling bool
	// Expires ends it, by everybody's own wall clock.
	Expires time.Time
	// Offered has left the share of From for this. It is whose share it is in, mostly nobody's yet.
	Offered []iprange.Range
}

// Owner is whoever may own a share: a node, by name and UID, and its store's session.
type Owner struct{ Node, NodeUID, Session string }

// Owns says whether s is o's: by node, whose UID or else whose session must be the same, so that a node object
// that was deleted and made again under live pods keeps what it leases from.
func (o Owner) Owns(s Share) bool {
	return s.Node == o.Node && (s.NodeUID == o.NodeUID || o.Session != "" && s.Session == o.Session)
}

// Asks says whether w is o's, of this session: what a former life wanted, nobody waits for.
func (o Owner) Asks(w Want) bool {
	return w.Node == o.Node && w.NodeUID == o.NodeUID && w.Session == o.Session
}

// Check refuses a block whose name, slot and shares contradict each other: invariant 1 within one object. Wants are not
// looked at: where they contradict the shares, the shares hold.
func (b Block) Check() error {
	if want := BlockName(b.Pool, b.Slot); b.Name != want {
		return fmt.Errorf("%w: block %s of slot %s must be named %s", ErrInvalid, b.Name, b.Slot, want)
	}
	var seen netipx.IPSetBuilder
	for _, s := range b.Shares {
		for _, r := range s.Ranges {
			if !b.Slot.Contains(r.From()) || !b.Slot.Contains(r.To()) {
				return fmt.Errorf("%w: block %s: share %s of node %s lies outside of %s", ErrInvalid, b.Name, r, s.Node, b.Slot)
			}
			if set, _ := seen.IPSet(); set.OverlapsRange(netipx.IPRangeFrom(r.From(), r.To())) {
				return fmt.Errorf("%w: block %s: %s of node %s is owned twice", ErrInvalid, b.Name, r, s.Node)
			}
			seen.AddRange(netipx.IPRangeFrom(r.From(), r.To()))
		}
	}
	return nil
}

// Unowned are those of want that no share holds.
func (b Block) Unowned(want []iprange.Range) []iprange.Range {
	var owned []iprange.Range
	for _, s := range b.Shares {
		owned = append(owned, s.Ranges...)
	}
	return iprange.Ranges(minus(iprange.Set(want...), iprange.Set(owned...)))
}

// Free are those of want that no share holds and that were not offered to another node than o's, in a want that stands.
func (b Block) Free(o Owner, want []iprange.Range, now time.Time) []iprange.Range {
	var offered []iprange.Range
	for _, w := range b.Wants {
		if (w.Node != o.Node || w.NodeUID != o.NodeUID) && now.Before(w.Expires) {
			offered = append(offered, w.Offered...)
		}
	}
	return iprange.Ranges(minus(iprange.Set(b.Unowned(want)...), iprange.Set(offered...)))
}
