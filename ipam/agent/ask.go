// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/store"
)

const (
	// askPauses is how many times the time that a want took to write owners are waited for before more are asked as well: a
	// live one needs about as long to see it, to write its answer, and for that to be seen. It is askPauseMin at least and askPause
	// at most. When all have been asked it doubles, up to askPauseMax.
	askPauses, askPauseMin, askPause, askPauseMax = 5, 20 * time.Millisecond, 60 * time.Millisecond, time.Second
	// sure and firstAsks are how many addresses the first to be asked should have together by their mirrors, and how many they
	// are at most: one may be gone meanwhile, many hardly.
	sure, firstAsks = 8, 4
	// maxAsks is how many wants stand at once.
	maxAsks = 32
	// calmWait is how long a node asks that could reuse a cooling address.
	calmWait = 250 * time.Millisecond
	// wantLinger is how long a want outlives the wait for it at most.
	wantLinger = 5 * time.Second
	// relist is how long the list of owners counts at first, while nobody answers.
	relist = time.Second
)

// asks says whom to ask next. It is a value to decide on, but for its own wants, used by one goroutine.
type asks struct {
	left     []claim.Asking
	standing map[string]claim.Asking // by block: each has room for one want of a node
	seen     map[string]bool         // the blocks of which the watch has shown the want
	asked    map[sharer]bool         // since the list was made
	lost     bool                    // a want came to nothing: the list is old
}

// sharer is a node in a block.
type sharer struct{ block, node string }

func sharerOf(x claim.Asking) sharer { return sharer{x.Block, x.From} }

func newAsks(list []claim.Asking) *asks {
	return &asks{left: slices.Clone(list), standing: map[string]claim.Asking{}, seen: map[string]bool{}, asked: map[sharer]bool{}}
}

// first is how many to ask first.
func (q *asks) first() int {
	n, free := 0, 0
	for n < min(len(q.left), firstAsks) && free < sure {
		free += q.left[n].Free
		n++
	}
	return max(n, 1)
}

// drop forgets that a want stands, and asks its owner again after all others.
func (q *asks) drop(block string) {
	q.left = append(q.left, q.standing[block])
	delete(q.standing, block)
	delete(q.seen, block)
	q.lost = true
}

// next are up to n more to ask, each in another block, and whether they are ones that have not been asked: first in blocks
// where no want stands, then in the place of one that does. Where those have run out, it is one that was asked before.
// Who loses its place comes again after all the others.
func (q *asks) next(n int) (out []claim.Asking, more bool) {
	taken := map[string]bool{}
	pick := func(n int, fits func(x claim.Asking, stands bool) bool) {
		var left, replaced []claim.Asking
		for _, x := range q.left {
			was, stands := q.standing[x.Block]
			if len(out) >= n || taken[x.Block] || !stands && len(q.standing) >= maxAsks || !fits(x, stands) {
				left = append(left, x)
				continue
			}
			if stands {
				replaced = append(replaced, was)
			}
			out, taken[x.Block], q.standing[x.Block], q.asked[sharerOf(x)] = append(out, x), true, x, true
			delete(q.seen, x.Block)
		}
		q.left = append(left, replaced...)
	}
	pick(n, func(_ claim.Asking, stands bool) bool { return !stands })
	pick(n, func(x claim.Asking, _ bool) bool { return !q.asked[sharerOf(x)] })
	if len(out) > 0 {
		return out, true
	}
	pick(1, func(claim.Asking, bool) bool { return true })
	return out, false
}

// relisted takes the owners of a new list, but for those that are asked already.
func (q *asks) relisted(all []claim.Asking) {
	clear(q.asked)
	for _, x := range q.standing {
		q.asked[sharerOf(x)] = true
	}
	q.left = slices.DeleteFunc(all, func(x claim.Asking) bool {
		s, ok := q.standing[x.Block]
		return ok && s.From == x.From
	})
}

