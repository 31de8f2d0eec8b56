// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/railyard-net/railyard/ipam"
)

// collector remembers which leases' namespaces were seen gone, and since when. It is used by one goroutine.
type collector struct {
	grace time.Duration
	// gone says that a namespace does not exist any more. Doubt is false.
	gone func(ipam.NetNS) bool
	seen map[ipam.Key]sighting
}

type sighting struct {
	netns ipam.NetNS
	since time.Duration // boot clock
}

// look gives the leases whose namespace was gone at every look for at least the grace time, and at two looks or
// more. A lease without a namespace is never among them.
func (c *collector) look(now time.Duration, leases []ipam.Lease) []ipam.Lease {
	var dead []ipam.Lease
	seen := map[ipam.Key]sighting{}
	for _, l := range leases {
		if l.NetNS == (ipam.NetNS{}) || !c.gone(l.NetNS) {
			continue
		}
		s, known := c.seen[l.Key]
		if !known || s.netns != l.NetNS {
			s = sighting{l.NetNS, now}
		} else if now-s.since >= c.grace {
			dead = append(dead, l)
		}
		seen[l.Key] = s
	}
	c.seen = seen
	return dead
}

// collect ends the leases whose namespaces are gone, once per interval, until ctx ends.
func (a *Agent) collect(ctx context.Context) error {
	c := &collector{grace: a.cfg.GCGrace, gone: a.cfg.gone}
	held := map[ipam.Key]time.Duration{}
	return a.every(ctx, a.cfg.GCInterval, "collect leases", func(ctx context.Context) error {
		leases, err := a.store.Leases()
		if err != nil {
			return err
		}
		if err := a.endConflicts(ctx, leases, held); err != nil {
			return err
		}
		for _, l := range c.look(a.cfg.Now(), leases) {
			if err := a.endDead(ctx, l, c.gone); err != nil {
				return err
			}
		}
		return nil
	})
}

// endDead releases l unless it has been leased anew for another namespace since it was looked at.
func (a *Agent) endDead(ctx context.Context, l ipam.Lease, gone func(ipam.NetNS) bool) error {
	a.leasing.Lock()
	defer a.leasing.Unlock()
	now, err := a.store.Lookup(ctx, l.Key)
	if err != nil || now.NetNS != l.NetNS || !gone(l.NetNS) {
		return ignoreNotFound(err)
	}
	if err := a.store.End(l.Key, l.NetNS); err != nil {
		return fmt.Errorf("end %v: %w", l.Key, err)
	}
	a.metrics.collected.Inc()
	a.log.InfoContext(ctx, "lease ended, its network namespace is gone", "network", l.Key.Network,
		"containerID", l.Key.ContainerID, "ifName", l.Key.IfName, "netns", l.NetNS.Path, "pool", l.Pool)
	a.wake()
	a.freed()
	poke(a.unused)
	return nil
}
