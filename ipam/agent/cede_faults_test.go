// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/store"
)

// TestDeathInACede takes an owner, or an asker, that dies at its n-th write, before or after it was done, through a
// hand-over, and starts it again on the same store or after a reboot. In the end every address is to be had, once.
func TestDeathInACede(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"owner", "asker"} {
		for n := 1; n <= 3; n++ {
			for _, after := range []bool{false, true} {
				for _, reboot := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s-%d-%v-%v", who, n, after, reboot), func(t *testing.T) {
						t.Parallel()
						dieCeding(t, who, int64(n), after, reboot)
					})
				}
			}
		}
	}
}

func dieCeding(t *testing.T, who string, n int64, after, reboot bool) {
	const size = 14
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/28", BlockSize: 16}
	})
	var left atomic.Int64
	left.Store(n)
	dead, once := make(chan struct{}), &sync.Once{}
	config := func(c *Config) { c.CedeWait = 300 * time.Millisecond }
	begin := func(role string, o agentOptions) *running {
		o.config = config
		return start(t, uniqueName(t)+"-"+role, o)
	}
	mortally := agentOptions{client: func(c client.Client) client.Client { return mortal{c, &left, after, dead, once} }}
	options := map[string]agentOptions{who: mortally}
	owner := begin("owner", options["owner"])
	live := map[string]ipam.Lease{}
	book := newLedger(t)
	lease := func(a *running, id string) bool {
		l, err := a.Lease(t.Context(), request(pool, id))
		if err == nil {
			book.gave(id, l)
			live[id] = l
		}
		return err == nil
	}
	for i := range 3 {
		lease(owner, fmt.Sprint("owner-", i))
	}
	asker := begin("asker", options["asker"])
	lease(asker, "asker-0")
	select {
	case <-dead:
	case <-time.After(time.Second): // it had less to write
	}
	mortals := map[string]*running{"owner": owner, "asker": asker}
	victim := mortals[who]
	victim.stop()
	again := agentOptions{dir: victim.dir}
	if reboot {
		again.boot = "after-the-reboot"
		for id, l := range live { // its pods are gone as well
			if id[:5] == who {
				book.ends(l)
				delete(live, id)
			}
		}
	}
	mortals[who] = begin(who, again)
	third := begin("third", agentOptions{})
	agents := []*running{mortals["owner"], mortals["asker"], third}
	for i, until := 0, time.Now().Add(time.Minute); len(live) < size; i++ {
		lease(agents[i%3], fmt.Sprint("new-", i))
		if time.Now().After(until) {
			t.Fatalf("%d of %d addresses are to be had: %+v", len(live), size, shared.blocks(t, pool))
		}
	}
	shared.check(t, pool, agents...)
}

// aged is the client of an agent that does not know of wants: they are dropped from what it reads, and so from what it
// writes.
type aged struct{ client.Client }

func forgetWants(objs ...*v1alpha1.IPBlock) {
	for _, o := range objs {
		o.Spec.Wants = nil
	}
}

func (a aged) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	err := a.Client.Get(ctx, k, o, opts...)
	if b, ok := o.(*v1alpha1.IPBlock); ok {
		forgetWants(b)
	}
	return err
}

func (a aged) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	err := a.Client.List(ctx, l, opts...)
	forgetListed(l)
	return err
}

func forgetListed(l client.ObjectList) {
	if b, ok := l.(*v1alpha1.IPBlockList); ok {
		for i := range b.Items {
			b.Items[i].Spec.Wants = nil
		}
	}
}

func (a aged) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	if b, ok := o.(*v1alpha1.IPBlock); ok {
		forgetWants(b)
	}
	return a.Client.Update(ctx, o, opts...)
}

// agedCache is its cache.
type agedCache struct{ cache.Cache }

func (a agedCache) List(ctx context.Context, l client.ObjectList, _ ...client.ListOption) error {
	err := a.Cache.List(ctx, l) // a copy
	forgetListed(l)
	return err
}

// TestOldAgentBeside: an agent from before ceding owns addresses, and is not stopped from anything by wants; the others
// go on without it.
func TestOldAgentBeside(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 16}
	})
	old := start(t, "old", agentOptions{
		client: func(c client.Client) client.Client { return aged{c} },
		config: func(c *Config) { c.Cache = agedCache{c.Cache}; c.MirrorInterval = 50 * time.Millisecond },
	})
	mustLease(t, old, request(pool, "old"))
	owner := start(t, "owner-beside-old", agentOptions{})
	mustLease(t, owner, request(pool, "owner"))
	asker := start(t, "asker-beside-old", agentOptions{config: func(c *Config) { c.CedeWait = time.Minute }})
	book := newLedger(t)
	for i := range 14 { // all that the new owner has; the old one has 15
		id := fmt.Sprint("asker-", i)
		began := time.Now()
		book.gave(id, mustLease(t, asker, request(pool, id)))
		t.Logf("%s after %s", id, time.Since(began).Round(time.Millisecond))
	}
	for i := range 14 { // what is its own, with wants in its block
		id := fmt.Sprint("old-", i)
		book.gave(id, mustLease(t, old, request(pool, id)))
	}
	if _, err := old.Lease(t.Context(), request(pool, "too-many")); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("an old agent with nothing left: %v, want %v", err, ipam.ErrPoolFull)
	}
	shared.check(t, pool, old, owner, asker)
}

// TestConflictStorm: somebody writes the block without end.
func TestConflictStorm(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 32}
		none := int32(0)
		s.Watermarks.Low = &none // nothing is had beforehand
	})
	a := nodes(t, 2, agentOptions{config: func(c *Config) { c.CedeWait = 20 * time.Second }})
	mustLease(t, a[0], request(pool, "first"))
	name := shared.blocks(t, pool)[0].Name
	ctx, cancel := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	defer storm.Wait()
	defer cancel()
	var writes atomic.Int64
	storm.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			o := &v1alpha1.IPBlock{}
			o.Name = name
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"storm":"%d"}}}`, i)
			if shared.admin.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(patch))) == nil {
				writes.Add(1)
			}
			<-time.After(rand.N(20 * time.Millisecond))
		}
	})
	var wait waits
	for i := range 12 {
		began := time.Now()
		mustLease(t, a[1], request(pool, fmt.Sprint(i)))
		wait.add(time.Since(began))
	}
	t.Logf("%d writes of somebody else; waited: %s", writes.Load(), &wait)
	cancel()
	storm.Wait()
	shared.check(t, pool, a...)
}

// TestWithoutAnAgent: the store alone can neither ask nor be asked.
func TestWithoutAnAgent(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 8}
	})
	a := nodes(t, 2, agentOptions{})
	mustLease(t, a[0], request(pool, "first"))
	mustLease(t, a[1], request(pool, "second"))
	a[1].stop()
	o, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), a[1].dir+"/ipam.db", o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 7 {
		if _, err = s.Lease(t.Context(), request(pool, fmt.Sprint(i))); err != nil {
			break
		}
	}
	if !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("Lease: %v, want %v", err, ipam.ErrPoolFull)
	}
}
