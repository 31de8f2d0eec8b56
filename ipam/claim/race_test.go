// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// ledger is what owners believe to own, and says so at once if two believe in one address.
type ledger struct {
	mu    sync.Mutex
	owner map[netip.Addr]string
}

func (l *ledger) take(t *testing.T, o ipam.Owner, s ipam.Share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs(s) {
		if who, ok := l.owner[a]; ok && who != o.Node {
			t.Errorf("%s: owned by %s, and granted to %s", a, who, o.Node)
		}
		l.owner[a] = o.Node
	}
}

func (l *ledger) drop(s ipam.Share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs(s) {
		delete(l.owner, a)
	}
}

func addrs(s ipam.Share) []netip.Addr {
	var out []netip.Addr
	for _, r := range s.Ranges {
		for a := r.From(); r.Contains(a); a = a.Next() {
			out = append(out, a)
		}
	}
	return out
}

// agent is as much of a node's agent as owns blocks.
type agent struct {
	ipam.Owner
	*Claimer
	ledger *ledger
	held   map[string]ipam.Share
}

func newAgent(i int, c client.Client, l *ledger) *agent {
	return &agent{node(i), New(c, nil), l, map[string]ipam.Share{}}
}

func (a *agent) names() []string {
	var out []string
	for name := range a.held {
		out = append(out, name)
	}
	return out
}

func (a *agent) grant(t *testing.T, b ipam.Block) {
	s, ok := Mine(a.Owner, b)
	if !ok || s.Session != a.Session {
		t.Errorf("%s was given block %s without a share of its session: %s", a.Node, b.Name, text(b))
		return
	}
	a.ledger.take(t, a.Owner, s)
	a.held[b.Name] = s
}

// claim claims once; false says that the pool is full.
func (a *agent) claim(t *testing.T, pool ipam.Pool, is4 bool) bool {
	b, err := a.Claim(t.Context(), a.Owner, pool, is4, a.names()...)
	switch {
	case err == nil:
		a.grant(t, b)
	case errors.Is(err, ipam.ErrPoolFull):
		return false
	case !errors.Is(err, ipam.ErrUnavailable):
		t.Errorf("%s: %v", a.Node, err)
	}
	return true
}

// release gives a block back, however often that takes.
func (a *agent) release(t *testing.T, name string) {
	a.ledger.drop(a.held[name])
	delete(a.held, name)
	for range 20 {
		err := a.Release(t.Context(), a.Owner, name)
		if err == nil {
			return
		}
		if !errors.Is(err, ipam.ErrUnavailable) {
			t.Errorf("%s: release %s: %v", a.Node, name, err)
			return
		}
	}
	t.Errorf("%s: %s cannot be released", a.Node, name)
}

// watch takes over what the API says is the agent's: claims whose answer never came.
func (a *agent) watch(t *testing.T, pool ipam.Pool) {
	var l v1alpha1.IPBlockList
	if err := api.List(t.Context(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool.Name}, client.HasLabels{v1alpha1.NodeLabel(a.Node)}); err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Items {
		for attempt := 0; ; attempt++ {
			b, err := a.Adopt(t.Context(), a.Owner, o.Name)
			if err == nil {
				a.grant(t, b)
				break
			}
			if attempt == 20 || !errors.Is(err, ipam.ErrUnavailable) {
				t.Fatalf("%s: adopt %s: %v", a.Node, o.Name, err)
			}
		}
	}
}

// Sixteen nodes race for every address of two pools that have both families.
func TestRaceUntilFull(t *testing.T) {
	for title, rate := range map[string]float64{"no faults": 0, "faults": 0.3} {
		t.Run(title, func(t *testing.T) {
			for i := range 2 {
				f := newFaults(rate, uint64(i))
				pool := newPool(t, ipam.PoolSpec{Name: fmt.Sprint(i), IPv4: v4("10.0.0.0/24", 8), IPv6: &ipam.SubnetSpec{Subnet: "fd00::/120", BlockSize: 16, Gateway: "fd00::9"}})
				t.Run(pool.Name, func(t *testing.T) {
					t.Parallel()
					raceUntilFull(t, pool, f)
				})
			}
		})
	}
}

