// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Reserve puts an address of a block into hold, a share that is nobody's to lease from, and makes the block if there is none: from o's
// share, or of what nobody owns. Without error the API server has said that it is there. O must lease nothing of it from before the call on,
// as with Release. Of b the shares are not looked at. ErrTaken: another share has it, or it is offered to somebody.
func (c *Claimer) Reserve(ctx context.Context, o ipam.Owner, b ipam.Block, hold ipam.Share, addr netip.Addr) error {
	b.Shares = nil
	one := []iprange.Range{iprange.Of(addr)}
	_, err := c.settle(ctx, b.Name, source{}, func(cur *view) (ipam.Block, error) {
		switch {
		case cur == nil:
			cur = &view{Block: b}
		case cur.PoolUID != b.PoolUID:
			return ipam.Block{}, &ForeignError{b.Name, b.Pool, b.PoolUID, cur.PoolUID}
		case cur.dying:
			return ipam.Block{}, fmt.Errorf("%w: block %s is being deleted", ipam.ErrUnavailable, b.Name)
		}
		for _, s := range cur.Shares {
			switch {
			case !overlap(s.Ranges, one):
			case isHold(s, hold):
				return cur.Block, nil
			case o.Owns(s) && s.Session == o.Session:
			case o.Owns(s):
				return ipam.Block{}, fmt.Errorf("%w: %s is in a share of an earlier session of node %s, which is to be adopted first", ipam.ErrUnavailable, addr, o.Node)
			default:
				return ipam.Block{}, fmt.Errorf("%w: %s of block %s is owned by node %s", ipam.ErrTaken, addr, b.Name, s.Node)
			}
		}
		if mine, _ := Mine(o, cur.Block); !overlap(mine.Ranges, one) && len(cur.Free(o, one, cur.now)) == 0 {
			return ipam.Block{}, fmt.Errorf("%w: %s of block %s is offered to another node", ipam.ErrTaken, addr, b.Name)
		}
		return WithReserved(cur.Block, o, hold, addr), nil
	})
	return err
}

func isHold(s, hold ipam.Share) bool {
	return s.Node == hold.Node && s.NodeUID == hold.NodeUID && s.Session == hold.Session
}

// WithReserved is b with addr in hold, and in no share of o's.
func WithReserved(b ipam.Block, o ipam.Owner, hold ipam.Share, addr netip.Addr) ipam.Block {
	one := []iprange.Range{iprange.Of(addr)}
	if mine, ok := Mine(o, b); ok && overlap(mine.Ranges, one) {
		only := ipam.Block{Shares: []ipam.Share{{Ranges: one}}}
		b = withShare(b, o, only.Unowned(mine.Ranges))
	}
	b.Shares = slices.Clone(b.Shares)
	if i := slices.IndexFunc(b.Shares, func(s ipam.Share) bool { return isHold(s, hold) }); i >= 0 {
		b.Shares[i].Ranges = slices.Concat(b.Shares[i].Ranges, one) // each as it was: by that the admission policy knows them
		return b
	}
	hold.Ranges = one
	b.Shares = append(b.Shares, hold)
	return b
}

// Unreserve takes addresses out of hold; all of them if none is named.
func (c *Claimer) Unreserve(ctx context.Context, block string, hold ipam.Share, addrs ...netip.Addr) error {
	var gone []iprange.Range
	for _, a := range addrs {
		gone = append(gone, iprange.Of(a))
	}
	_, err := c.settle(ctx, block, source{}, func(cur *view) (ipam.Block, error) {
		if cur == nil {
			return ipam.Block{}, nil
		}
		i := slices.IndexFunc(cur.Shares, func(s ipam.Share) bool { return isHold(s, hold) })
		if i < 0 || len(gone) > 0 && !overlap(cur.Shares[i].Ranges, gone) {
			return cur.Block, nil
		}
		b := cur.Block
		b.Shares = slices.Clone(b.Shares)
		var rest []iprange.Range
		if len(gone) > 0 {
			only := ipam.Block{Shares: []ipam.Share{{Ranges: gone}}}
			rest = only.Unowned(b.Shares[i].Ranges)
		}
		if b.Shares[i].Ranges = rest; len(rest) == 0 {
			b.Shares = slices.Delete(b.Shares, i, i+1)
		}
		return orNone(b, cur.now), nil
	})
	return err
}
