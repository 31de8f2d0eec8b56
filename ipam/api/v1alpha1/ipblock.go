// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// NodeLabel is the label (its value is empty) of every block in which the node has a share, or a want. Node names can be
// longer than a label's name may be, so it is a hash.
func NodeLabel(node string) string {
	sum := sha256.Sum256([]byte(node))
	return labelNodePrefix + hex.EncodeToString(sum[:8])
}

// Block reads and checks the block. The error wraps ipam.ErrInvalid: nobody may claim or lease from such a block.
func (b *IPBlock) Block() (ipam.Block, error) {
	out := ipam.Block{Name: b.Name, Pool: b.Spec.Pool, PoolUID: b.Spec.PoolUID}
	var err error
	if out.Slot, err = iprange.ParsePrefix(b.Spec.Slot); err != nil {
		return ipam.Block{}, fmt.Errorf("block %s: %w", b.Name, &ipam.FieldError{Field: "spec.slot", Detail: err.Error()})
	}
	for i, s := range b.Spec.Shares {
		share := ipam.Share{Node: s.Node, NodeUID: s.NodeUID, Session: s.Session}
		for j, t := range s.Ranges {
			r, err := iprange.Parse(t)
			if err != nil {
				field := fmt.Sprintf("spec.shares[%d].ranges[%d]", i, j)
				return ipam.Block{}, fmt.Errorf("block %s: %w", b.Name, &ipam.FieldError{Field: field, Detail: err.Error()})
			}
			share.Ranges = append(share.Ranges, r)
		}
		out.Shares = append(out.Shares, share)
	}
	for _, w := range b.Spec.Wants {
		if want, ok := w.want(); ok {
			out.Wants = append(out.Wants, want)
		}
	}
	if err := out.Check(); err != nil {
		return ipam.Block{}, err
	}
	return out, nil
}

// want is false for one that cannot be read: a hint must not make a block unusable.
func (w Want) want() (ipam.Want, bool) {
	out := ipam.Want{
		Node: w.Node, NodeUID: w.NodeUID, Session: w.Session, From: w.From,
		Count: int(w.Count), Cooling: w.Cooling, Expires: w.Expires.Time,
	}
	for _, t := range w.Offered {
		r, err := iprange.Parse(t)
		if err != nil {
			return ipam.Want{}, false
		}
		out.Offered = append(out.Offered, r)
	}
	return out, true
}

func wantOf(w ipam.Want) Want {
	return Want{
		Node: w.Node, NodeUID: w.NodeUID, Session: w.Session, From: w.From,
		Count: int32(w.Count), Cooling: w.Cooling, Expires: metav1.NewMicroTime(w.Expires), Offered: rangeTexts(w.Offered),
	}
}

func rangeTexts(ranges []iprange.Range) []string {
	var out []string
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return out
}

// FromBlock makes the object of b, as a node creates it.
func FromBlock(b ipam.Block) *IPBlock {
	o := &IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: b.Name},
		Spec:       IPBlockSpec{Pool: b.Pool, PoolUID: b.PoolUID, Slot: b.Slot.String()},
	}
	o.SetShares(b)
	return o
}

// SetShares makes the shares and wants those of from, and the labels ours say whose they are. Other labels stay.
func (b *IPBlock) SetShares(from ipam.Block) {
	b.Spec.Shares, b.Spec.Wants = nil, nil
	l := map[string]string{}
	for k, v := range b.Labels {
		if !strings.HasPrefix(k, labelNodePrefix) {
			l[k] = v
		}
	}
	l[LabelPool] = from.Pool
	for _, s := range from.Shares {
		b.Spec.Shares = append(b.Spec.Shares, Share{Node: s.Node, NodeUID: s.NodeUID, Session: s.Session, Ranges: rangeTexts(s.Ranges)})
		l[NodeLabel(s.Node)] = ""
	}
	for _, w := range from.Wants {
		b.Spec.Wants = append(b.Spec.Wants, wantOf(w))
		l[NodeLabel(w.Node)] = "" // its watch shows it the answer
	}
	b.Labels = l
}

// ForgetStrangers drops from the mirror what nodes say that have no share any more: they do not come back for it.
func (b *IPBlock) ForgetStrangers() {
	stranger := func(node string) bool {
		return !slices.ContainsFunc(b.Spec.Shares, func(s Share) bool { return s.Node == node })
	}
	b.Status.Leases = slices.DeleteFunc(b.Status.Leases, func(l BlockLease) bool { return stranger(l.Node) })
	b.Status.Nodes = slices.DeleteFunc(b.Status.Nodes, func(n NodeUsage) bool { return stranger(n.Node) })
}

// SetNode makes u and leases what the mirror says about node u.Node, and corrects the sums. A node without leases
// and figures is left out. Leases are kept by address; the later of two nodes' words on one address is kept.
func (s *IPBlockStatus) SetNode(u NodeUsage, leases []BlockLease) {
	addrs := map[string]bool{}
	for _, l := range leases {
		addrs[l.Address] = true
	}
	s.Leases = slices.DeleteFunc(s.Leases, func(l BlockLease) bool { return l.Node == u.Node || addrs[l.Address] })
	s.Leases = append(s.Leases, leases...)
	slices.SortFunc(s.Leases, func(a, b BlockLease) int {
		x, _ := netip.ParseAddr(a.Address)
		y, _ := netip.ParseAddr(b.Address)
		return x.Compare(y)
	})
	s.Nodes = slices.DeleteFunc(s.Nodes, func(n NodeUsage) bool { return n.Node == u.Node })
	if u.Leased+u.Free+u.Cooling > 0 {
		s.Nodes = append(s.Nodes, u)
	}
	slices.SortFunc(s.Nodes, func(a, b NodeUsage) int { return strings.Compare(a.Node, b.Node) })
	s.Leased, s.Free, s.Cooling = 0, 0, 0
	for _, n := range s.Nodes {
		s.Leased, s.Free, s.Cooling = s.Leased+n.Leased, s.Free+n.Free, s.Cooling+n.Cooling
	}
}