func raceUntilFull(t *testing.T, pool ipam.Pool, f *faults) {
	l := &ledger{owner: map[netip.Addr]string{}}
	agents := make([]*agent, 16)
	var wg sync.WaitGroup
	for i := range agents {
		a := newAgent(i, f.client(), l)
		agents[i] = a
		wg.Go(func() {
			for a.claim(t, pool, true) || a.claim(t, pool, false) {
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	f.flush()
	if f.rate > 0 && f.hits.Load() == 0 {
		t.Error("no fault was injected")
	}
	for _, a := range agents {
		a.watch(t, pool)
	}
	if got, want := len(l.owner), 254+254; got != want { // fd00:: and the gateway; .0 and .255
		t.Errorf("%d addresses are owned, want %d", got, want)
	}
	check(t, pool)
	blocks := blocksOf(t, pool)
	if got, want := len(blocks), 32+16; got != want {
		t.Errorf("%d blocks, want %d", got, want)
	}
	for _, b := range blocks {
		for _, s := range b.Shares {
			for _, a := range addrs(s) {
				if l.owner[a] != s.Node {
					t.Errorf("%s is %s's by the API, and %q's by what it was told", a, s.Node, l.owner[a])
				}
			}
		}
	}
	for _, a := range agents {
		wg.Go(func() {
			for _, name := range a.names() {
				a.release(t, name)
			}
		})
	}
	wg.Wait()
	f.flush()
	if left := blocksOf(t, pool); len(left) > 0 {
		t.Errorf("left after every release: %v", left)
	}
}

// Claims and releases race in a pool too small for all.
func TestClaimAgainstRelease(t *testing.T) {
	for title, rate := range map[string]float64{"no faults": 0, "faults": 0.25} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/26", 16)})
			f := newFaults(rate, 11)
			c := f.client()
			l := &ledger{owner: map[netip.Addr]string{}}
			var wg sync.WaitGroup
			agents := make([]*agent, 8)
			for i := range agents {
				a := newAgent(i, c, l)
				agents[i] = a
				wg.Go(func() {
					for range 12 {
						if !a.claim(t, pool, true) || len(a.held) > 1 {
							for _, name := range a.names() {
								a.release(t, name)
							}
						}
					}
				})
			}
			wg.Wait()
			f.flush()
			check(t, pool)
			for _, a := range agents {
				a.watch(t, pool)
				for _, name := range a.names() {
					a.release(t, name)
				}
			}
			f.flush()
			if left := blocksOf(t, pool); len(left) > 0 {
				t.Errorf("left after every release: %v", left)
			}
		})
	}
}

// Every write of every kind of call loses its answer, or fails before it was done, once.
func TestLostAnswers(t *testing.T) {
	ctx := context.Background()
	for _, mode := range []string{"before", "after"} {
		for _, fault := range []error{errors.New("connection reset"), context.DeadlineExceeded} {
			t.Run(mode+" "+fault.Error(), func(t *testing.T) {
				pool := newPool(t, ipam.PoolSpec{IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/26", BlockSize: 16, Reserved: []string{"10.0.0.8/29"}, Ranges: []string{"10.0.0.0-10.0.0.3"}}})
				wide := mustPool(t, ipam.PoolSpec{Name: pool.Name, UID: pool.UID, IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/26", BlockSize: 16, Reserved: []string{"10.0.0.8/29"}}})
				f := &once{fault: fault, after: mode == "after"}
				c := New(f.client(), nil)
				o, name := node(1), pool.Name+".10-0-0-0"
				for _, step := range []struct {
					what string
					do   func() error
					want string // of the block; "" is none
				}{
					{"claim", func() error { _, err := c.Claim(ctx, o, pool, true); return err }, "node-1/uid-1/session-1 [10.0.0.1-10.0.0.3]"},
					{"static", func() error { _, err := c.ClaimStatic(ctx, o, pool, netip.MustParseAddr("10.0.0.9")); return err }, "node-1/uid-1/session-1 [10.0.0.1-10.0.0.3 10.0.0.9]"},
					{"widen", func() error { _, err := c.Widen(ctx, o, wide, name); return err }, "node-1/uid-1/session-1 [10.0.0.1-10.0.0.7 10.0.0.9]"},
					{"cede", func() error { return c.Cede(ctx, o, name, rs("10.0.0.9")...) }, "node-1/uid-1/session-1 [10.0.0.1-10.0.0.7]"},
					{"adopt", func() error { o.Session = "new"; _, err := c.Adopt(ctx, o, name); return err }, "node-1/uid-1/new [10.0.0.1-10.0.0.7]"},
					{"release", func() error { return c.Release(ctx, o, name) }, ""},
				} {
					f.armed.Store(true)
					if err := step.do(); err != nil {
						t.Fatalf("%s: %v", step.what, err)
					}
					if f.armed.Load() {
						t.Fatalf("%s made no write", step.what)
					}
					if got := text(blocksOf(t, pool)[name]); got != step.want {
						t.Fatalf("after %s: %s, want %s", step.what, got, step.want)
					}
				}
			})
		}
	}
}
