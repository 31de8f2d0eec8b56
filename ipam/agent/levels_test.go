// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

func TestLevels(t *testing.T) {
	t.Parallel()
	n := func(i int) *int { return &i }
	yes, no := true, false
	for name, c := range map[string]struct {
		marks  ipam.Watermarks
		subnet string
		nodes  int
		want   levels
	}{
		"two blocks a node":     {ipam.Watermarks{}, "10.0.0.0/24", 4, levels{8, 16, true, 4}},
		"one block a node":      {ipam.Watermarks{}, "10.0.0.0/24", 8, levels{0, 16, true, 4}},
		"less":                  {ipam.Watermarks{}, "10.0.0.0/24", 9, levels{0, 16, false, 4}},
		"few blocks, who knows": {ipam.Watermarks{}, "10.0.0.0/24", 0, levels{0, 16, false, 4}},
		"many, who knows":       {ipam.Watermarks{}, "10.0.0.0/23", 0, levels{8, 16, true, 4}},
		"as asked for":          {ipam.Watermarks{Low: n(3), High: n(5), KeepLast: &yes}, "10.0.0.0/24", 99, levels{3, 5, true, 3}},
		"nothing at hand":       {ipam.Watermarks{Low: n(0), High: n(0), KeepLast: &no}, "10.0.0.0/16", 1, levels{0, 0, false, 0}},
		"high follows low":      {ipam.Watermarks{Low: n(40)}, "10.0.0.0/24", 1, levels{40, 40, true, 40}},
		"low follows high":      {ipam.Watermarks{High: n(2)}, "10.0.0.0/24", 1, levels{2, 2, true, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ipam.ParsePool(ipam.PoolSpec{Name: "p", IPv4: &ipam.SubnetSpec{Subnet: c.subnet, BlockSize: 32}, Watermarks: c.marks})
			if err != nil {
				t.Fatal(err)
			}
			if got := levelsOf(p.Watermarks, p.Subnets[0], c.nodes); got != c.want {
				t.Errorf("levelsOf = %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestReturnable(t *testing.T) {
	t.Parallel()
	two := []emptyBlock{{"a", 4}, {"b", 4}}
	marks := levels{high: 2}
	keep := levels{high: 2, keepLast: true}
	for name, c := range map[string]struct {
		stock stock
		want  []string
	}{
		"nothing is empty":            {stock{levels: marks, leased: 4, free: 4, blocks: 2}, nil},
		"nothing is leased":           {stock{levels: marks, free: 8, blocks: 2, empty: two}, []string{"a", "b"}},
		"nothing leased, one is kept": {stock{levels: keep, free: 8, blocks: 2, empty: two}, []string{"a"}},
		"the last one":                {stock{levels: keep, free: 4, blocks: 1, empty: two[:1]}, nil},
		"one is kept beside a full":   {stock{levels: marks, leased: 4, free: 8, blocks: 3, empty: two}, []string{"a"}},
		"both go beside a free half":  {stock{levels: keep, leased: 2, free: 10, blocks: 3, empty: two}, []string{"a", "b"}},
		"the last one of a full pool": {stock{levels: marks, leased: 4, free: 4, blocks: 2, empty: two[:1]}, nil},
		"a closed pool keeps nothing": {stock{levels: keep, leased: 4, free: 8, blocks: 3, empty: two, closed: true}, []string{"a", "b"}},
		"nor its last one":            {stock{levels: keep, free: 4, blocks: 1, empty: two[:1], closed: true}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.stock.returnable(); !slices.Equal(got, c.want) {
				t.Errorf("returnable = %v, want %v", got, c.want)
			}
		})
	}
}

func TestTwoQuietLooks(t *testing.T) {
	t.Parallel()
	q := quiet{}
	for i, look := range []struct{ spare, want []string }{
		{[]string{"a", "b"}, nil},
		{[]string{"a"}, []string{"a"}}, // b was needed in between
		{[]string{"a", "b"}, []string{"a"}},
		{[]string{"b"}, []string{"b"}},
		{nil, nil},
		{[]string{"b"}, nil},
	} {
		if got := q.twice("4p", look.spare); !slices.Equal(got, look.want) {
			t.Errorf("look %d at %v: %v may go, want %v", i, look.spare, got, look.want)
		}
	}
	if got := q.twice("6p", []string{"b"}); len(got) > 0 {
		t.Errorf("%v of another family was seen once", got)
	}
}

func TestPortion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ free, askers, count, want int }{
		{0, 1, 5, 0}, {-2, 1, 5, 0}, {1, 1, 5, 1}, {2, 1, 5, 1}, {3, 1, 5, 1}, {4, 1, 5, 2}, {64, 1, 5, 5}, {64, 3, 99, 16}, {1, 7, 5, 1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			if got := portion(c.free, c.askers, c.count); got != c.want {
				t.Errorf("portion = %d, want %d", got, c.want)
			}
		})
	}
}

func TestKeepsTheLastBlock(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) { s.Watermarks = nil })
	a := start(t, "keeper", agentOptions{config: func(c *Config) { c.ReleaseAfter = time.Nanosecond }})
	for i := range 9 {
		mustLease(t, a, request(pool, fmt.Sprint(i)))
	}
	for i := range 9 {
		mustRelease(t, a, fmt.Sprint(i))
	}
	cluster.Eventually(t, "one block is left", func() error {
		if n := len(shared.blocks(t, pool)); n != 1 {
			return fmt.Errorf("%d blocks", n)
		}
		return nil
	})
	var p v1alpha1.IPPool
	if err := shared.admin.Get(t.Context(), client.ObjectKey{Name: pool}, &p); err != nil {
		t.Fatal(err)
	}
	p.Spec.Watermarks = &v1alpha1.Watermarks{KeepLast: new(false)}
	if err := shared.admin.Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	shared.accept(t, pool)
	shared.noBlocks(t, pool)
	shared.check(t, pool, a)
}
