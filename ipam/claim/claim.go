// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Claimer claims and releases blocks. It keeps nothing between calls and may be used concurrently, for any owner.
type Claimer struct {
	api  client.Client
	live client.Reader
	now  func() time.Time // the wall clock, by which wants expire
}

// New makes a Claimer that writes through c. Reads that end a call go to live; reads that only prepare a write go
// to c, whose answers may come from a cache that holds the blocks with the owner's NodeLabel. Live may be nil if c
// has no cache. See the package comment for the rate limit that c should have.
func New(c client.Client, live client.Reader) *Claimer {
	return &Claimer{api: c, live: live, now: time.Now}
}

// Claim makes o the owner of addresses of the pool's IPv4 or else IPv6 subnet that it did not own before, and
// returns the block with its shares (see Mine): a new block, or a larger or another share in one that exists. Held
// are the names of the blocks of the pool that o leases from already; without them Claim may answer with one of
// these. A block in which o has a share of an earlier session is left to Adopt.
//
// ErrPoolFull: every leasable address is owned, or offered to somebody; a *FullError says who may have room.
// ErrPoolClosed: pool.Closed says so, or a ForeignError.
func (c *Claimer) Claim(ctx context.Context, o ipam.Owner, pool ipam.Pool, is4 bool, held ...string) (ipam.Block, error) {
	s, err := claimable(pool, is4)
	if err != nil {
		return ipam.Block{}, err
	}
	h := set(held)
	w := newWalk(o.Node, pool.Name, s)
	for _, slot := range w.slots(pool.Name, probes(w.n), h) {
		// A block in which at least half is unowned is as good as a new one.
		b, err := c.enter(ctx, o, pool, s, candidate{slot: slot}, h, Count(s.LeasableIn(slot))/2)
		if !errors.Is(err, errSlotTaken) {
			return b, err
		}
	}
	return c.search(ctx, o, pool, s, w, h)
}

// probes is how many slots to try before listing them all: a list of few blocks costs as little as a probe.
func probes(slots uint64) int {
	if slots <= few {
		return 1
	}
	return 4
}

// few slots' blocks are listed rather than tried or sampled.
const few = 64

// Few says that the pool has so few slots of a family that a list of its blocks is cheap.
func Few(pool ipam.Pool, is4 bool) bool {
	s, err := claimable(pool, is4)
	return err == nil && s.SlotCount() <= few
}

func claimable(pool ipam.Pool, is4 bool) (ipam.Subnet, error) {
	if pool.Closed != "" {
		return ipam.Subnet{}, fmt.Errorf("%w: %s: %s", ipam.ErrPoolClosed, pool.Name, pool.Closed)
	}
	i := slices.IndexFunc(pool.Subnets, func(s ipam.Subnet) bool { return s.Is4() == is4 })
	switch {
	case i < 0:
		return ipam.Subnet{}, fmt.Errorf("%w: pool %s has no subnet of that family", ipam.ErrInvalid, pool.Name)
	case len(pool.Subnets[i].Leasable) == 0:
		return ipam.Subnet{}, fmt.Errorf("%w: %s: all of %s is reserved", ipam.ErrPoolFull, pool.Name, pool.Subnets[i].Prefix)
	}
	return pool.Subnets[i], nil
}

// search finds room by a list of the pool's blocks, and by another one when the races for what it showed are lost.
func (c *Claimer) search(ctx context.Context, o ipam.Owner, pool ipam.Pool, s ipam.Subnet, w walk, held map[string]bool) (ipam.Block, error) {
	var out ipam.Block
	last := errors.New("every race for a block was lost")
	backoff := wait.Backoff{Duration: 20 * time.Millisecond, Factor: 1.6, Jitter: 1, Steps: 8}
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		blocks, salt, err := c.list(ctx, pool.Name)
		if err != nil {
			last = err
			return false, permanent(err)
		}
		found, err := candidates(o, pool, w, blocks, held, c.now())
		if err != nil {
			return false, err
		}
		if len(found) == 0 {
			return false, &FullError{pool.Name, s.Prefix, askings(o, pool, s, blocks, salt)}
		}
		for _, f := range found {
			out, err = c.enter(ctx, o, pool, s, f, held, 1)
			if !errors.Is(err, errSlotTaken) {
				return err == nil, err
			}
		}
		return false, nil
	})
	if err != nil && wait.Interrupted(err) {
		err = fmt.Errorf("claim a block of pool %s: %w", pool.Name, errors.Join(last, ctx.Err()))
	}
	if err != nil {
		return ipam.Block{}, typed(err)
	}
	return out, nil
}

