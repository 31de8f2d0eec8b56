// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
)

const (
	// claimTimeout bounds one claim, with all its requests but those to other nodes. A claim goes on when the request that
	// caused it ends.
	claimTimeout = 6 * time.Second
	// fullPause and awayPause are how long a claim is not repeated after the pool was full, or the API away.
	fullPause, awayPause = time.Second, 3 * time.Second
)

// makeRoom claims a block of every family that lacks one, and says whether any was had.
func (a *Agent) makeRoom(ctx context.Context, no *store.NoRoom) (claimed bool, err error) {
	for _, f := range []struct{ lacks, is4 bool }{{no.Is4, true}, {no.Is6, false}} {
		if !f.lacks {
			continue
		}
		if e := a.claimOnce(ctx, no.Pool, f.is4); e != nil {
			err = errors.Join(err, e)
		} else {
			claimed = true
		}
	}
	return claimed, err
}

// claimOnce claims a block, or waits for the claim of the same family that is under way already.
func (a *Agent) claimOnce(ctx context.Context, pool string, is4 bool) error {
	if err := a.sitOut(ctx, pool, is4); err != nil {
		return err
	}
	done := a.flight.DoChan(flightKey(pool, is4), func() (any, error) {
		// The claim is for all who wait, so it does not end with the one who came first.
		ctx := context.WithoutCancel(ctx)
		a.cfg.Hit("claim")
		err := a.claimOrAsk(ctx, pool, is4)
		pause := awayPause
		if errors.Is(err, ipam.ErrPoolFull) {
			pause = fullPause
		}
		a.recent.set(pool, is4, a.cfg.Now()+pause, err)
		return nil, err
	})
	select {
	case r := <-done:
		a.cfg.Hit("claimed")
		return r.Err
	case <-ctx.Done():
		a.cfg.Hit("not claimed")
		return fmt.Errorf("%w: claiming a block of pool %s takes too long: %w", ipam.ErrUnavailable, pool, context.Cause(ctx))
	}
}

// sitOut gives the refusal that is remembered. But one that finds the pool full and has no cooling address to reuse
// waits until that is forgotten, or a pod here leaves one, and then there is none.
func (a *Agent) sitOut(ctx context.Context, pool string, is4 bool) error {
	for {
		now := a.cfg.Now()
		left, err := a.recent.left(pool, is4, now)
		if err == nil || !errors.Is(err, ipam.ErrPoolFull) {
			return err
		}
		rung := a.bell.wait() // before the look, so that nothing comes in between
		switch s, stockErr := a.stockOf(pool, is4); {
		case stockErr != nil || s.Cooling > 0 && s.Free == 0:
			return err
		case s.Free > 0:
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-rung:
		case <-ctx.Done():
		case <-a.ending:
		}
		a.cfg.Hit("sat out")
		if timer.Stop(); ctx.Err() != nil || closed(a.ending) {
			return err
		}
	}
}

// claimOrAsk claims a block, or has other nodes cede addresses where there is none to claim.
func (a *Agent) claimOrAsk(ctx context.Context, pool string, is4 bool) error {
	err := a.claim(ctx, pool, is4, glance)
	if full := fullError(err); full != nil {
		a.crowd(pool)
		return a.ask(ctx, pool, is4, full)
	}
	return err
}

func flightKey(pool string, is4 bool) string { return strconv.FormatBool(is4) + pool }

// claim claims a block of one family for those who wait for one. Where there is room meanwhile, it does nothing.
func (a *Agent) claim(ctx context.Context, pool string, is4 bool, how effort) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	return a.claimUnless(ctx, pool, is4, how, func() bool {
		err := a.store.Ready(ctx, pool)
		no := noRoom(err)
		return err == nil || no != nil && (is4 && !no.Is4 || !is4 && !no.Is6)
	})
}

// claimUnless claims a block of one family, unless there is enough when its turn has come.
func (a *Agent) claimUnless(ctx context.Context, pool string, is4 bool, how effort, enough func() bool) (err error) {
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
	if enough() {
		return nil
	}
	began := time.Now()
	defer func() { a.metrics.claimed(pool, began, err) }()
	p, err := a.store.Pool(pool)
	if err != nil {
		return err
	}
	me, err := a.owner(ctx)
	if err != nil {
		return err
	}
	held, err := a.finishReturns(ctx, me, pool)
	if err != nil {
		return err
	}
	if more, err := a.settleUnheld(ctx, me, pool, held); err != nil || more && enough() {
		return err
	}
	b, err := a.claimBlock(ctx, me, p, is4, how, held)
	if err != nil {
		return err
	}
	if err := a.grant(me, b); err != nil {
		return err
	}
	a.untilLow.Store(0) // how much is left is to be counted anew
	a.log.InfoContext(ctx, "block claimed", "block", b.Name, "pool", pool, "slot", b.Slot, "took", time.Since(began))
	return nil
}

// effort is how a crowded pool is searched for what nobody owns, which is seldom there: a list of all blocks is what costs the API
// server most.
type effort int

const (
	spare  effort = iota // a few blocks are looked at, and no more: there is no need yet
	glance               // all blocks, but only where nobody in a few has room
	whole                // all blocks
)

