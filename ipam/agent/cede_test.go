// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/test/cluster"
)

// nodes starts n agents named after the test.
func nodes(t testing.TB, n int, o agentOptions) []*running {
	t.Helper()
	var out []*running
	for i := range n {
		out = append(out, start(t, fmt.Sprintf("%s-%d", uniqueName(t), i), o))
	}
	return out
}

// waits are how long requests took, for people to read: no machine of ours is quiet enough to hold them to it.
type waits struct {
	mu sync.Mutex
	d  []time.Duration
}

func (w *waits) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.d = append(w.d, d)
}

func (w *waits) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.d) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, p50 %s, p99 %s, most %s", len(w.d), w.at(0.5), w.at(0.99), w.at(1))
}

// at is the wait that the part q of all were no longer than.
func (w *waits) at(q float64) time.Duration {
	slices.Sort(w.d)
	return w.d[min(len(w.d)-1, int(q*float64(len(w.d))))].Round(time.Millisecond)
}

// sizes are those of the largest block object of a pool: its bytes, without the mirror, and its ranges.
func (s *apiServer) sizes(t testing.TB, pool string) (bytes, ranges int) {
	t.Helper()
	var l v1alpha1.IPBlockList
	if err := s.admin.List(t.Context(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Items {
		text, err := json.Marshal(o.Spec)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range o.Spec.Shares {
			n += len(s.Ranges)
		}
		bytes, ranges = max(bytes, len(text)), max(ranges, n)
	}
	return bytes, ranges
}

// TestEveryAddressOnce: a pool of N addresses serves N leases over any spread of nodes, again and again, and not one more.
func TestEveryAddressOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		nodes, block int
		subnet       string
		six          *v1alpha1.Subnet
		want         int
	}{
		"more nodes than blocks": {6, 16, "10.0.0.0/27", nil, 30},
		"one block":              {4, 32, "10.0.0.0/27", nil, 30},
		"both families":          {3, 8, "10.0.0.0/28", &v1alpha1.Subnet{Subnet: "fd00::/124", BlockSize: 8}, 14},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
				s.IPv4, s.IPv6 = &v1alpha1.Subnet{Subnet: c.subnet, BlockSize: int32(c.block)}, c.six
			})
			agents := nodes(t, c.nodes, agentOptions{config: func(c *Config) { c.MirrorInterval, c.CedeWait = 200*time.Millisecond, time.Minute }})
			late := start(t, uniqueName(t)+"-late", agentOptions{config: func(c *Config) { c.CedeWait = 100 * time.Millisecond }}) // when all is leased, no wait is long enough
			book := newLedger(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			dice := rand.New(rand.NewPCG(seed, 0))
			type holder struct {
				a  *running
				id string
			}
			held := map[holder]ipam.Lease{}
			var starved waits
			for round := range 3 {
				for i := 0; len(held) < c.want; i++ {
					h := holder{agents[dice.IntN(len(agents))], fmt.Sprintf("%d-%d", round, i)}
					began := time.Now()
					l := mustLease(t, h.a, request(pool, h.id))
					if d := time.Since(began); d > 5*time.Millisecond {
						starved.add(d)
					}
					book.gave(h.id, l)
					held[h] = l
				}
				if round == 0 {
					if _, err := late.Lease(t.Context(), request(pool, "too-many")); !errors.Is(err, ipam.ErrPoolFull) {
						t.Errorf("one lease more than addresses: %v, want %v", err, ipam.ErrPoolFull)
					}
				}
				bytes, ranges := shared.sizes(t, pool)
				t.Logf("round %d: largest block %d bytes, %d ranges", round, bytes, ranges)
				if ranges > c.block || bytes > 16<<10 {
					t.Errorf("a block has %d ranges in %d bytes", ranges, bytes)
				}
				shared.check(t, pool, agents...)
				cluster.Eventually(t, "the refusal is forgotten", func() error { return late.Ready(t.Context(), pool) })
				for _, h := range slices.SortedFunc(maps.Keys(held), func(a, b holder) int { return cmpText(a.id, b.id) }) {
					if dice.IntN(2) == 0 {
						book.ends(held[h])
						mustRelease(t, h.a, h.id)
						delete(held, h)
					}
				}
			}
			t.Logf("leases that needed the API: %s", &starved)
		})
	}
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// fill leases all that the pool has on the node, and gives the IDs.
func fill(t testing.TB, a *running, pool string, n int) []string {
	t.Helper()
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint("fill-", i))
		mustLease(t, a, request(pool, ids[i]))
	}
	return ids
}

// TestHandOver: how long a starving lease waits for an owner that has plenty, one by one.
func TestHandOver(t *testing.T) {
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/22", BlockSize: 1024}
		none := int32(0)
		s.Watermarks.Low = &none
	})
	a := nodes(t, 2, agentOptions{})
	fill(t, a[0], pool, 3)
	var starved waits
	before := testutil.ToFloat64(a[1].metrics.received.WithLabelValues(pool))
	for i := range 60 {
		began := time.Now()
		mustLease(t, a[1], request(pool, fmt.Sprint(i)))
		starved.add(time.Since(began))
	}
	t.Logf("waited: %s", &starved)
	// One that was offered at the last moment may be claimed by the next lease as nobody's.
	if n := testutil.ToFloat64(a[1].metrics.received.WithLabelValues(pool)) - before; n < 40 {
		t.Errorf("%v addresses were received for 60 leases", n)
	}
	shared.check(t, pool, a...)
}

