// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Check compares the store with itself and with the API, by a live read: what the node may lease from is a part of
// what the API says is its own, in this session (invariant 2). The error joins everything that is wrong. While
// another process changes the blocks of this node, an answer may be about a moment that has passed.
func (a *Agent) Check(ctx context.Context) error {
	errs := []error{a.store.Check()}
	me, err := a.owner(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	// Holdings first: what is granted later was acknowledged before, so the list shows it.
	holdings, err := a.store.Holdings()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	var list v1alpha1.IPBlockList
	if err := a.cfg.Client.List(ctx, &list, client.MatchingLabels{v1alpha1.NodeLabel(me.Node): ""}); err != nil {
		return errors.Join(append(errs, fmt.Errorf("%w: list the blocks of node %s: %w", ipam.ErrUnavailable, me.Node, err))...)
	}
	owned := map[string]*netipx.IPSet{}
	for i := range list.Items {
		b, err := list.Items[i].Block()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s, ok := claim.Mine(me, b); ok && s.Session == me.Session {
			owned[b.Name] = iprange.Set(s.Ranges...)
		}
	}
	for _, h := range holdings {
		set := owned[h.Block]
		for _, r := range h.Ranges {
			if !h.Retired && (set == nil || !set.ContainsRange(netipx.IPRangeFrom(r.From(), r.To()))) {
				errs = append(errs, fmt.Errorf("%w: node %s leases from %s of block %s, which the API does not give it", ipam.ErrInvalid, me.Node, r, h.Block))
			}
		}
	}
	return errors.Join(errs...)
}

// Alive says whether the store answers.
func (a *Agent) Alive() error {
	_, err := a.store.Pools()
	return err
}

// State says whether a request would be served now, and in words in what state the agent is. While the API server
// is away it is ready, because the node's own addresses are served.
func (a *Agent) State() (lines []string, err error) {
	heard := "the API server has answered since the start"
	if !closed(a.heard) {
		heard = "the API server has not answered since the start: serving from what the store knows"
	}
	lines = append(lines, "node "+a.cfg.Node, "session "+a.store.Session(), heard)
	if n := a.lost.Load(); n > 0 {
		lines = append(lines, fmt.Sprintf("%d addresses in use are not this node's any more", n))
	}
	if a.fresh.Load() {
		return lines, fmt.Errorf("%w: the lease store is new, and the node's addresses have not been found yet", ipam.ErrUnavailable)
	}
	return lines, a.Alive()
}
