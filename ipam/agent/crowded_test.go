// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/test/cluster"
)

// reads counts them, and what was made.
type reads struct {
	client.Client
	get, list, create atomic.Int64
}

func (r *reads) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if _, ok := o.(*v1alpha1.IPBlock); ok {
		r.get.Add(1)
	}
	return r.Client.Get(ctx, k, o, opts...)
}

func (r *reads) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	if _, ok := l.(*v1alpha1.IPBlockList); ok {
		r.list.Add(1)
	}
	return r.Client.List(ctx, l, opts...)
}

func (r *reads) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	r.create.Add(1)
	return r.Client.Create(ctx, o, opts...)
}

// TestCrowdedPoolIsNotListed: once the controller has counted that no slot of a pool with many is without a block, no slot is tried, and
// all blocks are listed only where a look at some shows nobody with room, or in the end.
func TestCrowdedPoolIsNotListed(t *testing.T) {
	t.Parallel()
	const slots = 128
	name := shared.pool(t, func(s *v1alpha1.IPPoolSpec) { s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/24", BlockSize: 2} })
	var r *reads
	a := start(t, "crowded", agentOptions{client: func(c client.Client) client.Client { r = &reads{Client: c}; return r }})
	var p ipam.Pool
	cluster.Eventually(t, "the pool is in the store", func() (err error) { p, err = a.store.Pool(name); return err })
	owner := ipam.Owner{Node: "elsewhere", NodeUID: "uid", Session: "session"}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range uint64(slots) {
		g.Go(func() error {
			b := ipam.Block{Pool: name, PoolUID: p.UID, Slot: p.Subnets[0].SlotAt(i)}
			b.Name = ipam.BlockName(name, b.Slot)
			b, err := claim.New(shared.admin, nil).Reclaim(t.Context(), owner, b, p.Subnets[0].LeasableIn(b.Slot))
			if err != nil {
				return err
			}
			var o v1alpha1.IPBlock
			if err := shared.admin.Get(t.Context(), client.ObjectKey{Name: b.Name}, &o); err != nil {
				return err
			}
			o.Status.SetNode(v1alpha1.NodeUsage{Node: owner.Node, Leased: 2}, nil)
			return shared.admin.Status().Update(t.Context(), &o)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	me, err := a.owner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name              string
		counted           int
		how               effort
		get, list, create int64 // at most, exactly, exactly
		askings           int
	}{
		{"not counted yet", 0, glance, 4, 1, 4, slots},
		{"no need yet", slots, spare, 8, 0, 0, 0},
		{"nobody in a few has room", slots, glance, 8, 1, 0, slots},
		{"in the end", slots, whole, 0, 1, 0, slots},
	} {
		countBlocks(t, a, name, tc.counted)
		r.get.Store(0)
		r.list.Store(0)
		r.create.Store(0)
		_, err := a.claimBlock(t.Context(), me, p, true, tc.how, nil)
		if full := fullError(err); full == nil || len(full.Askings) != tc.askings || !errors.Is(err, ipam.ErrPoolFull) {
			t.Errorf("%s: %v, %+v", tc.name, err, full)
		}
		if r.get.Load() > tc.get || r.list.Load() != tc.list || r.create.Load() != tc.create {
			t.Errorf("%s: %d GET, %d LIST, %d POST; want at most %d, and %d and %d", tc.name, r.get.Load(), r.list.Load(), r.create.Load(), tc.get, tc.list, tc.create)
		}
	}
}

// countBlocks is the controller that counts a pool's blocks, and waits until the agent has heard of it.
func countBlocks(t *testing.T, a *running, pool string, n int) {
	t.Helper()
	var p v1alpha1.IPPool
	if err := shared.admin.Get(t.Context(), client.ObjectKey{Name: pool}, &p); err != nil {
		t.Fatal(err)
	}
	p.Status.Blocks = int32(n)
	if err := shared.admin.Status().Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the agent has heard of the blocks", func() error {
		if got := a.blocks.count(pool); got != n {
			return fmt.Errorf("it knows of %d, not of %d", got, n)
		}
		return nil
	})
}
