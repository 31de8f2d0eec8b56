// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// faulty is a client on a bad line: of its requests some fail, some are done without an answer, some are late, and
// some meet a conflict.
type faulty struct {
	client.Client
	rate float64
}

var errLine = errors.New("injected: the line is bad")

func (f faulty) do(write bool, request func() error) error {
	switch r := rand.Float64() / f.rate; {
	case r < 0.25:
		return errLine
	case r < 0.5:
		return errors.Join(errLine, request()) // the answer is lost, whatever it was
	case r < 0.65 && write:
		return apierrors.NewConflict(schema.GroupResource{Resource: "ipblocks"}, "x", errLine)
	case r < 1:
		<-time.After(rand.N(20 * time.Millisecond))
	}
	return request()
}

func (f faulty) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return f.do(false, func() error { return f.Client.Get(ctx, k, o, opts...) })
}

func (f faulty) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	return f.do(false, func() error { return f.Client.List(ctx, l, opts...) })
}

func (f faulty) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	return f.do(true, func() error { return f.Client.Create(ctx, o, opts...) })
}

func (f faulty) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	return f.do(true, func() error { return f.Client.Update(ctx, o, opts...) })
}

func (f faulty) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	return f.do(true, func() error { return f.Client.Delete(ctx, o, opts...) })
}

// restless leases and releases until ctx ends, and then releases what it holds. Every answer goes into the book.
func restless(ctx context.Context, t testing.TB, l ipam.Leaser, book *ledger, pool, who string) (leases int) {
	held := map[string]ipam.Lease{}
	release := func(id string) {
		book.ends(held[id])
		delete(held, id)
		for until := time.Now().Add(30 * time.Second); ; <-time.After(5 * time.Millisecond) {
			err := l.Release(context.Background(), request(pool, id).Key)
			if err == nil {
				return
			}
			if time.Now().After(until) {
				t.Errorf("Release(%s): %v", id, err)
				return
			}
		}
	}
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%d", who, i)
		lease, err := l.Lease(ctx, request(pool, id))
		switch {
		case err == nil:
			book.gave(id, lease)
			held[id] = lease
			leases++
		case errors.Is(err, ipam.ErrPoolFull), errors.Is(err, ipam.ErrUnavailable):
			release(id) // an answer that was lost may have been a lease
		default:
			t.Errorf("Lease: %v", err)
		}
		for id := range held { // in any order
			if len(held) > 3 || err != nil || rand.IntN(3) == 0 {
				release(id)
			}
			break
		}
		<-time.After(rand.N(10 * time.Millisecond)) // so that the nodes meet in other orders
	}
	for id := range held {
		release(id)
	}
	return leases
}

func TestNodesOnABadLine(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 4}
		s.IPv6 = &v1alpha1.Subnet{Subnet: "fd00:2::/123", BlockSize: 4}
	})
	var agents []*running
	for i := range 6 {
		agents = append(agents, start(t, fmt.Sprintf("bad-line-%d", i), agentOptions{
			client: func(c client.Client) client.Client { return faulty{c, 0.3} },
			config: func(c *Config) { c.ReleaseAfter = time.Nanosecond },
		}))
	}
	book := newLedger(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	var total atomic.Int64
	for _, a := range agents {
		for w := range 2 {
			wait.Go(func() { total.Add(int64(restless(ctx, t, a, book, pool, fmt.Sprintf("%s-%d", a.node, w)))) })
		}
	}
	wait.Wait()
	if total.Load() < 100 {
		t.Errorf("only %d leases were had", total.Load())
	}
	shared.check(t, pool, agents...)
	shared.noBlocks(t, pool)
	shared.check(t, pool, agents...)
	t.Logf("%d leases", total.Load())
}

// mortal is the client of an agent that dies at one of its writes: before it or after it was done. From then on
// nothing that the agent asks is answered.
type mortal struct {
	client.Client
	left  *atomic.Int64 // writes until death
	after bool
	dead  chan struct{}
	once  *sync.Once
}

// errDead is of a kind that is not repeated, so that a dead agent comes to rest at once.
func errDead() error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "ipblocks"}, "x", errors.New("injected: the agent is dead"))
}

func (m mortal) write(do func() error) error {
	if closed(m.dead) {
		return errDead()
	}
	if m.left.Add(-1) != 0 {
		return do()
	}
	if m.after {
		_ = do()
	}
	m.once.Do(func() { close(m.dead) })
	return errDead()
}

func (m mortal) read(do func() error) error {
	if closed(m.dead) {
		return errDead()
	}
	return do()
}

func (m mortal) Get(ctx context.Context, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return m.read(func() error { return m.Client.Get(ctx, k, o, opts...) })
}

func (m mortal) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	return m.read(func() error { return m.Client.List(ctx, l, opts...) })
}

