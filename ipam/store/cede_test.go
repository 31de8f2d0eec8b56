// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func texts(ranges []iprange.Range) []string {
	var out []string
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return out
}

func TestInRuns(t *testing.T) {
	for name, c := range map[string]struct {
		free []string
		n    int
		want []string
	}{
		"the upper end":               {[]string{"10.0.0.0/28"}, 3, []string{"10.0.0.13-10.0.0.15"}},
		"the shortest run that does":  {[]string{"10.0.0.0/29", "10.0.0.12/31", "10.0.0.16/30"}, 2, []string{"10.0.0.12/31"}},
		"the longest, then the rest":  {[]string{"10.0.0.0", "10.0.0.2/31", "10.0.0.8/30"}, 5, []string{"10.0.0.0", "10.0.0.8/30"}},
		"a part of a longer one last": {[]string{"10.0.0.1-10.0.0.3", "10.0.0.8/30"}, 6, []string{"10.0.0.2/31", "10.0.0.8/30"}},
		"all":                         {[]string{"10.0.0.0/30"}, 9, []string{"10.0.0.0/30"}},
		"none":                        {nil, 1, nil},
		"none asked for":              {[]string{"10.0.0.0/30"}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var free []freeAddr
			for _, r := range ranges(t, c.free...) {
				for a := r.From(); r.Contains(a); a = a.Next() {
					free = append(free, freeAddr{Addr: a})
				}
			}
			if d := cmp.Diff(c.want, texts(inRuns(free, c.n))); d != "" {
				t.Errorf("inRuns (-want +got):\n%s", d)
			}
		})
	}
}

// What is withdrawn is leased to nobody, what is leased is not withdrawn, and what cools goes last and only when asked for.
func TestWithdrawFree(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	setPool(t, s, testPool(t, func(p *ipam.PoolSpec) { p.IPv6 = nil }))
	if err := s.Grant(Holding{Block: "rail0.10-20-0-16", Pool: "rail0", Slot: netip.MustParsePrefix("10.20.0.16/28"), Ranges: ranges(t, "10.20.0.16/29")}); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if _, err := s.Lease(background, request(i)); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Second)
	}
	withdraw := func(n int, cooling bool, want ...string) {
		t.Helper()
		got, err := s.WithdrawFree("rail0.10-20-0-16", n, cooling)
		if d := cmp.Diff(want, texts(got)); err != nil || d != "" {
			t.Errorf("WithdrawFree(%d, %v): %v (-want +got):\n%s", n, cooling, err, d)
		}
	}
	withdraw(8, true) // all is leased
	for _, i := range []int{3, 1, 5} {
		if err := s.Release(background, key(i)); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Second)
	}
	withdraw(1, false) // all is cooling
	withdraw(2, true, "10.20.0.17", "10.20.0.19")
	withdraw(2, true, "10.20.0.21")
	if err := s.Release(background, key(7)); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	withdraw(2, false, "10.20.0.23")
	if _, err := s.LeaseReusing(background, request(99)); err == nil {
		t.Error("leased what was withdrawn")
	}
	for _, i := range []int{0, 2, 4, 6} {
		if err := s.Release(background, key(i)); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := s.Retire("rail0.10-20-0-16", 0); ok || err != nil {
		t.Fatalf("Retire: %v, %v", ok, err)
	}
	c.advance(time.Hour)
	if ok, err := s.Retire("rail0.10-20-0-16", 0); !ok || err != nil {
		t.Fatalf("Retire: %v, %v", ok, err)
	}
	withdraw(2, true) // retired
	if got, err := s.WithdrawFree("rail0.10-20-0-32", 1, true); len(got) > 0 || err != nil {
		t.Errorf("withdrew %v of what is not held: %v", got, err)
	}
}
