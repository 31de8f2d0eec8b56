// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func ranges(t *testing.T, texts ...string) []iprange.Range {
	t.Helper()
	var out []iprange.Range
	for _, s := range texts {
		r, err := iprange.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestBlockRoundTrip(t *testing.T) {
	for title, b := range map[string]ipam.Block{
		"free": {Name: "p.10-0-0-0", Pool: "p", PoolUID: "u", Slot: netip.MustParsePrefix("10.0.0.0/26")},
		"shared": {Name: "p.fd00-0-0-0-0-0-0-40", Pool: "p", PoolUID: "u", Slot: netip.MustParsePrefix("fd00::40/122"), Shares: []ipam.Share{
			{Node: "a", NodeUID: "1", Session: "s", Ranges: ranges(t, "fd00::40-fd00::4e", "fd00::60/123")},
			{Node: strings.Repeat("n", 253), NodeUID: "2", Session: "t", Ranges: ranges(t, "fd00::50")},
		}, Wants: []ipam.Want{
			{Node: "b", NodeUID: "3", Session: "u", From: "a", Count: 9, Cooling: true, Expires: time.Unix(7, 8000), Offered: ranges(t, "fd00::54/127")},
		}},
	} {
		t.Run(title, func(t *testing.T) {
			o := v1alpha1.FromBlock(b)
			got, err := o.Block()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(b, got, cmp.Comparer(func(a, b iprange.Range) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Error(d)
			}
			for _, w := range b.Wants {
				if _, ok := o.Labels[v1alpha1.NodeLabel(w.Node)]; !ok {
					t.Errorf("no label of node %s, which asks, in %v", w.Node, o.Labels)
				}
			}
			if len(o.Labels) != 1+len(b.Shares)+len(b.Wants) || o.Labels[v1alpha1.LabelPool] != "p" {
				t.Errorf("labels %v", o.Labels)
			}
			for _, s := range b.Shares {
				if _, ok := o.Labels[v1alpha1.NodeLabel(s.Node)]; !ok {
					t.Errorf("no label of node %s in %v", s.Node, o.Labels)
				}
			}
		})
	}
}

func TestSetSharesKeepsOtherLabels(t *testing.T) {
	b := ipam.Block{Name: "p.10-0-0-0", Pool: "p", Slot: netip.MustParsePrefix("10.0.0.0/26"), Shares: []ipam.Share{{Node: "a", Ranges: ranges(t, "10.0.0.1")}}}
	o := v1alpha1.FromBlock(b)
	o.Labels["team"] = "net"
	b.Shares[0].Node = "b"
	o.SetShares(b)
	want := map[string]string{"team": "net", v1alpha1.LabelPool: "p", v1alpha1.NodeLabel("b"): ""}
	if d := cmp.Diff(want, o.Labels); d != "" {
		t.Error(d)
	}
}

func TestBlockUnreadable(t *testing.T) {
	share := func(r ...string) []v1alpha1.Share {
		return []v1alpha1.Share{{Node: "a", NodeUID: "u", Session: "s", Ranges: r}}
	}
	for title, tc := range map[string]struct {
		name string
		spec v1alpha1.IPBlockSpec
		want string
	}{
		"slot":          {"p.x", v1alpha1.IPBlockSpec{Pool: "p", Slot: "x"}, "spec.slot"},
		"name":          {"p.10-0-0-64", v1alpha1.IPBlockSpec{Pool: "p", Slot: "10.0.0.0/26"}, "must be named p.10-0-0-0"},
		"range":         {"p.10-0-0-0", v1alpha1.IPBlockSpec{Pool: "p", Slot: "10.0.0.0/26", Shares: share("10.0.0.1", "..")}, "spec.shares[0].ranges[1]"},
		"range outside": {"p.10-0-0-0", v1alpha1.IPBlockSpec{Pool: "p", Slot: "10.0.0.0/26", Shares: share("10.0.0.64")}, "outside of"},
		"twice":         {"p.10-0-0-0", v1alpha1.IPBlockSpec{Pool: "p", Slot: "10.0.0.0/26", Shares: share("10.0.0.1", "10.0.0.0/30")}, "owned twice"},
	} {
		t.Run(title, func(t *testing.T) {
			o := v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: tc.name}, Spec: tc.spec}
			_, err := o.Block()
			if !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an ErrInvalid with %q", err, tc.want)
			}
		})
	}
}

// A want is a hint: one that says nothing makes no block unreadable.
func TestWantUnreadable(t *testing.T) {
	o := v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: "p.10-0-0-0"}, Spec: v1alpha1.IPBlockSpec{Pool: "p", Slot: "10.0.0.0/26", Wants: []v1alpha1.Want{
		{Node: "a", Offered: []string{".."}}, {Node: "b", Offered: []string{"10.9.9.9"}},
	}}}
	if b, err := o.Block(); err != nil || len(b.Wants) != 1 || b.Wants[0].Node != "b" {
		t.Errorf("got %+v, %v; want the second want", b, err)
	}
}

