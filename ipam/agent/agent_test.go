// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// counting counts the requests of a client, watches left out.
type counting struct {
	client.Client
	n *atomic.Int64
}

func (c counting) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	c.n.Add(1)
	return c.Client.Get(ctx, k, o, opts...)
}

func (c counting) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	c.n.Add(1)
	return c.Client.List(ctx, l, opts...)
}

func (c counting) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	c.n.Add(1)
	return c.Client.Create(ctx, o, opts...)
}

func (c counting) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	c.n.Add(1)
	return c.Client.Update(ctx, o, opts...)
}

func (c counting) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	c.n.Add(1)
	return c.Client.Delete(ctx, o, opts...)
}

func TestLeaseAsksNobodyWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4.BlockSize = 64
		s.IPv6 = &v1alpha1.Subnet{Subnet: "fd00:1::/64", BlockSize: 64}
	})
	var n atomic.Int64
	a := start(t, "quiet", agentOptions{client: func(c client.Client) client.Client { return counting{c, &n} }})
	l := mustLease(t, a, request(pool, "first"))
	if len(l.Addresses) != 2 {
		t.Fatalf("Lease gave %v, want both families", addrs(l))
	}
	cluster.Eventually(t, "the claims are seen by the watch", func() error {
		if blocks, err := a.cachedBlocks(t.Context(), func(string) bool { return true }); err != nil || len(blocks) < 2 {
			return fmt.Errorf("%d blocks, %w", len(blocks), err)
		}
		return nil
	})
	before := n.Load()
	for i := range 40 {
		id := fmt.Sprint("pod-", i)
		mustLease(t, a, request(pool, id))
		if i%2 == 0 {
			mustRelease(t, a, id)
		}
	}
	if got := n.Load() - before; got != 0 {
		t.Errorf("60 leases and releases cost %d API requests, want 0", got)
	}
	shared.check(t, pool, a)
}

func TestPoolIsUnknown(t *testing.T) {
	t.Parallel()
	a := start(t, "unknown-pool", agentOptions{})
	if _, err := a.Lease(t.Context(), request("no-such-pool", "x")); !errors.Is(err, ipam.ErrPoolUnknown) {
		t.Errorf("Lease: %v, want %v", err, ipam.ErrPoolUnknown)
	}
}

func TestFullPoolReusesWhatCools(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 4}
		hour := int32(3600)
		s.CooldownSeconds = &hour
	})
	a := start(t, "full", agentOptions{})
	for i := range 6 {
		mustLease(t, a, request(pool, fmt.Sprint(i)))
	}
	if _, err := a.Lease(t.Context(), request(pool, "too-many")); !errors.Is(err, ipam.ErrPoolFull) {
		t.Fatalf("Lease from a full pool: %v, want %v", err, ipam.ErrPoolFull)
	}
	want := mustLease(t, a, request(pool, "3"))
	mustRelease(t, a, "3")
	if got := mustLease(t, a, request(pool, "late")); !slices.Equal(addrs(got), addrs(want)) {
		t.Errorf("Lease gave %v, want %v, the one that cools", addrs(got), addrs(want))
	}
	shared.check(t, pool, a)
}

func TestClaimsAheadAndReturns(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "ahead", agentOptions{config: func(c *Config) { c.ReleaseAfter = time.Nanosecond }})
	for i := range 4 { // all of the first block
		mustLease(t, a, request(pool, fmt.Sprint(i)))
	}
	cluster.Eventually(t, "a block is claimed ahead", func() error {
		if n := len(shared.blocks(t, pool)); n < 2 {
			return fmt.Errorf("%d blocks", n)
		}
		return nil
	})
	for i := range 4 {
		mustRelease(t, a, fmt.Sprint(i))
	}
	shared.noBlocks(t, pool)
	shared.check(t, pool, a)
}

