// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

type option func(*v1alpha1.IPPool)

func grantedOf(subnets ...string) option {
	return func(p *v1alpha1.IPPool) { p.Status.Granted = subnets }
}

func in(domain string) option { return func(p *v1alpha1.IPPool) { p.Spec.Domain = domain } }

func deleted(p *v1alpha1.IPPool) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(100, 0)} }

func and6(subnet string) option {
	return func(p *v1alpha1.IPPool) { p.Spec.IPv6 = &v1alpha1.Subnet{Subnet: subnet} }
}

// pool is one born in that second, of an IPv4 subnet.
func pool(name string, born int64, subnet string, opts ...option) v1alpha1.IPPool {
	p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.Unix(born, 0)}}
	p.Spec.IPv4, p.Spec.Domain = &v1alpha1.Subnet{Subnet: subnet}, "default"
	for _, o := range opts {
		o(&p)
	}
	return p
}

func blockOf(pool, uid, slot string) v1alpha1.IPBlock {
	p := netip.MustParsePrefix(slot)
	r, _ := iprange.Parse(slot)
	return *v1alpha1.FromBlock(ipam.Block{Name: ipam.BlockName(pool, p), Pool: pool, PoolUID: uid, Slot: p,
		Shares: []ipam.Share{{Node: "n1", NodeUID: "u", Session: "s", Ranges: []iprange.Range{r}}}})
}

func TestJudge(t *testing.T) {
	const a, b, wide = "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/16"
	for title, tc := range map[string]struct {
		pool   v1alpha1.IPPool
		others []v1alpha1.IPPool
		blocks []v1alpha1.IPBlock
		reason string
		says   []string
	}{
		"alone":                   {pool("p", 1, a), nil, nil, "Accepted", nil},
		"apart":                   {pool("p", 2, a), []v1alpha1.IPPool{pool("q", 1, b, grantedOf(b))}, nil, "Accepted", nil},
		"invalid":                 {pool("p", 1, "10.0.0.1/24"), nil, nil, "Invalid", []string{"spec.ipv4.subnet", "10.0.0.0/24"}},
		"granted before":          {pool("p", 1, a), []v1alpha1.IPPool{pool("q", 2, wide, grantedOf(wide))}, nil, "Overlaps", []string{wide, "pool q", "another subnet"}},
		"other domain":            {pool("p", 1, a, in("x")), []v1alpha1.IPPool{pool("q", 2, wide, grantedOf(wide))}, nil, "Accepted", nil},
		"older waits":             {pool("p", 2, a), []v1alpha1.IPPool{pool("q", 1, wide)}, nil, "Overlaps", []string{"pool q"}},
		"younger waits":           {pool("p", 1, a), []v1alpha1.IPPool{pool("q", 2, wide)}, nil, "Accepted", nil},
		"same age, name decides":  {pool("p", 1, a), []v1alpha1.IPPool{pool("o", 1, wide)}, nil, "Overlaps", []string{"pool o"}},
		"older is itself refused": {pool("p", 3, a), []v1alpha1.IPPool{pool("q", 2, wide), pool("r", 9, b, grantedOf(b))}, nil, "Accepted", nil},
		"older is invalid":        {pool("p", 3, a), []v1alpha1.IPPool{pool("q", 2, "10.0.0.1/16")}, nil, "Accepted", nil},
		"older is being deleted":  {pool("p", 3, a), []v1alpha1.IPPool{pool("q", 2, wide, deleted)}, nil, "Accepted", nil},
		"granted, being deleted":  {pool("p", 3, a), []v1alpha1.IPPool{pool("q", 2, wide, deleted, grantedOf(wide))}, nil, "Overlaps", []string{"pool q"}},
		"edited, all granted":     {pool("p", 3, a, grantedOf(a)), []v1alpha1.IPPool{pool("q", 2, wide)}, nil, "Accepted", nil},
		"family added, free":      {pool("p", 3, a, grantedOf(a), and6("fd00::/64")), []v1alpha1.IPPool{pool("q", 2, b, and6("fd01::/64"), grantedOf(b, "fd01::/64"))}, nil, "Accepted", nil},
		"family added, taken":     {pool("p", 1, a, grantedOf(a), and6("fd00::/64")), []v1alpha1.IPPool{pool("q", 2, b, and6("fd00::/64"), grantedOf(b, "fd00::/64"))}, nil, "Overlaps", []string{"fd00::/64", "pool q"}},
		"refused edit keeps hold": {pool("p", 1, wide), []v1alpha1.IPPool{pool("q", 2, b, and6("fe80::/64"), grantedOf(b))}, nil, "Overlaps", []string{"pool q"}},
		"own blocks":              {pool("p", 1, a), nil, []v1alpha1.IPBlock{blockOf("p", "uid-p", "10.0.0.0/26")}, "Accepted", nil},
		"leftover of the name":    {pool("p", 1, a), nil, []v1alpha1.IPBlock{blockOf("p", "old", "10.9.0.0/26")}, "Leftover", []string{"p.10-9-0-0", "n1", "last pod"}},
		"leftover on addresses":   {pool("p", 1, a), nil, []v1alpha1.IPBlock{blockOf("x", "old", "10.0.0.64/26")}, "Leftover", []string{"x.10-0-0-64"}},
		"leftover elsewhere":      {pool("p", 1, a), nil, []v1alpha1.IPBlock{blockOf("x", "old", "10.9.0.64/26")}, "Accepted", nil},
	} {
		t.Run(title, func(t *testing.T) {
			v := judge(&tc.pool, append(tc.others, tc.pool), tc.blocks)
			if v.reason != tc.reason || v.accepted() != (tc.reason == "Accepted") {
				t.Errorf("got %s (%s), want %s", v.reason, v.message, tc.reason)
			}
			for _, s := range tc.says {
				if !strings.Contains(v.message, s) {
					t.Errorf("%q does not say %q", v.message, s)
				}
			}
			if v.accepted() && len(v.granted) == 0 {
				t.Error("accepted without a subnet")
			}
		})
	}
}