// enter tries one candidate. A block that cannot be read is taken.
func (c *Claimer) enter(ctx context.Context, o ipam.Owner, pool ipam.Pool, s ipam.Subnet, f candidate, held map[string]bool, room int) (ipam.Block, error) {
	name := ipam.BlockName(pool.Name, f.slot)
	from := source{absent: f.object == nil, object: f.object}
	b, err := c.settle(ctx, name, from, enter(o, pool, s, f.slot, held[name], room))
	if _, bad := errors.AsType[*unreadableError](err); bad {
		return ipam.Block{}, errSlotTaken
	}
	return b, err
}

// list gives the blocks of a pool, and the version of the answer.
func (c *Claimer) list(ctx context.Context, pool string) (blocks []v1alpha1.IPBlock, version string, err error) {
	var reader client.Reader = c.api
	if c.live != nil {
		reader = c.live
	}
	var l v1alpha1.IPBlockList
	if err := reader.List(ctx, &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		return nil, "", fmt.Errorf("list blocks of pool %s: %w", pool, err)
	}
	return l.Items, l.ResourceVersion, nil
}

// ClaimStatic makes o the owner of one reserved address. ErrInvalid: the pool does not reserve it. ErrTaken:
// another node owns it.
func (c *Claimer) ClaimStatic(ctx context.Context, o ipam.Owner, pool ipam.Pool, addr netip.Addr) (ipam.Block, error) {
	if pool.Closed != "" {
		return ipam.Block{}, fmt.Errorf("%w: %s: %s", ipam.ErrPoolClosed, pool.Name, pool.Closed)
	}
	s, ok := pool.Subnet(addr)
	if !ok || !slices.ContainsFunc(s.Reserved, func(r iprange.Range) bool { return r.Contains(addr) }) {
		return ipam.Block{}, &ipam.FieldError{Field: "ips", Detail: fmt.Sprintf(
			"%s is not reserved in pool %s: ask for an address of its reserved ranges %v", addr, pool.Name, s.Reserved)}
	}
	slot := s.Slot(addr)
	b := ipam.Block{Name: ipam.BlockName(pool.Name, slot), Pool: pool.Name, PoolUID: pool.UID, Slot: slot}
	return c.Reclaim(ctx, o, b, []iprange.Range{iprange.Of(addr)})
}

// Reclaim makes o the owner of exactly these addresses of a block, in addition to what it owns there, and makes
// the block if there is none: for addresses that are in use although somebody deleted their block. Of b the shares
// are not looked at. ErrTaken: another node owns one of them. ErrUnavailable: among others, o has a share of an earlier
// session in the block, see Adopt.
func (c *Claimer) Reclaim(ctx context.Context, o ipam.Owner, b ipam.Block, ranges []iprange.Range) (ipam.Block, error) {
	b.Shares = nil
	return c.settle(ctx, b.Name, source{absent: true}, func(cur *view) (ipam.Block, error) {
		switch {
		case cur == nil:
			cur = &view{Block: b}
		case cur.PoolUID != b.PoolUID:
			return ipam.Block{}, &ForeignError{b.Name, b.Pool, b.PoolUID, cur.PoolUID}
		case cur.dying:
			return ipam.Block{}, fmt.Errorf("%w: block %s is being deleted", ipam.ErrUnavailable, b.Name)
		case earlier(o, cur.Block):
			return ipam.Block{}, fmt.Errorf("%w: block %s has a share of an earlier session of node %s, which is to be adopted first", ipam.ErrUnavailable, b.Name, o.Node)
		}
		if s, ok := rival(cur.Block, o, ranges); ok {
			return ipam.Block{}, fmt.Errorf("%w: %v of block %s is owned by node %s", ipam.ErrTaken, s.Ranges, b.Name, s.Node)
		}
		return join(cur.Block, o, ranges), nil
	})
}

