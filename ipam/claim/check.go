// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// CheckBlocks checks the first invariant, an address is owned by at most one node, over all blocks of one domain.
// The error joins everything that is wrong.
func CheckBlocks(blocks []ipam.Block) error {
	type owned struct {
		iprange.Range
		block, node string
	}
	var all []owned
	var errs []error
	for _, b := range blocks {
		errs = append(errs, b.Check())
		for _, s := range b.Shares {
			for _, r := range s.Ranges {
				all = append(all, owned{r, b.Name, s.Node})
			}
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return a.From().Compare(b.From()) })
	var widest owned // of those so far, the one that reaches furthest
	for _, x := range all {
		if widest.IsValid() && widest.Overlaps(x.Range) && widest.block != x.block { // within a block: Check's
			errs = append(errs, fmt.Errorf("%w: %s of node %s (block %s) and %s of node %s (block %s) overlap", ipam.ErrInvalid,
				widest.Range, widest.node, widest.block, x.Range, x.node, x.block))
		}
		if !widest.IsValid() || widest.To().Less(x.To()) {
			widest = x
		}
	}
	return errors.Join(errs...)
}

// CheckCluster reads all blocks of a cluster and checks the first invariant in each domain. A block of a pool that
// is gone counts in the domain of the pool that has its name now, or in one of its own.
func CheckCluster(pools []v1alpha1.IPPool, blocks []v1alpha1.IPBlock) error {
	domain := map[string]string{}
	for _, p := range pools {
		domain[p.Name] = p.Spec.Domain
	}
	by := map[string][]ipam.Block{}
	var errs []error
	for _, o := range blocks {
		b, err := o.Block()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d, ok := domain[b.Pool]
		if !ok {
			d = "\x00" + b.Pool
		}
		by[d] = append(by[d], b)
	}
	for _, b := range by {
		errs = append(errs, CheckBlocks(b))
	}
	return errors.Join(errs...)
}
