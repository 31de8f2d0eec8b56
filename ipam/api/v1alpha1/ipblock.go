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

// NodeLabel is the label (its value is empty) of every block in which the node has a share. Node names can be
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
	if err := out.Check(); err != nil {
		return ipam.Block{}, err
	}
	return out, nil
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

// SetShares makes the shares those of b, and the labels ours say the same. Other labels stay.
func (b *IPBlock) SetShares(from ipam.Block) {
	b.Spec.Shares = nil
	l := map[string]string{}
	for k, v := range b.Labels {
		if !strings.HasPrefix(k, labelNodePrefix) {
			l[k] = v
		}
	}
	l[LabelPool] = from.Pool
	for _, s := range from.Shares {
		share := Share{Node: s.Node, NodeUID: s.NodeUID, Session: s.Session}
		for _, r := range s.Ranges {
			share.Ranges = append(share.Ranges, r.String())
		}
		b.Spec.Shares = append(b.Spec.Shares, share)
		l[NodeLabel(s.Node)] = ""
	}
	b.Labels = l
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