// Adopt puts o's session (and node UID) on its share of the block, which fences every other session: after it
// returned, and not before, o may lease from the share. ErrNoShare: there is none.
func (c *Claimer) Adopt(ctx context.Context, o ipam.Owner, block string) (ipam.Block, error) {
	return c.settle(ctx, block, source{}, func(cur *view) (ipam.Block, error) {
		if err := mustOwn(o, block, cur); err != nil {
			return ipam.Block{}, err
		}
		return WithSession(cur.Block, o), nil
	})
}

// Widen adds to o's share of the block what the pool can lease there and nobody owns: after the pool's ranges
// grew. A share is never made smaller by it. Like Adopt it puts o's session on the share.
func (c *Claimer) Widen(ctx context.Context, o ipam.Owner, pool ipam.Pool, block string) (ipam.Block, error) {
	return c.settle(ctx, block, source{}, func(cur *view) (ipam.Block, error) {
		if err := mustOwn(o, block, cur); err != nil {
			return ipam.Block{}, err
		}
		if cur.PoolUID != pool.UID {
			return ipam.Block{}, &ForeignError{block, pool.Name, pool.UID, cur.PoolUID}
		}
		var more []iprange.Range
		if s, ok := pool.Subnet(cur.Slot.Addr()); ok && !cur.dying {
			more = cur.Free(o, s.LeasableIn(cur.Slot), cur.now)
		}
		return join(cur.Block, o, more), nil
	})
}

func mustOwn(o ipam.Owner, block string, cur *view) error {
	if cur == nil {
		return fmt.Errorf("block %s: %w: %w", block, ErrNoShare, ErrGone)
	}
	if _, ok := Mine(o, cur.Block); !ok {
		return fmt.Errorf("block %s: %w of node %s", block, ErrNoShare, o.Node)
	}
	return nil
}

// Release gives up o's share of the block, and deletes the block if it was the last one. Without error the API
// server has said that o has no share there. The caller must lease nothing from it from before the call on, also
// if it fails: then the share may be gone or not, and the call is to be repeated until it succeeds.
func (c *Claimer) Release(ctx context.Context, o ipam.Owner, block string) error {
	return c.leave(ctx, o, block, nil)
}

// Cede gives up a part of o's share, under the same rules as Release. A share of which nothing is left goes.
func (c *Claimer) Cede(ctx context.Context, o ipam.Owner, block string, ranges ...iprange.Range) error {
	if len(ranges) == 0 {
		return nil
	}
	return c.leave(ctx, o, block, ranges)
}

// Evict removes the share of a lost owner from the block, if it still is that very one: node, UID and session.
func (c *Claimer) Evict(ctx context.Context, block string, lost ipam.Owner) error {
	_, err := c.settle(ctx, block, source{}, func(cur *view) (ipam.Block, error) {
		if cur == nil {
			return ipam.Block{}, nil
		}
		b := cur.Block
		b.Shares = slices.DeleteFunc(slices.Clone(b.Shares), func(s ipam.Share) bool {
			return lost == ipam.Owner{Node: s.Node, NodeUID: s.NodeUID, Session: s.Session}
		})
		if len(b.Shares) == len(cur.Shares) {
			return cur.Block, nil
		}
		return orNone(b, cur.now), nil
	})
	return err
}

func (c *Claimer) leave(ctx context.Context, o ipam.Owner, block string, ranges []iprange.Range) error {
	_, err := c.settle(ctx, block, source{}, func(cur *view) (ipam.Block, error) {
		if cur == nil {
			return ipam.Block{}, nil
		}
		mine, ok := Mine(o, cur.Block)
		if !ok || len(ranges) > 0 && !overlap(mine.Ranges, ranges) {
			return cur.Block, nil
		}
		return leave(cur.Block, o, ranges, cur.now), nil
	})
	return err
}

// Get asks the API server for a block. ErrGone: it says that there is none.
func (c *Claimer) Get(ctx context.Context, block string) (ipam.Block, error) {
	obj, exists, err := c.look(ctx, block, source{live: true})
	switch {
	case err != nil:
		return ipam.Block{}, typed(fmt.Errorf("read block %s: %w", block, err))
	case !exists:
		return ipam.Block{}, fmt.Errorf("block %s: %w", block, ErrGone)
	}
	return obj.Block()
}