// Whatever the order in which overlapping pools are judged, at most one of them is accepted.
func TestJudgeInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		pools := []v1alpha1.IPPool{pool("p", 3, "10.0.0.0/24"), pool("q", 2, "10.0.0.0/16"), pool("r", 1, "10.0.0.0/8")}
		var got []string
		for range 2 {
			for _, i := range order {
				if v := judge(&pools[i], pools, nil); v.accepted() && len(pools[i].Status.Granted) == 0 {
					pools[i].Status.Granted = v.granted
					got = append(got, pools[i].Name)
				}
			}
		}
		if len(got) != 1 || got[0] != "r" {
			t.Errorf("order %v: accepted %v, want r alone", order, got)
		}
	}
}

func TestCount(t *testing.T) {
	p := pool("p", 1, "10.0.0.0/24", and6("fd00::/64"))
	p.Spec.IPv4.Gateway = "10.0.0.1"
	parsed, err := p.Parse()
	if err != nil {
		t.Fatal(err)
	}
	b, b6 := blockOf("p", "uid-p", "10.0.0.64/26"), blockOf("p", "uid-p", "fd00::40/122")
	b.Status.Leased, b6.Status.Leased = 7, 1
	bad := blockOf("p", "uid-p", "10.0.0.128/26")
	bad.Spec.Slot = "all"
	var s v1alpha1.IPPoolStatus
	count(parsed, []v1alpha1.IPBlock{b, b6, bad}, &s)
	if s.Capacity != "253/~2^64" || s.Owned != "64/64" || s.Leased != "7/1" || s.Blocks != 3 || s.Nodes != 1 {
		t.Errorf("got %+v", s)
	}
}

// TestStretch: what all agents are told of a pool's figures each second does not grow with their number.
func TestStretch(t *testing.T) {
	for nodes, want := range map[int32]time.Duration{0: 3 * time.Second, 100: 3 * time.Second, 150: 4500 * time.Millisecond, 1000: 30 * time.Second, 5000: 150 * time.Second} {
		if got := stretch(3*time.Second, nodes); got != want {
			t.Errorf("%d nodes: %s, want %s", nodes, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 254: "254", 1<<53 - 1: "9007199254740991", 1 << 53: "~2^53", 1<<56 - 2: "~2^56", 1<<56 + 1: "~2^56", 1<<64 - 1: "~2^64", 1 << 63: "~2^63"} {
		if got := short(n); got != want {
			t.Errorf("short(%d) = %s, want %s", n, got, want)
		}
	}
}