// ask gets addresses of one family from their owners, for those who wait for one, after a claim has said that the
// pool is full. Nil: there is room now. It ends with full where nobody has given anything in time.
func (a *Agent) ask(ctx context.Context, pool string, is4 bool, full *claim.FullError) (err error) {
	began := time.Now()
	defer func() { a.metrics.asked(pool, began, err) }()
	askings, wait := full.Askings, a.cfg.CedeWait
	s, err := a.stockOf(pool, is4)
	if err != nil {
		return err
	}
	calm := s.Cooling > 0 // it could reuse one
	if calm {
		askings, wait = slices.DeleteFunc(slices.Clone(askings), func(x claim.Asking) bool { return x.Free == 0 }), min(wait, calmWait)
	}
	if len(askings) == 0 || !closed(a.heard) { // without a watch no answer would be seen
		return full
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	q := newAsks(askings)
	defer func() { a.askEnds(slices.Collect(maps.Keys(q.standing))) }()
	pause, n, listed := time.Duration(0), q.first(), relist
	for {
		batch, more := q.next(n)
		sent := time.Now()
		for i, err := range a.askAll(ctx, pool, is4, batch, wait, !calm) {
			switch x := batch[i]; {
			case errors.Is(err, claim.ErrNoCeding):
				a.log.WarnContext(ctx, "no address can be had from other nodes", "pool", pool, "error", err)
				return full
			case err != nil:
				a.log.DebugContext(ctx, "not asked", "block", x.Block, "from", x.From, "error", err)
				a.gaveUp(q, x.Block)
			}
		}
		if n *= 2; more {
			pause = min(max(askPauses*time.Since(sent), askPauseMin), askPause)
		} else {
			pause = min(2*max(pause, askPause), askPauseMax)
		}
		got, err := a.awaitOffer(ctx, pool, is4, q, pause)
		switch {
		case err != nil || got:
			return err
		case ctx.Err() != nil:
			return full
		case time.Since(began) < listed && !q.lost:
			continue
		}
		if listed, q.lost = 2*listed, false; calm {
			continue
		}
		switch err := a.claim(ctx, pool, is4, whole); {
		case err == nil:
			return nil
		case fullError(err) != nil:
			q.relisted(fullError(err).Askings)
		}
	}
}

func fullError(err error) *claim.FullError {
	f, _ := errors.AsType[*claim.FullError](err)
	return f
}

// stockOf counts what the node has of one family of a pool.
func (a *Agent) stockOf(pool string, is4 bool) (store.PoolStats, error) {
	stats, err := a.store.Stats()
	for _, s := range stats {
		if s.Pool == pool && s.Is4 == is4 {
			return s, err
		}
	}
	return store.PoolStats{}, err
}

// askAll writes a want for each of the batch, which are in different blocks, all at once; and gives what came of each.
func (a *Agent) askAll(ctx context.Context, pool string, is4 bool, batch []claim.Asking, wait time.Duration, cooling bool) []error {
	errs := make([]error, len(batch))
	err := a.inPool(ctx, pool, func(me ipam.Owner, p ipam.Pool) {
		n := a.starving.count(flightKey(pool, is4)) + a.levels(p, is4).spare
		var all sync.WaitGroup
		for i, x := range batch {
			a.wanting.put(x.Block, 1)
			all.Go(func() {
				a.cfg.Hit("ask in " + x.Block)
				errs[i] = a.claims.Ask(ctx, me, x, n, cooling, time.Now().Add(wait+wantLinger))
			})
		}
		all.Wait()
		a.cfg.Hit("asked")
	})
	for i := range errs {
		errs[i] = cmp.Or(err, errs[i])
	}
	return errs
}

// inPool calls do under the lock of the pool, unless it is too late to begin anything.
func (a *Agent) inPool(ctx context.Context, pool string, do func(ipam.Owner, ipam.Pool)) error {
	done, err := a.mayClaim()
	if err != nil {
		return err
	}
	defer done()
	unlock, err := a.pools.lock(ctx, pool)
	if err != nil {
		return err
	}
	defer unlock()
	me, err := a.owner(ctx)
	if err != nil {
		return err
	}
	p, err := a.store.Pool(pool)
	if err == nil {
		do(me, p)
	}
	return err
}

// gaveUp is for a want that came to nothing.
func (a *Agent) gaveUp(q *asks, block string) {
	a.wanting.put(block, 0)
	q.drop(block)
}

// askEnds leaves the blocks' wants to trade, which takes them back.
func (a *Agent) askEnds(blocks []string) {
	for _, b := range blocks {
		a.wanting.put(b, 0)
	}
	poke(a.trading)
}

// awaitOffer waits until one of the blocks asked in has something, and takes it; or until a pod of this node has left
// something; or until the time is over.
func (a *Agent) awaitOffer(ctx context.Context, pool string, is4 bool, q *asks, wait time.Duration) (got bool, err error) {
	until := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		rung := a.bell.wait() // before the look, so that nothing comes in between
		if s, err := a.stockOf(pool, is4); err != nil || s.Free > 0 {
			return err == nil, err
		}
		ready, err := a.offeredIn(ctx, pool, q)
		if err != nil {
			return false, err
		}
		for _, block := range ready {
			if got, err = a.take(ctx, pool, block); err != nil || got {
				return got, err
			}
			a.gaveUp(q, block)
		}
		select {
		case <-rung:
		case <-timer.C:
		case <-a.ending:
		case <-ctx.Done():
		}
		a.cfg.Hit("waited")
		switch {
		case closed(a.ending):
			return false, fmt.Errorf("%w: the agent is stopping", ipam.ErrUnavailable)
		case ctx.Err() != nil || !time.Now().Before(until):
			return false, nil
		}
	}
}

