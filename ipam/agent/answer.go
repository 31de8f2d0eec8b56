// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
)

// tradeAgain is how long after a failure, and while wants stand that could not be answered, all wants are looked at.
const tradeAgain = time.Second

// trade answers the wants of others, and takes back those of this node that nobody waits for, until ctx ends.
func (a *Agent) trade(ctx context.Context) error {
	if !a.cfg.Cache.WaitForCacheSync(ctx) || !a.awaitReady(ctx) {
		return nil
	}
	for {
		err := a.tradeOnce(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "try again later", "doing", "answer wants", "error", err)
		}
		var again <-chan time.Time
		if err != nil || a.standing.Load() > 0 {
			again = time.After(tradeAgain)
		}
		select {
		case <-ctx.Done():
		case <-a.trading:
		case <-again:
		}
		if !a.goesOn(ctx, "trade again") {
			return nil
		}
	}
}

// awaitReady waits until the store leases.
func (a *Agent) awaitReady(ctx context.Context) bool {
	select {
	case <-a.ready:
	case <-ctx.Done():
	}
	return a.goesOn(ctx, "ready")
}

// demand is a want of another node that this one is asked to answer.
type demand struct {
	block string
	pool  string
	is4   bool
	want  ipam.Want
}

func (a *Agent) tradeOnce(ctx context.Context) error {
	me, err := a.owner(ctx)
	if err != nil {
		return err
	}
	cached, err := a.cachedBlocks(ctx, func(string) bool { return true })
	if err != nil {
		return err
	}
	asked, idle := wantsOf(me, cached, time.Now())
	maps.DeleteFunc(a.answered, func(_ sharer, expires time.Time) bool { return time.Now().After(expires) })
	for _, r := range asked {
		a.crowd(r.pool)
	}
	var errs []error
	for _, r := range idle {
		if a.wanting.count(r.block) == 0 {
			_, err := a.take(ctx, r.pool, r.block)
			errs = append(errs, err)
		}
	}
	left := 0
	for i, r := range asked {
		answered, err := a.answer(ctx, me, r, sharers(asked[i:], r))
		if errs = append(errs, err); !answered {
			left++
		}
	}
	a.standing.Store(int64(left))
	return errors.Join(errs...)
}

// wantsOf are the wants that me is asked to answer, those that end first before the others, and the own ones.
func wantsOf(me ipam.Owner, blocks map[string]*ipam.Block, now time.Time) (asked, own []demand) {
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		b := blocks[name]
		for _, w := range b.Wants {
			r := demand{name, b.Pool, b.Slot.Addr().Is4(), w}
			switch {
			case w.Node == me.Node:
				own = append(own, r)
			case answerable(me, w, now):
				asked = append(asked, r)
			}
		}
	}
	slices.SortFunc(asked, func(a, b demand) int {
		return cmp.Or(a.want.Expires.Compare(b.want.Expires), cmp.Compare(a.want.Node, b.want.Node), cmp.Compare(a.block, b.block))
	})
	return asked, own
}

// answerable: w is for me, stands, and has no answer.
func answerable(me ipam.Owner, w ipam.Want, now time.Time) bool {
	return w.From == me.Node && len(w.Offered) == 0 && now.Before(w.Expires)
}

// sharers is how many of the demands are for what r is for.
func sharers(all []demand, r demand) int {
	n := 0
	for _, x := range all {
		if x.pool == r.pool && x.is4 == r.is4 {
			n++
		}
	}
	return n
}

// portion is how many of so many free addresses one of several askers gets, if it wants count: an equal part, where
// the owner gets one too, but at least one.
func portion(free, askers, count int) int {
	if free <= 0 {
		return 0
	}
	return min(count, max(1, free/(askers+1)))
}

// answer offers to r what is its part, and says whether that settles the want; if not, there is nothing for it now.
// Askers is how many ask, r included.
func (a *Agent) answer(ctx context.Context, me ipam.Owner, r demand, askers int) (answered bool, err error) {
	n, err := a.spareFor(r, askers)
	if err != nil || n == 0 {
		return false, err
	}
	done, err := a.mayClaim()
	if err != nil {
		return false, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	unlock, err := a.pools.lock(ctx, r.pool)
	if err != nil {
		return false, err
	}
	defer unlock()
	obj, b, err := a.lastSeen(ctx, r)
	if err != nil || b == nil {
		return err == nil, err
	}
	s, ours := claim.Mine(me, *b)
	i := slices.IndexFunc(b.Wants, func(w ipam.Want) bool { return w.Node == r.want.Node && answerable(me, w, time.Now()) })
	if i < 0 || !ours || s.Session != me.Session {
		return true, nil
	}
	ranges, err := a.store.WithdrawFree(r.block, n, b.Wants[i].Cooling)
	if err != nil || len(ranges) == 0 {
		return false, err
	}
	a.answered[sharer{r.block, r.want.Node}] = b.Wants[i].Expires
	stood, err := a.claims.Offer(ctx, me, obj, b.Wants[i], ranges...)
	if err != nil {
		a.wake() // what was withdrawn is shed
		return false, err
	}
	a.turn.put(flightKey(r.pool, r.is4), 0)
	a.metrics.ceded.WithLabelValues(r.pool).Add(float64(claim.Count(ranges)))
	a.log.InfoContext(ctx, "addresses ceded", "block", r.block, "pool", r.pool, "to", r.want.Node, "ranges", ranges, "wanted", stood)
	return true, nil
}

// lastSeen is the block of r. It is the cache's, on which Offer's write is as safe as on any: it names the version. But where an answer
// has been given that the cache does not show, it is read: another one would withdraw addresses in vain, and those do not come back.
func (a *Agent) lastSeen(ctx context.Context, r demand) (*v1alpha1.IPBlock, *ipam.Block, error) {
	if at, ok := a.answered[sharer{r.block, r.want.Node}]; !ok || !at.Equal(r.want.Expires) {
		if obj := a.cachedBlock(ctx, r.block); obj != nil {
			b, err := obj.Block()
			return obj, &b, err
		}
	}
	return a.read(ctx, r.block)
}

// cachedBlock is the object as the watch shows it; nil if it does not. It is the caller's to change.
func (a *Agent) cachedBlock(ctx context.Context, block string) *v1alpha1.IPBlock {
	var obj v1alpha1.IPBlock
	if a.fresh.Load() || a.cfg.Cache.Get(ctx, types.NamespacedName{Name: block}, &obj) != nil {
		return nil
	}
	return &obj
}

// spareFor is how many addresses r may get. What pods of this node wait for is not to be had, except by turns.
func (a *Agent) spareFor(r demand, askers int) (int, error) {
	s, err := a.stockOf(r.pool, r.is4)
	if err != nil {
		return 0, err
	}
	waiting := a.starving.count(flightKey(r.pool, r.is4))
	if a.turn.count(flightKey(r.pool, r.is4)) > 0 {
		waiting = 0
	}
	if s.Free == 0 && r.want.Cooling {
		return portion(s.Cooling-waiting, askers, r.want.Count), nil
	}
	return portion(s.Free-waiting, askers, r.want.Count), nil
}