// TestWaitsForAnAddress: a lease that starves has the address that another node's pod leaves meanwhile.
func TestWaitsForAnAddress(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 8}
	})
	a := nodes(t, 2, agentOptions{config: func(c *Config) { c.CedeWait = time.Minute }})
	ids := fill(t, a[0], pool, 6)
	had := make(chan error, 1)
	go func() {
		_, err := a[1].Lease(t.Context(), request(pool, "starving"))
		had <- err
	}()
	for a[0].standing.Load() == 0 { // its want has been seen, and there is nothing for it
		select {
		case err := <-had:
			t.Fatalf("the lease did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	began := time.Now()
	mustRelease(t, a[0], ids[3])
	if err := <-had; err != nil {
		t.Fatal(err)
	}
	t.Logf("handed over in %s", time.Since(began).Round(time.Millisecond))
	shared.check(t, pool, a...)
}

// TestStarvingTwins: two nodes that starve at the same owner both get what they need.
func TestStarvingTwins(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/26", BlockSize: 64}
	})
	a := nodes(t, 3, agentOptions{})
	fill(t, a[0], pool, 2)
	book := newLedger(t)
	var wait sync.WaitGroup
	var starved waits
	for _, twin := range a[1:] {
		for i := range 24 {
			wait.Go(func() {
				id := fmt.Sprint(twin.node, i)
				began := time.Now()
				l, err := twin.Lease(t.Context(), request(pool, id))
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				starved.add(time.Since(began))
				book.gave(id, l)
			})
		}
	}
	wait.Wait()
	t.Logf("waited: %s", &starved)
	shared.check(t, pool, a...)
}

// TestCedeAgainstLease: an owner whose pods come and go while others want its addresses.
func TestCedeAgainstLease(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]float64{"good line": 0, "bad line": 0.3} {
		t.Run(name, func(t *testing.T) {
			pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
				s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/28", BlockSize: 16}
			})
			o := agentOptions{config: func(c *Config) { c.CedeWait = time.Second }}
			if line > 0 {
				o.client = func(c client.Client) client.Client { return faulty{c, line} }
			}
			a := nodes(t, 3, o)
			book := newLedger(t)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			var wait sync.WaitGroup
			var total tally
			total.of = map[string]int{}
			for _, x := range a {
				for w := range 3 {
					wait.Go(func() { total.add(x.node, restless(ctx, t, x, book, pool, fmt.Sprintf("%s-%d", x.node, w))) })
				}
			}
			wait.Wait()
			t.Logf("leases: %v", total.of)
			if len(total.of) == 0 {
				t.Error("no lease was had")
			}
			shared.check(t, pool, a...)
		})
	}
}

// TestCoolingIsCeded: to a node that has nothing; one that has a cooling address of its own reuses that.
func TestCoolingIsCeded(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		hour := int32(3600)
		s.CooldownSeconds = &hour
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 8}
	})
	a := nodes(t, 2, agentOptions{})
	ids := fill(t, a[0], pool, 6)
	mustRelease(t, a[0], ids[2])
	mustRelease(t, a[0], ids[4])
	first := mustLease(t, a[1], request(pool, "x")) // all that is free is cooling
	mustRelease(t, a[1], "x")
	if again := mustLease(t, a[1], request(pool, "y")); !slices.Equal(addrs(first), addrs(again)) {
		t.Errorf("leased %v after %v, want the one that cools here", addrs(again), addrs(first))
	}
	shared.check(t, pool, a...)
}

// TestWantsOfTheDead: what was offered to a node that is gone, and wants that nobody waits for, do not stay.
func TestWantsOfTheDead(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 8}
	})
	a := nodes(t, 2, agentOptions{})
	fill(t, a[0], pool, 3)
	var full *claim.FullError
	dead := ipam.Owner{Node: "dead", NodeUID: "dead", Session: "dead"}
	p, err := a[0].store.Pool(pool)
	if err != nil {
		t.Fatal(err)
	}
	asker := claim.New(shared.admin, nil)
	if _, err := asker.Claim(t.Context(), dead, p, true); !errors.As(err, &full) || len(full.Askings) != 1 || full.Askings[0].From != a[0].node {
		t.Fatalf("Claim: %v, %+v; want to be told to ask %s", err, full, a[0].node)
	}
	if err := asker.Ask(t.Context(), dead, full.Askings[0], 2, false, time.Now().Add(3*time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // two of these only when the offer has expired
		for began := time.Now(); ; {
			_, err := a[1].Lease(t.Context(), request(pool, fmt.Sprint("late-", i)))
			if err == nil {
				break
			}
			if !errors.Is(err, ipam.ErrPoolFull) || time.Since(began) > 30*time.Second {
				t.Fatal(err)
			}
		}
	}
	for _, b := range shared.blocks(t, pool) {
		for _, w := range b.Wants {
			if w.Node == "dead" {
				t.Errorf("the want of the dead stays: %+v", w)
			}
		}
	}
	shared.check(t, pool, a...)
}
