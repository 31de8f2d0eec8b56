// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
)

const (
	// Label is on the pools that this package makes; its value is the ipam.type that they are made for.
	Label = "ipam.railyard.dev/made-for"
	// gate is the label of a node that no node has: a pool that asks for it is closed.
	gate = "ipam.railyard.dev/open-by-migration"
)

// Object is the IPPool that configs with these ranges mean, which are one range: they have one name. The first that
// has a gateway or a wish for the size of blocks decides.
func Object(ranges []compat.Range) *v1alpha1.IPPool {
	var gateways []netip.Addr
	size := 0
	for _, r := range ranges {
		if r.Gateway.IsValid() && !slices.Contains(gateways, r.Gateway) {
			gateways = append(gateways, r.Gateway)
		}
		if size == 0 {
			size = r.BlockSize
		}
	}
	r := ranges[0]
	r.BlockSize = size
	p := FromSpec(r.Spec(gateways...))
	p.Spec.Domain = r.Domain()
	p.Labels = map[string]string{Label: compat.TypeWhereabouts}
	return p
}

// FromSpec is the object that parses to s, but for the UID.
func FromSpec(s ipam.PoolSpec) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: s.Name}, Spec: v1alpha1.IPPoolSpec{
		IPv4: subnet(s.IPv4), IPv6: subnet(s.IPv6), DefaultRoute: s.DefaultRoute,
	}}
	for _, r := range s.Routes {
		p.Spec.Routes = append(p.Spec.Routes, v1alpha1.Route{Dst: r.Dst, Via: r.Via})
	}
	return p
}

func subnet(s *ipam.SubnetSpec) *v1alpha1.Subnet {
	if s == nil {
		return nil
	}
	return &v1alpha1.Subnet{
		Subnet: s.Subnet, Gateway: s.Gateway, BlockSize: int32(s.BlockSize), //nolint:gosec // at most MaxBlockSize
		Ranges: ranges(s.Ranges), Exclude: ranges(s.Exclude), Reserved: ranges(s.Reserved),
	}
}

func ranges(texts []string) []v1alpha1.AddressRange {
	var out []v1alpha1.AddressRange
	for _, t := range texts {
		out = append(out, v1alpha1.AddressRange(t))
	}
	return out
}

// Close makes p a pool that no node may lease from, until Open.
func Close(p *v1alpha1.IPPool) {
	if IsClosed(p) {
		return
	}
	if p.Spec.NodeSelector == nil {
		p.Spec.NodeSelector = &metav1.LabelSelector{}
	}
	p.Spec.NodeSelector.MatchExpressions = append(p.Spec.NodeSelector.MatchExpressions,
		metav1.LabelSelectorRequirement{Key: gate, Operator: metav1.LabelSelectorOpExists})
}

// Open undoes Close.
func Open(p *v1alpha1.IPPool) {
	s := p.Spec.NodeSelector
	if s == nil {
		return
	}
	s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, isGate)
	if len(s.MatchExpressions) == 0 && len(s.MatchLabels) == 0 {
		p.Spec.NodeSelector = nil
	}
}

// IsClosed says that p is closed by Close.
func IsClosed(p *v1alpha1.IPPool) bool {
	return p.Spec.NodeSelector != nil && slices.ContainsFunc(p.Spec.NodeSelector.MatchExpressions, isGate)
}

func isGate(r metav1.LabelSelectorRequirement) bool { return r.Key == gate }

// update is have with what this package writes of a pool, as want has it, and whether that is another.
func update(have, want *v1alpha1.IPPool) (*v1alpha1.IPPool, bool) {
	out := have.DeepCopy()
	changed := false
	for _, f := range []struct{ have, want *v1alpha1.Subnet }{{out.Spec.IPv4, want.Spec.IPv4}, {out.Spec.IPv6, want.Spec.IPv6}} {
		if f.have == nil || f.want == nil {
			continue
		}
		gateways := append([]v1alpha1.AddressRange{v1alpha1.AddressRange(f.want.Gateway)}, f.want.Exclude...)
		for _, g := range gateways {
			switch {
			case g == "" || string(g) == f.have.Gateway || slices.Contains(f.have.Exclude, g):
			case f.have.Gateway == "":
				f.have.Gateway, changed = string(g), true
			default:
				f.have.Exclude, changed = append(f.have.Exclude, g), true
			}
		}
	}
	return out, changed
}
