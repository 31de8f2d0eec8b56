// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"net/netip"
	"testing"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func testPool(t *testing.T) Pool {
	t.Helper()
	spec := ipam.PoolSpec{Name: "p", UID: "u", IPv4: &ipam.SubnetSpec{Subnet: "10.20.0.0/24", BlockSize: 16}}
	pool, err := ipam.ParsePool(spec)
	must(t, err)
	return Pool{Object: pools.FromSpec(spec), pool: pool}
}

func TestConflicts(t *testing.T) {
	addr := netip.MustParseAddr("10.20.0.2")
	node := func(name string) ipam.Share {
		return ipam.Share{Node: name, NodeUID: "u", Session: "s", Ranges: []iprange.Range{iprange.Of(addr)}}
	}
	held := ipam.Hold("another", "n9")
	held.Ranges = []iprange.Range{iprange.Of(addr)}
	for name, tc := range map[string]struct {
		state, why  string
		owner       ipam.Share
		wantMissing int
		wantBad     bool
	}{
		"closed, nobody's":                    {state: StateClosed, why: byAllocation, wantMissing: 1},
		"closed, held":                        {state: StateClosed, why: byAllocation, owner: held},
		"closed, the pod's node":              {state: StateClosed, why: byAllocation, owner: node("n1")},
		"closed, another node":                {state: StateClosed, why: byAllocation, owner: node("n2"), wantBad: true},
		"open, nobody's":                      {state: StateOpen, why: byAllocation, wantMissing: 1, wantBad: true},
		"open, held":                          {state: StateOpen, why: byAllocation, owner: held},
		"open, the pod's node, an old object": {state: StateOpen, why: byAllocation + "," + byStatus, owner: node("n1"), wantBad: true},
		"open, the pod's node, the pod alone": {state: StateOpen, why: byStatus, owner: node("n1")},
		"open, another node":                  {state: StateOpen, why: byStatus, owner: node("n2"), wantBad: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPool(t)
			p.State, p.Holds = tc.state, []Hold{{Addr: addr, UID: "x", Node: "n1", Why: tc.why}}
			slot := p.pool.Subnets[0].Slot(addr)
			b := ipam.Block{Name: ipam.BlockName("p", slot), Pool: "p", PoolUID: "u", Slot: slot}
			if tc.owner.Node != "" {
				b.Shares = []ipam.Share{tc.owner}
			}
			bad, missing := p.conflicts([]v1alpha1.IPBlock{*v1alpha1.FromBlock(b)})
			if (len(bad) > 0) != tc.wantBad || missing != tc.wantMissing {
				t.Errorf("%q, %d missing", bad, missing)
			}
		})
	}
}

// TestFences: a run of addresses over several slots becomes a share in each, next to the holds, and nothing is in two.
func TestFences(t *testing.T) {
	p := testPool(t)
	r, err := iprange.New(netip.MustParseAddr("10.20.0.9"), netip.MustParseAddr("10.20.0.40"))
	must(t, err)
	p.Holds = []Hold{{Addr: netip.MustParseAddr("10.20.0.8"), UID: "x", Node: "n1"}, {Addr: netip.MustParseAddr("10.20.0.7"), UID: "x", Node: "n1"}}
	got := map[string]string{}
	for slot, shares := range p.fences([]Share{{Node: "n1", UID: "u1", Ranges: []iprange.Range{r}}}) {
		b, changed := fence(ipam.Block{Name: ipam.BlockName("p", slot), Pool: "p", Slot: slot}, shares)
		must(t, b.Check())
		if again, more := fence(b, shares); more || !changed || len(again.Shares) != len(b.Shares) {
			t.Errorf("%s: fenced again: %v", slot, again.Shares)
		}
		for _, s := range b.Shares {
			for _, r := range s.Ranges {
				got[r.String()] = s.Node
			}
		}
	}
	for r, node := range map[string]string{"10.20.0.7-10.20.0.8": "held:n1", "10.20.0.9-10.20.0.15": "n1", "10.20.0.16/28": "n1", "10.20.0.32-10.20.0.40": "n1"} {
		if got[r] != node {
			t.Errorf("%s is %q's, want %s: %v", r, got[r], node, got)
		}
	}
}

// TestHolds: who holds an address, by what is known of it.
func TestHolds(t *testing.T) {
	addr := netip.MustParseAddr("10.20.0.2")
	s := state{pods: map[string]pod{"d/a": {name: "d/a", uid: "ua", node: "n1"}, "d/pending": {name: "d/pending", uid: "up"}}}
	nads := map[string][]string{"d/known": {"rail0"}, "d/other": {""}}
	for name, tc := range map[string]struct {
		live []use
		has  []attached
		want Hold
		none bool
	}{
		"of the network":    {live: []use{{addr, "rail0", false, "d/a", byAllocation}}, want: Hold{addr, "ua", "d/a", "n1", byAllocation}},
		"of another":        {live: []use{{addr, "", false, "d/a", byAllocation}}, none: true},
		"of any":            {live: []use{{addr, "", true, "d/a", byAllocation}}, want: Hold{addr, "ua", "d/a", "n1", byAllocation}},
		"of nobody":         {live: []use{{addr, "rail0", false, "d/gone", byReservation}}, want: Hold{addr, ipam.HoldUnknown, "d/gone", "", byReservation}},
		"of a pod to come":  {live: []use{{addr, "rail0", false, "d/pending", byAllocation}}, want: Hold{addr, ipam.HoldUnknown, "d/pending", "", byAllocation}},
		"the one that is":   {live: []use{{addr, "rail0", false, "d/gone", byAllocation}}, has: []attached{{"d/known", addr}}, want: Hold{addr, "ua", "d/a", "n1", byAllocation + "," + byStatus}},
		"by status":         {has: []attached{{"d/known", addr}}, want: Hold{addr, "ua", "d/a", "n1", byStatus}},
		"by status, a name": {has: []attached{{"d/who", addr}}, want: Hold{addr, "ua", "d/a", "n1", byStatus}},
		"on another":        {has: []attached{{"d/other", addr}}, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			s.live = tc.live
			a := s.pods["d/a"]
			a.has = tc.has
			s.pods["d/a"] = a
			got := holds(s, want{network: "rail0"}, testPool(t).pool, nads)
			if len(got) == 0 != tc.none || len(got) > 0 && got[0] != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
}

// TestSource: the names of the sources are the types.
func TestSource(t *testing.T) {
	for _, from := range compat.Types() {
		if _, err := New(nil, from, Options{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := New(nil, "calico", Options{}); err == nil {
		t.Error("calico is taken over")
	}
}
