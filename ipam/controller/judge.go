// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// verdict is what the Accepted condition is to say.
type verdict struct {
	reason, message string
	granted         []string // the subnets, if accepted
}

func (v verdict) accepted() bool { return v.reason == v1alpha1.ReasonAccepted }

// judge decides about p among all pools (p may be one of them) and all blocks.
func judge(p *v1alpha1.IPPool, pools []v1alpha1.IPPool, blocks []v1alpha1.IPBlock) verdict {
	pool, err := p.Parse()
	if err != nil {
		return verdict{reason: v1alpha1.ReasonInvalid, message: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	wants := prefixes(pool)
	if why := leftover(p, wants, pools, blocks); why != "" {
		return verdict{reason: v1alpha1.ReasonLeftover, message: why}
	}
	if why := overlap(p, pools); why != "" {
		return verdict{reason: v1alpha1.ReasonOverlaps, message: why}
	}
	v := verdict{reason: v1alpha1.ReasonAccepted, message: "nodes may lease from the pool"}
	for _, w := range wants {
		v.granted = append(v.granted, w.String())
	}
	return v
}

func prefixes(p ipam.Pool) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range p.Subnets {
		out = append(out, s.Prefix)
	}
	return out
}

// leftover says which blocks of pools that are gone hold p's name or addresses; "" is none. Their domain is not
// known any more, so that their addresses count in every one.
func leftover(p *v1alpha1.IPPool, wants []netip.Prefix, pools []v1alpha1.IPPool, blocks []v1alpha1.IPBlock) string {
	alive := map[string]bool{p.Name + "/" + string(p.UID): true}
	for _, q := range pools {
		alive[q.Name+"/"+string(q.UID)] = true
	}
	var names []string
	for _, b := range blocks {
		if alive[b.Spec.Pool+"/"+b.Spec.PoolUID] {
			continue
		}
		slot, err := iprange.ParsePrefix(b.Spec.Slot)
		if b.Spec.Pool == p.Name || err == nil && slices.ContainsFunc(wants, slot.Overlaps) {
			names = append(names, fmt.Sprintf("%s (nodes: %s)", b.Name, nodes(b)))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%d blocks of a pool that is gone hold the name or the addresses: %s. They go when the last pod with one of "+
		"their addresses does", len(names), some(names))
}

func nodes(b v1alpha1.IPBlock) string {
	var out []string
	for _, s := range b.Spec.Shares {
		out = append(out, s.Node)
	}
	return some(out)
}

// some are the first few of names, for messages.
func some(names []string) string {
	slices.Sort(names)
	if n := len(names) - 5; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), n)
	}
	return strings.Join(names, ", ")
}

// held is a subnet that some pool has, or is before others to get.
type held struct {
	netip.Prefix
	pool string
}

// overlap says which other pool has one of p's subnets; "" is none.
func overlap(p *v1alpha1.IPPool, pools []v1alpha1.IPPool) string {
	var taken []held
	waiting := []*v1alpha1.IPPool{p}
	for i := range pools {
		q := &pools[i]
		if q.Name == p.Name || q.Spec.Domain != p.Spec.Domain {
			continue
		}
		for _, g := range granted(q) {
			taken = append(taken, held{g, q.Name})
		}
		if q.DeletionTimestamp == nil && len(ungranted(q)) > 0 {
			waiting = append(waiting, q)
		}
	}
	slices.SortFunc(waiting, func(a, b *v1alpha1.IPPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, q := range waiting {
		conflict := ""
		for _, w := range ungranted(q) {
			i := slices.IndexFunc(taken, func(t held) bool { return t.pool != q.Name && t.Overlaps(w) })
			if i >= 0 {
				conflict = fmt.Sprintf("%s overlaps %s of pool %s in domain %s: use another subnet, or another domain if it is another fabric",
					w, taken[i].Prefix, taken[i].pool, q.Spec.Domain)
				break
			}
		}
		if q == p {
			return conflict
		}
		if conflict == "" {
			for _, w := range ungranted(q) {
				taken = append(taken, held{w, q.Name})
			}
		}
	}
	return ""
}

// granted are the subnets that the pool has for as long as it exists.
func granted(p *v1alpha1.IPPool) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range p.Status.Granted {
		if prefix, err := netip.ParsePrefix(s); err == nil {
			out = append(out, prefix)
		}
	}
	return out
}

// ungranted are the subnets that the pool asks for and does not have; none if the pool is wrong by itself.
func ungranted(p *v1alpha1.IPPool) []netip.Prefix {
	pool, err := p.Parse()
	if err != nil {
		return nil
	}
	has := granted(p)
	return slices.DeleteFunc(prefixes(pool), func(w netip.Prefix) bool { return slices.Contains(has, w) })
}
