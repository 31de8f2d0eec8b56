// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
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
	// askPause is how long an owner is waited for before more are asked as well. When all have been, it doubles, up
	// to askPauseMax.
	askPause, askPauseMax = 60 * time.Millisecond, time.Second
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
	lost     bool                    // a want came to nothing: the list is old
}

// drop forgets that a want stands, and asks its owner again after all others.
func (q *asks) drop(block string) {
	q.left = append(q.left, q.standing[block])
	delete(q.standing, block)
	delete(q.seen, block)
	q.lost = true
}

// next are up to n more to ask, and whether they are ones in whose block nothing was asked yet. Where those have run
// out, or too many wants stand, it is one that replaces another in its block, which comes again after all the others.
func (q *asks) next(n int) (out []claim.Asking, more bool) {
	left := q.left[:0:0]
	for _, x := range q.left {
		if _, asked := q.standing[x.Block]; asked || len(out) == n || len(q.standing) >= maxAsks {
			left = append(left, x)
			continue
		}
		out = append(out, x)
		q.standing[x.Block] = x
	}
	q.left = left
	if len(out) > 0 {
		return out, true
	}
	i := slices.IndexFunc(q.left, func(x claim.Asking) bool { _, asked := q.standing[x.Block]; return asked })
	if i < 0 {
		return nil, false
	}
	x := q.left[i]
	q.left = append(slices.Delete(q.left, i, i+1), q.standing[x.Block])
	q.standing[x.Block] = x
	return []claim.Asking{x}, false
}

// relisted takes the owners of a new list, but for those that are asked already.
func (q *asks) relisted(all []claim.Asking) {
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
	q := &asks{left: slices.Clone(askings), standing: map[string]claim.Asking{}, seen: map[string]bool{}}
	defer func() { a.askEnds(slices.Collect(maps.Keys(q.standing))) }()
	pause, n, listed := askPause, 1, relist
	for {
		batch, more := q.next(n)
		for _, x := range batch {
			switch err := a.askOne(ctx, pool, is4, x, wait, !calm); {
			case errors.Is(err, claim.ErrNoCeding):
				a.log.WarnContext(ctx, "no address can be had from other nodes", "pool", pool, "error", err)
				return full
			case err != nil:
				a.log.DebugContext(ctx, "not asked", "block", x.Block, "from", x.From, "error", err)
				a.gaveUp(q, x.Block)
			}
		}
		if n *= 2; !more {
			pause = min(2*pause, askPauseMax)
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

// askOne writes a want.
func (a *Agent) askOne(ctx context.Context, pool string, is4 bool, x claim.Asking, wait time.Duration, cooling bool) error {
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
	if err != nil {
		return err
	}
	a.wanting.put(x.Block, 1)
	n := a.starving.count(flightKey(pool, is4)) + a.levels(p, is4).spare
	return a.claims.Ask(ctx, me, x, n, cooling, time.Now().Add(wait+wantLinger))
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
	b, joined, err := a.claims.Take(ctx, me, p, block)
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