// offeredIn are the blocks asked in of which the watch shows something that this node may take, or no want of its own
// any more.
func (a *Agent) offeredIn(ctx context.Context, pool string, q *asks) ([]string, error) {
	p, err := a.store.Pool(pool)
	if err != nil {
		return nil, err
	}
	me, err := a.owner(ctx)
	if err != nil {
		return nil, err
	}
	cached, err := a.cachedBlocks(ctx, func(name string) bool { _, ok := q.standing[name]; return ok })
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(q.standing)) {
		b, stands, free := cached[name], false, false
		if b != nil {
			s, _ := p.Subnet(b.Slot.Addr())
			stands = slices.ContainsFunc(b.Wants, me.Asks)
			free = len(b.Free(me, s.LeasableIn(b.Slot), time.Now())) > 0
		}
		if free || !stands && q.seen[name] {
			out = append(out, name)
		}
		q.seen[name] = q.seen[name] || stands
	}
	return out, nil
}

// take ends this node's want in a block, with what is there for it, and says whether that was anything.
func (a *Agent) take(ctx context.Context, pool, block string) (got bool, err error) {
	done, err := a.mayClaim()
	if err != nil {
		return false, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout) // what is begun to be taken is wanted, whoever has waited
	defer cancel()
	unlock, err := a.pools.lock(ctx, pool)
	if err != nil {
		return false, err
	}
	defer unlock()
	p, err := a.store.Pool(pool)
	if err != nil {
		return false, err
	}
	me, err := a.owner(ctx)
	if err != nil {
		return false, err
	}
	if other, err := a.settleForeign(ctx, me, pool, block); err != nil || other {
		return false, err
	}
	b, joined, err := a.claims.Take(ctx, me, p, block, a.cachedBlock(ctx, block))
	if err != nil || joined == 0 {
		return false, err
	}
	if err := a.grant(me, b); err != nil {
		return false, err
	}
	a.untilLow.Store(0)
	a.metrics.received.WithLabelValues(pool).Add(float64(joined))
	a.log.InfoContext(ctx, "addresses received", "block", block, "pool", pool, "addresses", joined)
	return true, nil
}

// settleForeign settles a share of this node's in the block that the store does not hold, of a former life or of a
// lost answer: a take must not grant it before it is known who uses it. It says whether there was one.
func (a *Agent) settleForeign(ctx context.Context, me ipam.Owner, pool, block string) (bool, error) {
	cached, err := a.cachedBlocks(ctx, func(name string) bool { return name == block })
	if err != nil || cached[block] == nil {
		return false, err
	}
	held, err := a.holding(block)
	if err != nil {
		return false, err
	}
	s, ours := claim.Mine(me, *cached[block])
	if !ours || held != nil && !held.Retired && s.Session == me.Session {
		return false, nil
	}
	_, err = a.settleLocked(ctx, me, block, pool)
	return true, err
}

// tally counts by key. It may be used concurrently.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func newTally() *tally { return &tally{of: map[string]int{}} }

func (t *tally) add(key string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of[key] += n; t.of[key] <= 0 {
		delete(t.of, key)
	}
}

func (t *tally) put(key string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.of, key); n > 0 {
		t.of[key] = n
	}
}

func (t *tally) count(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[key]
}

// bell wakes whoever waits at it.
type bell struct {
	mu sync.Mutex
	c  chan struct{}
}

// wait gives a channel that is closed when the bell rings next.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
