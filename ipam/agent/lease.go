// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/store"
)

const (
	// leaseWait bounds how long a lease loses the room that was claimed for it to others.
	leaseWait = 20 * time.Second
	// firstWait is how long a request waits for what only the API can say first, if its own time allows.
	firstWait = 10 * time.Second
)

// Lease implements ipam.Leaser. While the node has room it asks nobody. Without room it claims a block and waits
// for it, or, where none is to be had, for other nodes to cede addresses; at last it reuses an address that still cools, and
// else says ErrPoolFull, or ErrUnavailable if the API cannot be asked.
func (a *Agent) Lease(ctx context.Context, req ipam.Request) (l ipam.Lease, err error) {
	defer a.metrics.observe("lease", time.Now(), &err)
	l, err = a.lease(ctx, req)
	if err != nil {
		poke(a.unused) // what a request for a reservation has begun may have to end
	}
	return l, err
}

func (a *Agent) lease(ctx context.Context, req ipam.Request) (l ipam.Lease, err error) {
	var lacked *store.NoRoom
	for began := time.Now(); time.Since(began) < leaseWait; {
		l, err = a.leaseOnce(ctx, req)
		no := noRoom(err)
		if no != nil && lacked == nil {
			lacked = no
			defer a.starves(no)()
		}
		switch {
		case err == nil:
			if lacked != nil {
				a.served(lacked)
			}
			a.made.Add(1)
			if a.untilLow.Add(-1) <= 0 {
				poke(a.leased)
			}
			return l, nil
		case errors.Is(err, ipam.ErrPoolUnknown) && a.awaits(ctx, a.heard):
			continue
		case isSticky(err):
			return a.leaseSticky(ctx, req)
		case no == nil:
			return ipam.Lease{}, a.explain(err)
		}
		claimed, roomErr := a.makeRoom(ctx, no)
		if len(no.Static) > 0 {
			l, err = a.leaseNamed(ctx, req, no.Static)
			if no = noRoom(err); no == nil {
				return l, err
			}
		}
		switch {
		case roomErr != nil && no.Cooling:
			return a.reuse(ctx, req)
		case roomErr != nil && !claimed:
			return ipam.Lease{}, roomErr
		}
	}
	return ipam.Lease{}, fmt.Errorf("%w: for %s others took the room that was claimed: %w", ipam.ErrUnavailable, leaseWait, err)
}

// starves counts a request among those that wait for room, until done is called.
func (a *Agent) starves(no *store.NoRoom) (done func()) {
	count := func(n int) {
		if no.Is4 {
			a.starving.add(flightKey(no.Pool, true), n)
		}
		if no.Is6 {
			a.starving.add(flightKey(no.Pool, false), n)
		}
	}
	count(1)
	return func() {
		count(-1)
		a.freed()
	}
}

// served has others come first with what is freed next.
func (a *Agent) served(no *store.NoRoom) {
	for is4, lacked := range map[bool]bool{true: no.Is4, false: no.Is6} {
		if lacked {
			a.turn.put(flightKey(no.Pool, is4), 1)
		}
	}
}

// freed has those look again for whom there was nothing, here and elsewhere.
func (a *Agent) freed() {
	a.bell.ring()
	if a.standing.Load() > 0 {
		poke(a.trading)
	}
}

// noRoom is what err says the node lacks; nil if err says something else.
func noRoom(err error) *store.NoRoom {
	var no *store.NoRoom
	if !errors.As(err, &no) {
		return nil
	}
	return no
}

// isSticky says that the store leaves it to the agent whether the addresses follow somebody.
func isSticky(err error) bool {
	_, is := errors.AsType[*store.StickyError](err)
	return is
}

// leaseOnce is one try, on the store alone.
func (a *Agent) leaseOnce(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	if a.fresh.Load() && !a.awaits(ctx, a.ready) {
		return ipam.Lease{}, fmt.Errorf("%w: the lease store of node %s is new, and the API server has not said yet which addresses are the node's",
			ipam.ErrUnavailable, a.cfg.Node)
	}
	a.leasing.RLock()
	defer a.leasing.RUnlock()
	return a.store.Lease(ctx, req)
}

func (a *Agent) reuse(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	a.leasing.RLock()
	defer a.leasing.RUnlock()
	return a.store.LeaseReusing(ctx, req)
}

// awaits waits for c to be closed, within reason. It says whether that was worth a wait: false if c was closed
// before, so that the state cannot have changed, or was not in time.
func (a *Agent) awaits(ctx context.Context, c chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	select {
	case <-c:
	case <-ctx.Done():
	}
	a.cfg.Hit("awaited")
	return closed(c)
}

// explain makes an unknown pool unavailable while the API has not been heard at all.
func (a *Agent) explain(err error) error {
	if errors.Is(err, ipam.ErrPoolUnknown) {
		select {
		case <-a.heard:
		default:
			return fmt.Errorf("%w: the API server has not answered since the agent started: %s", ipam.ErrUnavailable, err.Error())
		}
	}
	return err
}

// Release implements ipam.Leaser. It never needs the API.
func (a *Agent) Release(ctx context.Context, k ipam.Key) (err error) {
	defer a.metrics.observe("release", time.Now(), &err)
	l, err := a.store.Lookup(ctx, k)
	if err != nil {
		return ignoreNotFound(err)
	}
	if err := a.store.Release(ctx, k); err != nil {
		return err
	}
	if a.named(l) {
		a.wake() // a static address goes back at once
	}
	poke(a.unused)
	a.freed()
	return nil
}

// named says whether l holds an address that its pool gives by name only.
func (a *Agent) named(l ipam.Lease) bool {
	p, err := a.store.Pool(l.Pool)
	if err != nil {
		return false
	}
	for _, x := range l.Addresses {
		sub, _ := p.Subnet(x.Prefix.Addr())
		for _, r := range sub.Reserved {
			if r.Contains(x.Prefix.Addr()) {
				return true
			}
		}
	}
	return false
}

// Lookup implements ipam.Leaser.
func (a *Agent) Lookup(ctx context.Context, k ipam.Key) (l ipam.Lease, err error) {
	defer a.metrics.observe("lookup", time.Now(), &err)
	return a.store.Lookup(ctx, k)
}

// Retain implements ipam.Leaser.
func (a *Agent) Retain(ctx context.Context, network string, keep []ipam.Key) (n int, err error) {
	defer a.metrics.observe("retain", time.Now(), &err)
	n, err = a.store.Retain(ctx, network, keep)
	if n > 0 {
		a.log.InfoContext(ctx, "leases ended, the runtime does not know their attachments", "network", network, "leases", n)
		a.wake()
		a.freed()
		poke(a.unused)
	}
	return n, err
}

// Ready implements ipam.Leaser. Where the node has no room but nothing says that a claim would fail, it is nil:
// asking costs no request.
func (a *Agent) Ready(ctx context.Context, pool string) (err error) {
	defer a.metrics.observe("ready", time.Now(), &err)
	if a.fresh.Load() {
		return fmt.Errorf("%w: the lease store of node %s is new, and the API server has not said yet which addresses are the node's",
			ipam.ErrUnavailable, a.cfg.Node)
	}
	err = a.store.Ready(ctx, pool)
	no := noRoom(err)
	switch {
	case no == nil:
		return a.explain(err)
	case no.Cooling:
		return nil // reused if nothing else is to be had
	}
	now := a.cfg.Now()
	for _, f := range []struct{ lacks, is4 bool }{{no.Is4, true}, {no.Is6, false}} {
		if f.lacks {
			if err := a.recent.get(pool, f.is4, now); err != nil {
				return err
			}
		}
	}
	return nil
}