func (m mortal) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	return m.write(func() error { return m.Client.Create(ctx, o, opts...) })
}

func (m mortal) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	return m.write(func() error { return m.Client.Update(ctx, o, opts...) })
}

func (m mortal) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	return m.write(func() error { return m.Client.Delete(ctx, o, opts...) })
}

// TestDeathAtEveryWrite takes an agent that dies at its n-th write, before or after it was done, through all that
// it writes, and starts it again on the same store.
func TestDeathAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for n := 1; n <= 8; n++ {
			t.Run(fmt.Sprintf("%d-%v", n, after), func(t *testing.T) {
				t.Parallel()
				dieAt(t, int64(n), after)
			})
		}
	}
}

func dieAt(t *testing.T, n int64, after bool) {
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/28", BlockSize: 4, Reserved: []v1alpha1.AddressRange{"10.0.0.10-10.0.0.11"}}
	})
	node := uniqueName(t)
	var left atomic.Int64
	left.Store(n)
	dead := make(chan struct{})
	once := &sync.Once{}
	config := func(c *Config) { c.ReleaseAfter = time.Nanosecond }
	a := start(t, node, agentOptions{config: config, client: func(c client.Client) client.Client { return mortal{c, &left, after, dead, once} }})
	book := newLedger(t)
	named := request(pool, "named")
	named.Static = []netip.Addr{netip.MustParseAddr("10.0.0.10")}
	had := map[string]ipam.Lease{}
	for _, req := range []ipam.Request{request(pool, "0"), request(pool, "1"), request(pool, "2"), request(pool, "3"), named, request(pool, "4")} {
		if l, err := a.Lease(t.Context(), req); err == nil {
			book.gave(req.Key.ContainerID, l)
			had[req.Key.ContainerID] = l
		}
	}
	for _, id := range []string{"0", "1", "named"} { // some stay
		if l, ok := had[id]; ok {
			book.ends(l)
			delete(had, id)
		}
		mustRelease(t, a, id)
	}
	select {
	case <-dead:
	case <-time.After(2 * time.Second): // it had less to write
	}
	a.stop()

	b := start(t, node, agentOptions{config: config, dir: a.dir})
	other := start(t, node+"-other", agentOptions{config: config})
	for i := 0; ; i++ { // all that is left of the pool
		id := fmt.Sprint("new-", i)
		l, err := []*running{b, other}[i%2].Lease(t.Context(), request(pool, id))
		if errors.Is(err, ipam.ErrPoolFull) && i > 8 {
			break
		}
		if err == nil {
			book.gave(id, l)
		}
	}
	shared.check(t, pool, b, other)
	for id := range had {
		mustRelease(t, b, id)
	}
	for i := range 32 {
		mustRelease(t, b, fmt.Sprint("new-", i))
		mustRelease(t, other, fmt.Sprint("new-", i))
	}
	shared.noBlocks(t, pool)
	shared.check(t, pool, b, other)
}

func TestOutage(t *testing.T) {
	t.Parallel()
	api, err := newAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Stop(); err != nil {
			t.Error(err)
		}
	})
	pool := api.pool(t, func(s *v1alpha1.IPPoolSpec) { s.IPv4.BlockSize = 4 })
	o := agentOptions{api: api, config: func(c *Config) { c.ReleaseAfter = time.Nanosecond }}
	a := start(t, "cut-off", o)
	mustLease(t, a, request(pool, "before"))
	cfg, err := api.NodeConfig(t.Context(), "cut-off")
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
	api.StopServer()

	// A start without an API server: what the store has is served, and what it has not is refused in time.
	o.dir, o.cfg = a.dir, cfg
	b := start(t, "cut-off", o)
	room := 0
	for {
		_, err := b.Lease(t.Context(), request(pool, fmt.Sprint("cut-off-", room)))
		if errors.Is(err, ipam.ErrUnavailable) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		room++
	}
	if room == 0 {
		t.Error("no lease was had from what the node owns")
	}
	mustRelease(t, b, "cut-off-0")
	mustLease(t, b, request(pool, "again"))
	if _, err := b.Lease(t.Context(), request("another-pool", "x")); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("Lease of a pool that the node has not heard of: %v, want %v", err, ipam.ErrUnavailable)
	}
	if lines, err := b.State(); err != nil {
		t.Errorf("State: %v, %v; want ready, the store serves", lines, err)
	}
	if err := api.RestartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "a block is claimed once the API is back", func() error {
		_, err := b.Lease(t.Context(), request(pool, "back"))
		return err
	})
	api.check(t, pool, b)
	for i := range room {
		mustRelease(t, b, fmt.Sprint("cut-off-", i))
	}
	for _, id := range []string{"before", "again", "back"} {
		mustRelease(t, b, id)
	}
	api.noBlocks(t, pool)
}