func TestParse(t *testing.T) {
	second := int32(1)
	p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: v1alpha1.IPPoolSpec{
		IPv4:            &v1alpha1.Subnet{Subnet: "10.0.0.0/24", Ranges: []v1alpha1.AddressRange{"10.0.0.8/29"}, Exclude: []v1alpha1.AddressRange{"10.0.0.9"}, Reserved: []v1alpha1.AddressRange{"10.0.0.100"}, Gateway: "10.0.0.1", BlockSize: 8},
		Routes:          []v1alpha1.Route{{Dst: "10.0.0.0/8"}},
		CooldownSeconds: &second,
		Watermarks:      &v1alpha1.Watermarks{Low: new(int32(2)), KeepLast: new(true)},
	}}
	got, err := p.Parse()
	if err != nil {
		t.Fatal(err)
	}
	want, err := ipam.ParsePool(ipam.PoolSpec{Name: "p", UID: "u", Cooldown: new(time.Second), Watermarks: ipam.Watermarks{Low: new(2), KeepLast: new(true)}, Routes: []ipam.RouteSpec{{Dst: "10.0.0.0/8"}},
		IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/24", Ranges: []string{"10.0.0.8/29"}, Exclude: []string{"10.0.0.9"}, Reserved: []string{"10.0.0.100"}, Gateway: "10.0.0.1", BlockSize: 8}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b iprange.Range) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}

	p.Name, p.Spec.IPv4.Subnet = "a.b", "10.0.0.1/24"
	p.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Like"}}}
	_, err = p.Parse()
	for _, field := range []string{"metadata.name", "spec.ipv4.subnet", "spec.nodeSelector"} {
		if !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an ErrInvalid that names %s", err, field)
		}
	}
}

func TestOpen(t *testing.T) {
	accepted := func(status metav1.ConditionStatus, generation int64) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: status, Reason: "Why", Message: "because", ObservedGeneration: generation}}
	}
	ours := &metav1.LabelSelector{MatchLabels: map[string]string{"rail": "yes"}}
	for title, tc := range map[string]struct {
		deleted    bool
		conditions []metav1.Condition
		selector   *metav1.LabelSelector
		want       string
	}{
		"accepted":          {conditions: accepted(metav1.ConditionTrue, 2)},
		"selected":          {conditions: accepted(metav1.ConditionTrue, 2), selector: ours},
		"not selected":      {conditions: accepted(metav1.ConditionTrue, 2), selector: &metav1.LabelSelector{MatchLabels: map[string]string{"rail": "no"}}, want: "does not match"},
		"new":               {want: "has not looked"},
		"edited":            {conditions: accepted(metav1.ConditionTrue, 1), want: "has not looked"},
		"refused":           {conditions: accepted(metav1.ConditionFalse, 2), want: "Why: because"},
		"deleted":           {deleted: true, conditions: accepted(metav1.ConditionTrue, 2), want: "deleted"},
		"selector of words": {conditions: accepted(metav1.ConditionTrue, 2), selector: &metav1.LabelSelector{MatchLabels: map[string]string{"/": "no"}}, want: "spec.nodeSelector"},
	} {
		t.Run(title, func(t *testing.T) {
			p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 2}}
			p.Status.Conditions, p.Spec.NodeSelector = tc.conditions, tc.selector
			if tc.deleted {
				p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			}
			got := p.Open(map[string]string{"rail": "yes"})
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestSetNode(t *testing.T) {
	var s v1alpha1.IPBlockStatus
	lease := func(node, addr string) v1alpha1.BlockLease { return v1alpha1.BlockLease{Node: node, Address: addr} }
	s.SetNode(v1alpha1.NodeUsage{Node: "b", Leased: 2, Free: 3}, []v1alpha1.BlockLease{lease("b", "10.0.0.10"), lease("b", "10.0.0.9")})
	s.SetNode(v1alpha1.NodeUsage{Node: "a", Leased: 1, Cooling: 4}, []v1alpha1.BlockLease{lease("a", "10.0.0.100")})
	s.SetNode(v1alpha1.NodeUsage{Node: "b", Leased: 1, Free: 4}, []v1alpha1.BlockLease{lease("b", "10.0.0.9")})
	want := v1alpha1.IPBlockStatus{Leased: 2, Free: 4, Cooling: 4,
		Nodes:  []v1alpha1.NodeUsage{{Node: "a", Leased: 1, Cooling: 4}, {Node: "b", Leased: 1, Free: 4}},
		Leases: []v1alpha1.BlockLease{lease("b", "10.0.0.9"), lease("a", "10.0.0.100")}}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
	s.SetNode(v1alpha1.NodeUsage{Node: "a"}, nil)
	s.SetNode(v1alpha1.NodeUsage{Node: "b"}, nil)
	if d := cmp.Diff(v1alpha1.IPBlockStatus{Nodes: []v1alpha1.NodeUsage{}, Leases: []v1alpha1.BlockLease{}}, s); d != "" {
		t.Error(d)
	}
}

func TestForgetStrangers(t *testing.T) {
	o := v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{Shares: []v1alpha1.Share{{Node: "a"}}}}
	o.Status.SetNode(v1alpha1.NodeUsage{Node: "a", Leased: 1, Free: 3}, []v1alpha1.BlockLease{{Address: "10.0.0.1", Node: "a"}})
	o.Status.SetNode(v1alpha1.NodeUsage{Node: "b", Leased: 1, Free: 5}, []v1alpha1.BlockLease{{Address: "10.0.0.2", Node: "b"}})
	o.ForgetStrangers()
	o.Status.SetNode(v1alpha1.NodeUsage{Node: "a", Leased: 1, Free: 2}, []v1alpha1.BlockLease{{Address: "10.0.0.1", Node: "a"}})
	if s := o.Status; len(s.Nodes) != 1 || len(s.Leases) != 1 || s.Free != 2 || s.Leased != 1 {
		t.Errorf("got %+v", s)
	}
}