func (a *Agent) claimBlock(ctx context.Context, me ipam.Owner, p ipam.Pool, is4 bool, how effort, held []string) (ipam.Block, error) {
	switch {
	case !a.isCrowded(p):
		return a.claims.Claim(ctx, me, p, is4, held...)
	case how == whole || claim.Few(p, is4):
		return a.claims.Search(ctx, me, p, is4, held...)
	}
	b, err := a.claims.Sample(ctx, me, p, is4, held...)
	if full := fullError(err); full != nil && len(full.Askings) == 0 && how == glance {
		return a.claims.Search(ctx, me, p, is4, held...)
	}
	return b, err
}

// finishReturns gives back what is retired of the pool, so that a claim cannot find it, and says what else is held.
func (a *Agent) finishReturns(ctx context.Context, me ipam.Owner, pool string) (held []string, err error) {
	list, err := a.store.Holdings()
	if err != nil {
		return nil, err
	}
	for _, h := range list {
		switch {
		case h.Pool != pool:
		case h.Retired:
			if err := a.giveBack(ctx, me, pool, h.Block); err != nil {
				return nil, err
			}
		default:
			held = append(held, h.Block)
		}
	}
	return held, nil
}

// settleUnheld settles the shares that the watch cache shows and the store does not hold, which a claim could take
// for its own: whether pods use them has to be looked at first. It says whether there were any.
func (a *Agent) settleUnheld(ctx context.Context, me ipam.Owner, pool string, held []string) (bool, error) {
	if !closed(a.heard) {
		return false, nil // nothing is cached
	}
	cached, err := a.cachedBlocks(ctx, func(name string) bool { return !slices.Contains(held, name) })
	if err != nil {
		return false, err
	}
	found := false
	for _, name := range slices.Sorted(maps.Keys(cached)) {
		b := cached[name]
		if b.Pool != pool {
			continue
		}
		if _, ours := claim.Mine(me, *b); ours {
			found = true
			if _, err := a.settleLocked(ctx, me, name, pool); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// leaseNamed claims the addresses asked for by name that are not held here, and leases. The pool is locked from the
// claim to the lease, because sync gives back what is reserved and not leased.
func (a *Agent) leaseNamed(ctx context.Context, req ipam.Request, lacks []netip.Addr) (ipam.Lease, error) {
	done, err := a.mayClaim()
	if err != nil {
		return ipam.Lease{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	unlock, err := a.pools.lock(ctx, req.Pool)
	if err != nil {
		return ipam.Lease{}, err
	}
	defer unlock()
	p, err := a.store.Pool(req.Pool)
	if err != nil {
		return ipam.Lease{}, err
	}
	me, err := a.owner(ctx)
	if err != nil {
		return ipam.Lease{}, err
	}
	if _, err := a.finishReturns(ctx, me, req.Pool); err != nil {
		return ipam.Lease{}, err
	}
	for _, addr := range lacks {
		if err := a.claimNamed(ctx, me, p, addr); err != nil {
			return ipam.Lease{}, err
		}
	}
	l, err := a.leaseOnce(ctx, req)
	if err != nil {
		a.wake() // what was claimed goes back
	}
	return l, err
}

// claimNamed claims one address. If the share has it but the store does not, then its return is under way, perhaps
// by a write that has not arrived yet: that is finished first, so that it cannot undo the claim.
func (a *Agent) claimNamed(ctx context.Context, me ipam.Owner, p ipam.Pool, addr netip.Addr) (err error) {
	began := time.Now()
	defer func() { a.metrics.claimed(p.Name, began, err) }()
	sub, _ := p.Subnet(addr)
	block := ipam.BlockName(p.Name, sub.Slot(addr))
	held, err := a.holding(block)
	if err != nil {
		return err
	}
	_, b, err := a.read(ctx, block)
	if err != nil {
		return err
	}
	one := iprange.Of(addr)
	contains := func(ranges []iprange.Range) bool {
		return slices.ContainsFunc(ranges, func(r iprange.Range) bool { return r.Contains(addr) })
	}
	if b != nil && (held == nil || !contains(held.Ranges)) {
		if s, ok := claim.Mine(me, *b); ok && contains(s.Ranges) {
			if err := a.claims.Cede(ctx, me, block, one); err != nil {
				return err
			}
		}
	}
	got, err := a.claims.ClaimStatic(ctx, me, p, addr)
	if err != nil {
		return err
	}
	return a.grant(me, got)
}

// refusals remembers for a moment that a claim was refused, so that a node whose pods retry on a full pool, or
// without an API server, does not ask for each of them.
type refusals struct {
	mu sync.Mutex
	of map[string]refusal
}

type refusal struct {
	err   error
	until time.Duration // boot clock
}

func (r *refusals) get(pool string, is4 bool, now time.Duration) error {
	_, err := r.left(pool, is4, now)
	return err
}

// left is the refusal and how long it will be remembered.
func (r *refusals) left(pool string, is4 bool, now time.Duration) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.of[flightKey(pool, is4)]; now < x.until {
		return x.until - now, x.err
	}
	return 0, nil
}

// set remembers err until then; nil forgets.
func (r *refusals) set(pool string, is4 bool, until time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]refusal{}
	}
	if err == nil {
		delete(r.of, flightKey(pool, is4))
		return
	}
	r.of[flightKey(pool, is4)] = refusal{err, until}
}
