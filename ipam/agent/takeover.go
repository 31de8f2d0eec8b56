// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
)

// taken is a share that this session carries, but of which the store may not know who uses it: it was another
// session's, or a crash or a lost answer came between the write and the grant.
type taken struct {
	holding store.Holding
	// mirror is what the block's status remembers of the leases, which may be nothing or old.
	mirror []v1alpha1.BlockLease
}

// takeOver grants such shares, after it has leased to the live namespaces what they use.
// The scan comes after the fence: what the old session could do, it has done.
func (a *Agent) takeOver(ctx context.Context, shares []taken) error {
	if len(shares) == 0 {
		return nil
	}
	inUse, err := a.cfg.inUse(ctx)
	if err != nil {
		return fmt.Errorf("look for addresses in use, before any other is leased: %w", err)
	}
	var errs []error
	for _, t := range shares {
		n, err := a.grantAround(ctx, t, inUse)
		errs = append(errs, err)
		a.metrics.recovered.Add(float64(n))
		a.log.InfoContext(ctx, "share taken over", "block", t.holding.Block, "addressesInUse", n)
	}
	return errors.Join(errs...)
}

// grantAround grants t with the addresses in use leased, in one step: a crash must not leave them granted and free.
func (a *Agent) grantAround(ctx context.Context, t taken, inUse []found) (int, error) {
	a.leasing.Lock()
	defer a.leasing.Unlock()
	restored, err := a.store.GrantInUse(t.holding, recoveredLeases(t, inUse))
	for _, l := range restored {
		a.log.InfoContext(ctx, "address in use leased again", "address", l.Addresses[0].Prefix.Addr(), "network", l.Key.Network,
			"containerID", l.Key.ContainerID, "ifName", l.Key.IfName, "netns", l.NetNS.Path)
	}
	return len(restored), err
}

// recoveredLeases has one lease of one address for each address of t that is in use, under the key that the mirror
// remembers, or else one of the namespace's. An address found twice is leased to the first.
func recoveredLeases(t taken, inUse []found) []ipam.Lease {
	keys := map[string]v1alpha1.BlockLease{}
	for _, m := range t.mirror {
		keys[m.Address] = m
	}
	seen := map[netip.Addr]bool{}
	var out []ipam.Lease
	for _, f := range inUse {
		mine := slices.ContainsFunc(t.holding.Ranges, func(r iprange.Range) bool { return r.Contains(f.addr) })
		if !mine || seen[f.addr] {
			continue
		}
		seen[f.addr] = true
		l := ipam.Lease{
			Key: ipam.Key{IfName: f.ifName}, Pool: t.holding.Pool, NetNS: f.netns,
			Addresses: []ipam.Address{{Prefix: netip.PrefixFrom(f.addr, f.addr.BitLen())}},
		}
		l.Key = store.RecoveredKey(l)
		if m, ok := keys[f.addr.String()]; ok {
			k := ipam.Key{Network: m.Network, ContainerID: m.ContainerID, IfName: m.IfName}
			if k.Validate() == nil {
				l.Key, l.Pod = k, ipam.Pod{Namespace: m.Namespace, Name: m.Pod}
			}
		}
		out = append(out, l)
	}
	return out
}
