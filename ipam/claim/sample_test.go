// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// TestSample: in a pool of 128 blocks that are all owned it takes eight reads, and no list, to know whom to ask; and what nobody owns in
// one of them is taken.
func TestSample(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/24", 2)})
	c, owner, asker := New(api, nil), node(1), node(2)
	var g errgroup.Group
	g.SetLimit(8)
	s := pool.Subnets[0]
	for i := range s.SlotCount() {
		g.Go(func() error {
			slot := s.SlotAt(i)
			b := ipam.Block{Name: ipam.BlockName(pool.Name, slot), Pool: pool.Name, PoolUID: pool.UID, Slot: slot}
			_, err := c.Reclaim(ctx, owner, b, s.LeasableIn(slot))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var r requests
	counted := New(r.client(), nil)
	_, err := counted.Sample(ctx, asker, pool, true)
	var full *FullError
	if !errors.As(err, &full) || len(full.Askings) < enough || full.Askings[0].Free == 0 {
		t.Fatalf("Sample of a pool without a mirror: %v, %+v; want owners that have all of their shares free", err, full)
	}
	if r.get.Load() > sampled || r.list.Load()+r.create.Load()+r.update.Load() > 0 {
		t.Errorf("Sample asked for %s", &r)
	}
	mirrorFull(t, pool, owner)
	if _, err := counted.Sample(ctx, asker, pool, true); !errors.As(err, &full) || len(full.Askings) > 0 {
		t.Errorf("Sample where nobody has room: %v, %+v", err, full)
	}
	if _, err := counted.Search(ctx, asker, pool, true); !errors.As(err, &full) || uint64(len(full.Askings)) != s.SlotCount() {
		t.Errorf("Search where nobody has room: %v, and %d to ask", err, len(full.Askings))
	}
	if list, create := r.list.Load(), r.create.Load(); list != 1 || create != 0 {
		t.Errorf("both asked for %s", &r)
	}
	for name, b := range blocksOf(t, pool) { // one address of each block is nobody's
		if err := c.Cede(ctx, owner, name, iprange.Of(b.Shares[0].Ranges[0].From())); err != nil {
			t.Fatal(err)
		}
	}
	got, err := counted.Sample(ctx, asker, pool, true)
	if m, ok := Mine(asker, got); err != nil || !ok || Count(m.Ranges) != 1 && Count(m.Ranges) != 2 {
		t.Errorf("Sample where every block has an address: %+v, %v", got, err)
	}
	check(t, pool)
}

// TestSampleOfEmptyPool: a slot without a block is claimed as ever.
func TestSampleOfEmptyPool(t *testing.T) {
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/24", 2)})
	b, err := New(api, nil).Sample(t.Context(), node(1), pool, true)
	if err != nil || len(b.Shares) != 1 {
		t.Errorf("Sample: %+v, %v", b, err)
	}
	check(t, pool)
}

// TestSampleUnavailable: a read without an answer ends it, and says nothing of the pool.
func TestSampleUnavailable(t *testing.T) {
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/24", 2)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(api, nil).Sample(ctx, node(1), pool, true); !errors.Is(err, ipam.ErrUnavailable) || errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("Sample: %v, want %v", err, ipam.ErrUnavailable)
	}
}

// TestPick: every number comes about as often as any other.
func TestPick(t *testing.T) {
	n := map[uint64]int{}
	for i := range 10000 {
		n[pick(10, "node", "pool", fmt.Sprint(i))]++
	}
	for i := range uint64(10) {
		if n[i] < 850 || n[i] > 1150 {
			t.Errorf("%d of 10000 are %d: %v", n[i], i, n)
		}
	}
	if got := pick(1, "x"); got != 0 {
		t.Errorf("pick(1) = %d", got)
	}
}

// mirrorFull has the mirror of every block say that its owner leases all.
func mirrorFull(t *testing.T, pool ipam.Pool, o ipam.Owner) {
	t.Helper()
	var l v1alpha1.IPBlockList
	if err := api.List(t.Context(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool.Name}); err != nil {
		t.Fatal(err)
	}
	for i := range l.Items {
		l.Items[i].Status.SetNode(v1alpha1.NodeUsage{Node: o.Node, Leased: 2}, nil)
		if err := api.Status().Update(t.Context(), &l.Items[i]); err != nil {
			t.Fatal(err)
		}
	}
}
