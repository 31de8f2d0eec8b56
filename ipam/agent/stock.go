// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"math"
	"time"
)

const (
	// aheadEvery bounds how often the level of the pools is looked at while leases are made; aheadPause is the
	// wait after a claim ahead that failed.
	aheadEvery, aheadPause = 100 * time.Millisecond, 30 * time.Second
	// returnMin and returnMax bound the time between two looks for blocks to give back; returnClosed is that time
	// for pools that are closed.
	returnMin, returnMax, returnClosed = 250 * time.Millisecond, 30 * time.Second, time.Second
)

// claimAhead claims blocks before they are needed, one after the other, until ctx ends.
func (a *Agent) claimAhead(ctx context.Context) error {
	var paused refusals
	for {
		select {
		case <-ctx.Done():
		case <-a.leased:
		}
		if !a.goesOn(ctx, "claim ahead") {
			return nil
		}
		if err := a.topUp(ctx, &paused); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "claim ahead of need failed", "error", err)
		}
		pause := time.NewTimer(aheadEvery)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		if pause.Stop(); !a.goesOn(ctx, "claimed ahead") {
			return nil
		}
	}
}

// topUp claims a block of each family in use that is low. It does not ask other nodes: in a pool without a free block
// that would move the same addresses round for ever.
func (a *Agent) topUp(ctx context.Context, paused *refusals) error {
	const many = math.MaxInt32
	a.untilLow.Store(many)
	stats, err := a.store.Stats()
	if err != nil {
		return err
	}
	type family struct {
		pool string
		is4  bool
	}
	var lows []family
	slack := many
	for _, s := range stats {
		p, err := a.store.Pool(s.Pool)
		if err != nil || p.Closed != "" || s.Leased == 0 {
			continue
		}
		l := a.levels(p, s.Is4)
		switch {
		case l.low == 0:
		case l.untilLow(s.Free) > 0:
			slack = min(slack, l.untilLow(s.Free))
		case paused.get(s.Pool, s.Is4, a.cfg.Now()) != nil:
			slack = min(slack, l.low)
		default:
			lows = append(lows, family{s.Pool, s.Is4})
		}
	}
	a.untilLow.Add(int64(slack - many)) // less what was leased meanwhile
	var errs []error
	for _, f := range lows {
		ctx, cancel := context.WithTimeout(ctx, claimTimeout)
		err := a.claimUnless(ctx, f.pool, f.is4, spare, func() bool { return !a.isLow(f.pool, f.is4) })
		cancel()
		if err != nil {
			paused.set(f.pool, f.is4, a.cfg.Now()+aheadPause, err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) isLow(pool string, is4 bool) bool {
	p, err := a.store.Pool(pool)
	if err != nil {
		return false
	}
	s, err := a.stockOf(pool, is4)
	return err == nil && a.levels(p, is4).untilLow(s.Free) <= 0
}

// returnIdle gives blocks back that have been empty for long and could be spared at two looks, until ctx ends. Those of
// a pool that is closed go at once.
func (a *Agent) returnIdle(ctx context.Context) error {
	interval := min(max(a.cfg.ReleaseAfter/4, returnMin), returnMax)
	var looked time.Duration
	looks := quiet{}
	return a.every(ctx, min(interval, returnClosed), "give empty blocks back", func(ctx context.Context) error {
		all := a.cfg.Now()-looked >= interval
		if all {
			looked = a.cfg.Now()
		}
		stocks, err := a.stocks(all)
		if err != nil {
			return err
		}
		for _, s := range stocks {
			minIdle, spare := a.cfg.ReleaseAfter, s.returnable()
			if s.closed {
				minIdle = 0
			} else {
				spare = looks.twice(s.family, spare)
			}
			for _, block := range spare {
				// The store decides once more, together with the leases: it knows how long each address has been idle.
				retired, err := a.store.Retire(block, minIdle)
				if err != nil {
					return err
				}
				if retired {
					a.wake()
				}
			}
		}
		return nil
	})
}

// stocks are what the store has, by pool and family: of every pool, or of those that are closed.
func (a *Agent) stocks(all bool) ([]stock, error) {
	pools, held, err := a.storedPools()
	if err != nil {
		return nil, err
	}
	for name, p := range pools {
		if !held[name] || !all && p.Closed == "" {
			delete(pools, name)
		}
	}
	if len(pools) == 0 {
		return nil, nil
	}
	stats, err := a.store.Stats()
	if err != nil {
		return nil, err
	}
	holdings, err := a.store.Holdings()
	if err != nil {
		return nil, err
	}
	var out []stock
	for _, st := range stats {
		p, ok := pools[st.Pool]
		if !ok {
			continue
		}
		s := stock{
			levels: a.levels(p, st.Is4), family: flightKey(st.Pool, st.Is4), leased: st.Leased, free: st.Free, closed: p.Closed != "",
		}
		for _, h := range holdings {
			if h.Pool != st.Pool || h.Slot.Addr().Is4() != st.Is4 || h.Retired {
				continue
			}
			s.blocks++
			leases, free, cooling, err := a.store.BlockLeases(h.Block)
			if err != nil {
				return nil, err
			}
			if len(leases) == 0 && cooling == 0 {
				s.empty = append(s.empty, emptyBlock{h.Block, free})
			}
		}
		out = append(out, s)
	}
	return out, nil
}