func TestStaticAddress(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 8, Reserved: []v1alpha1.AddressRange{"10.0.0.12-10.0.0.14"}}
	})
	a, b := start(t, "static-a", agentOptions{}), start(t, "static-b", agentOptions{})
	req := request(pool, "named")
	req.Static = []netip.Addr{netip.MustParseAddr("10.0.0.13")}
	if l := mustLease(t, a, req); !slices.Equal(addrs(l), []string{"10.0.0.13"}) {
		t.Errorf("Lease gave %v", addrs(l))
	}
	if l := mustLease(t, a, req); !slices.Equal(addrs(l), []string{"10.0.0.13"}) {
		t.Errorf("Lease again gave %v", addrs(l))
	}
	if _, err := b.Lease(t.Context(), req); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("Lease on another node: %v, want %v", err, ipam.ErrTaken)
	}
	shared.check(t, pool, a, b)
	mustRelease(t, a, "named")
	cluster.Eventually(t, "the address reaches the other node", func() error {
		_, err := b.Lease(t.Context(), req)
		return err
	})
	mustRelease(t, b, "named")
	shared.noBlocks(t, pool) // at once: ReleaseAfter is an hour
	shared.check(t, pool, a, b)
}

func TestBlockDeletedByAStranger(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "robbed", agentOptions{})
	l := mustLease(t, a, request(pool, "x"))
	victim := shared.blocks(t, pool)[0]
	if err := shared.admin.Delete(t.Context(), v1alpha1.FromBlock(victim)); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the address in use is claimed again", func() error {
		for _, b := range shared.blocks(t, pool) {
			for _, s := range b.Shares {
				for _, r := range s.Ranges {
					if r.Contains(l.Addresses[0].Prefix.Addr()) && s.Node == "robbed" {
						return nil
					}
				}
			}
		}
		return errors.New("not yet")
	})
	shared.check(t, pool, a)
}

func TestPoolDeleted(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "drained", agentOptions{})
	mustLease(t, a, request(pool, "x"))
	var p v1alpha1.IPPool
	key := client.ObjectKey{Name: pool}
	if err := shared.admin.Get(t.Context(), key, &p); err != nil {
		t.Fatal(err)
	}
	p.Finalizers = []string{v1alpha1.FinalizerBlocks}
	if err := shared.admin.Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	if err := shared.admin.Delete(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the pool is closed", func() error {
		if _, err := a.Lease(t.Context(), request(pool, "y")); !errors.Is(err, ipam.ErrPoolClosed) {
			return err
		}
		return nil
	})
	if _, err := a.Lookup(t.Context(), request(pool, "x").Key); err != nil {
		t.Errorf("the lease from before is gone: %v", err)
	}
	mustRelease(t, a, "x")
	mustRelease(t, a, "y")   // leased if the watch was late
	shared.noBlocks(t, pool) // at once: ReleaseAfter is an hour
	if err := shared.admin.Get(t.Context(), key, &p); err != nil {
		t.Fatal(err)
	}
	p.Finalizers = nil
	if err := shared.admin.Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the pool is forgotten", func() error {
		if _, err := a.store.Pool(pool); !errors.Is(err, ipam.ErrPoolUnknown) {
			return fmt.Errorf("Pool: %w", err)
		}
		return nil
	})
}

func TestMirror(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "mirror", agentOptions{config: func(c *Config) { c.MirrorInterval = 50 * time.Millisecond }})
	req := request(pool, "x")
	req.Pod = ipam.Pod{Namespace: "default", Name: "pod"}
	l := mustLease(t, a, req)
	want := v1alpha1.BlockLease{
		Address: addrs(l)[0], Node: "mirror", Network: "net", ContainerID: "x", IfName: "net1", Namespace: "default", Pod: "pod",
	}
	read := func() v1alpha1.IPBlockStatus {
		var list v1alpha1.IPBlockList
		if err := shared.admin.List(t.Context(), &list, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if o.Status.Leased > 0 {
				return o.Status
			}
		}
		return v1alpha1.IPBlockStatus{}
	}
	cluster.Eventually(t, "the lease is mirrored", func() error {
		if s := read(); !slices.Contains(s.Leases, want) || s.Leased != 1 || s.Free+s.Leased < 3 {
			return fmt.Errorf("status is %+v", s)
		}
		return nil
	})
	mustRelease(t, a, "x")
	cluster.Eventually(t, "the end of the lease is mirrored", func() error {
		if s := read(); len(s.Leases) > 0 {
			return fmt.Errorf("status is %+v", s)
		}
		return nil
	})
}

func TestStoreOfAnotherNode(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "owner-of-store", agentOptions{})
	mustLease(t, a, request(pool, "x"))
	if _, err := New(Config{Node: "somebody-else", Store: a.store, Client: a.cfg.Client, Cache: a.cfg.Cache, Log: a.log}); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("New on another node's store: %v, want %v", err, ipam.ErrInvalid)
	}
}
