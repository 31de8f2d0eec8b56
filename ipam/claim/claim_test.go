// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// mustClaim claims past every fault.
func mustClaim(t *testing.T, o ipam.Owner, pool ipam.Pool) ipam.Block {
	t.Helper()
	b, err := New(api, nil).Claim(t.Context(), o, pool, true)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequests(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/16", BlockSize: 16, Reserved: []string{"10.0.255.0/24"}}})
	o := node(1)
	var direct, cached, live requests
	plain, withCache := New(direct.client(), nil), New(cached.client(), live.client())
	expect := func(what string, r *requests, want string) {
		t.Helper()
		if got := r.String(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		direct, cached, live = requests{}, requests{}, requests{}
	}
	b, err := plain.Claim(ctx, o, pool, true)
	if err != nil {
		t.Fatal(err)
	}
	expect("claim", &direct, "GET 0 LIST 0 CREATE 1 UPDATE 0 DELETE 0")
	if b, err = plain.Claim(ctx, o, pool, true, b.Name); err != nil {
		t.Fatal(err)
	}
	expect("second claim", &direct, "GET 0 LIST 0 CREATE 1 UPDATE 0 DELETE 0")
	if _, err = plain.ClaimStatic(ctx, o, pool, netip.MustParseAddr("10.0.255.9")); err != nil {
		t.Fatal(err)
	}
	expect("static", &direct, "GET 0 LIST 0 CREATE 1 UPDATE 0 DELETE 0")
	if _, err = plain.Adopt(ctx, o, b.Name); err != nil {
		t.Fatal(err)
	}
	expect("adopt what is ours", &direct, "GET 1 LIST 0 CREATE 0 UPDATE 0 DELETE 0")
	if err := withCache.Release(ctx, o, b.Name); err != nil {
		t.Fatal(err)
	}
	if got := live.String(); got != "GET 0 LIST 0 CREATE 0 UPDATE 0 DELETE 0" {
		t.Errorf("release with a cache: live reads: %s", got)
	}
	expect("release with a cache (the GET is the cache's)", &cached, "GET 1 LIST 0 CREATE 0 UPDATE 0 DELETE 1")
	if err := withCache.Release(ctx, o, b.Name); err != nil {
		t.Fatal(err)
	}
	expect("release again asks the server", &live, "GET 1 LIST 0 CREATE 0 UPDATE 0 DELETE 0")
}

// stale is a client whose cache stands still at what the block was when it was made.
func stale(t *testing.T, name string) client.Client {
	var old v1alpha1.IPBlock
	err := api.Get(t.Context(), client.ObjectKey{Name: name}, &old)
	return interceptor.NewClient(api, interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
			if err == nil {
				old.DeepCopyInto(o.(*v1alpha1.IPBlock))
			}
			return err
		},
	})
}

func TestStaleCache(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	a, b := node(1), node(2)
	name := pool.Name + ".10-0-0-0"
	before := New(stale(t, name), api) // knows of no block

	mustClaim(t, a, pool)
	if err := New(api, nil).Cede(ctx, a, name, rs("10.0.0.8/29")...); err != nil {
		t.Fatal(err)
	}
	alone := New(stale(t, name), api) // knows a alone
	mustClaim(t, b, pool)

	// The last sharer, as it believes, deletes the block: not with b in it.
	if err := alone.Release(ctx, a, name); err != nil {
		t.Fatal(err)
	}
	if got := text(blocksOf(t, pool)[name]); got != "node-2/uid-2/session-2 [10.0.0.8-10.0.0.14]" {
		t.Errorf("after a's release: %s", got)
	}
	// What a cache does not show is not gone.
	if _, err := before.Adopt(ctx, b, name); err != nil {
		t.Errorf("adopt past a cache without the block: %v", err)
	}
	if err := before.Release(ctx, b, name); err != nil {
		t.Fatal(err)
	}
	if left := blocksOf(t, pool); len(left) > 0 {
		t.Errorf("released past a cache without the block: left %v", left)
	}
	// And what it shows may be gone.
	if _, err := alone.Adopt(ctx, a, name); !errors.Is(err, ErrNoShare) || !errors.Is(err, ErrGone) {
		t.Errorf("adopt from a cache with a dead block: %v", err)
	}
}

func TestFence(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	c, old := New(api, nil), node(1)
	name := mustClaim(t, old, pool).Name
	stalled := New(stale(t, name), api)

	reborn := old
	reborn.Session = "after-reboot"
	b, err := c.Adopt(ctx, reborn, name)
	if err != nil || text(b) != "node-1/uid-1/after-reboot [10.0.0.1-10.0.0.14]" {
		t.Fatalf("adopt: %s, %v", text(b), err)
	}
	// The same node by session, when its Node object was made again.
	renamed := reborn
	renamed.NodeUID = "another"
	if b, err = c.Adopt(ctx, renamed, name); err != nil || text(b) != "node-1/another/after-reboot [10.0.0.1-10.0.0.14]" {
		t.Fatalf("adopt: %s, %v", text(b), err)
	}
	// What the old session had decided on does not happen.
	if _, err := stalled.Adopt(ctx, old, name); !errors.Is(err, ErrNoShare) {
		t.Errorf("the old session of a dead node adopts: %v", err)
	}
	if err := stalled.Release(ctx, old, name); err != nil || len(blocksOf(t, pool)) != 1 {
		t.Errorf("the old session releases what is not its own: %v, left %v", err, blocksOf(t, pool))
	}
	// A claim leaves a share of an earlier session alone: pods may use its addresses, so it is adopted first.
	again := renamed
	again.Session = "third"
	if b, err = c.Claim(ctx, again, pool, true); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("claim beside a share of an earlier session: %s, %v; want %v", text(b), err, ipam.ErrPoolFull)
	}
	if b, err = c.Reclaim(ctx, again, blocksOf(t, pool)[name], rs("10.0.0.1")); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("reclaim: %s, %v; want %v", text(b), err, ipam.ErrUnavailable)
	}
	if b, err = c.Adopt(ctx, again, name); err != nil || text(b) != "node-1/another/third [10.0.0.1-10.0.0.14]" {
		t.Errorf("adopt: %s, %v", text(b), err)
	}
}

func TestForeignPool(t *testing.T) {
	ctx := t.Context()
	old := newPool(t, ipam.PoolSpec{IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/28", BlockSize: 16, Reserved: []string{"10.0.0.8/29"}}})
	name := mustClaim(t, node(1), old).Name
	pool, c := old, New(api, nil)
	pool.UID = "made-again"
	_, err1 := c.Claim(ctx, node(2), pool, true)
	_, err2 := c.ClaimStatic(ctx, node(2), pool, netip.MustParseAddr("10.0.0.9"))
	_, err3 := c.Widen(ctx, node(1), pool, name)
	for _, err := range []error{err1, err2, err3} {
		f, ok := errors.AsType[*ForeignError](err)
		if !ok || !errors.Is(err, ipam.ErrPoolClosed) || f.Have != old.UID || f.Want != pool.UID {
			t.Errorf("got %v, want a ForeignError", err)
		}
	}
	if err := c.Release(ctx, node(1), name); err != nil {
		t.Errorf("the leftover cannot be released: %v", err)
	}
}

func TestStatic(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/27", BlockSize: 16, Reserved: []string{"10.0.0.8/29"}}})
	c, a, b := New(api, nil), node(1), node(2)
	nine, ten := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.10")
	for range 2 {
		if _, err := c.ClaimStatic(ctx, a, pool, nine); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ClaimStatic(ctx, b, pool, nine); !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), "node-1") {
		t.Errorf("got %v, want an ErrTaken that names the owner", err)
	}
	if _, err := c.ClaimStatic(ctx, b, pool, netip.MustParseAddr("10.0.0.2")); !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "10.0.0.8/29") {
		t.Errorf("got %v, want an ErrInvalid that names what is reserved", err)
	}
	if _, err := c.ClaimStatic(ctx, b, pool, netip.MustParseAddr("10.1.0.2")); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("got %v, want an ErrInvalid", err)
	}
	if _, err := c.ClaimStatic(ctx, b, pool, ten); err != nil {
		t.Fatal(err)
	}
	// The leasable part of a block made for a static address is still there for everybody.
	var names []string
	for range 2 {
		got, err := c.Claim(ctx, b, pool, true, names...)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, got.Name)
	}
	name := pool.Name + ".10-0-0-0"
	if got := text(blocksOf(t, pool)[name]); got != "node-1/uid-1/session-1 [10.0.0.9]; node-2/uid-2/session-2 [10.0.0.1-10.0.0.7 10.0.0.10]" {
		t.Errorf("block %s", got)
	}
	if _, err := c.Claim(ctx, a, pool, true); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v, want ErrPoolFull: reserved addresses are not for claims", err)
	}
	for range 2 {
		if err := c.Cede(ctx, a, name, rs("10.0.0.9")...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ClaimStatic(ctx, b, pool, nine); err != nil {
		t.Errorf("after it was ceded: %v", err)
	}
	check(t, pool)
}

func TestWiden(t *testing.T) {
	ctx := t.Context()
	spec := ipam.PoolSpec{IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/28", BlockSize: 16, Ranges: []string{"10.0.0.2-10.0.0.5"}}}
	pool := newPool(t, spec)
	name := mustClaim(t, node(1), pool).Name
	for _, tc := range []struct{ ranges, want string }{
		{"10.0.0.2-10.0.0.9", "node-1/uid-1/session-1 [10.0.0.2-10.0.0.9]"},
		{"10.0.0.8/29", "node-1/uid-1/session-1 [10.0.0.2-10.0.0.14]"}, // never smaller
	} {
		spec.Name, spec.UID, spec.IPv4.Ranges = pool.Name, pool.UID, []string{tc.ranges}
		b, err := New(api, nil).Widen(ctx, node(1), mustPool(t, spec), name)
		if err != nil || text(b) != tc.want {
			t.Errorf("widen to %s: %s, %v", tc.ranges, text(b), err)
		}
	}
	if _, err := New(api, nil).Widen(ctx, node(2), pool, name); !errors.Is(err, ErrNoShare) {
		t.Errorf("widen of a share that is not there: %v", err)
	}
}

// A person deletes a block under live leases; a person takes the labels off; a person adds a finalizer.
func TestStrangers(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	c, a, b := New(api, nil), node(1), node(2)
	lost := mustClaim(t, a, pool)
	if err := api.Delete(ctx, v1alpha1.FromBlock(lost)); err != nil {
		t.Fatal(err)
	}
	mine, _ := Mine(a, lost)
	got, err := c.Reclaim(ctx, a, lost, mine.Ranges)
	if err != nil || text(got) != text(lost) {
		t.Fatalf("reclaim: %s, %v", text(got), err)
	}
	if _, err := c.Reclaim(ctx, b, lost, rs("10.0.0.3")); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("reclaim of what another owns: %v", err)
	}

	var o v1alpha1.IPBlock
	if err := api.Get(ctx, client.ObjectKey{Name: lost.Name}, &o); err != nil {
		t.Fatal(err)
	}
	o.Labels, o.Finalizers = map[string]string{"mine": "too"}, []string{"example.com/wait"}
	if err := api.Update(ctx, &o); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Adopt(ctx, a, lost.Name); err != nil {
		t.Fatal(err)
	}
	if err := api.Get(ctx, client.ObjectKey{Name: lost.Name}, &o); err != nil || len(o.Labels) != 3 {
		t.Errorf("labels after adopt: %v, %v", o.Labels, err)
	}

	if err := c.Release(ctx, a, lost.Name); err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(t, pool)[lost.Name]; len(got.Shares) > 0 {
		t.Errorf("released with a finalizer: left %s", text(got))
	}
	if got := mustClaim(t, b, pool); text(got) != "node-2/uid-2/session-2 [10.0.0.1-10.0.0.14]" {
		t.Errorf("claim of a block without shares: %s", text(got))
	}
	if err := api.Delete(ctx, &o); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(ctx, a, pool, true); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("claim of a dying block: %v", err)
	}
	if _, err := c.Reclaim(ctx, a, lost, rs("10.0.0.15")); !errors.Is(err, ipam.ErrUnavailable) {
		t.Errorf("reclaim in a dying block: %v", err)
	}
}

func TestRefusedCalls(t *testing.T) {
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	closed, reserved := pool, newPool(t, ipam.PoolSpec{Name: "r", IPv4: &ipam.SubnetSpec{Subnet: "10.0.0.0/28", Reserved: []string{"10.0.0.0/28"}}})
	closed.Closed = "not for this node"
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c := New(api, nil)
	call := func(ctx context.Context, pool ipam.Pool, is4 bool, o ipam.Owner) error {
		_, err := c.Claim(ctx, o, pool, is4)
		return err
	}
	nameless := node(1)
	nameless.Node = ""
	for title, tc := range map[string]struct {
		err  error
		want error
	}{
		"pool closed":        {call(t.Context(), closed, true, node(1)), ipam.ErrPoolClosed},
		"family missing":     {call(t.Context(), pool, false, node(1)), ipam.ErrInvalid},
		"all reserved":       {call(t.Context(), reserved, true, node(1)), ipam.ErrPoolFull},
		"context ended":      {call(ended, pool, true, node(1)), ipam.ErrUnavailable},
		"and it says so":     {call(ended, pool, true, node(1)), context.Canceled},
		"refused by the API": {call(t.Context(), pool, true, nameless), ipam.ErrInvalid},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: got %v, want %v", title, tc.err, tc.want)
		}
	}
	if left := blocksOf(t, pool); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := c.Get(t.Context(), "no.10-0-0-0"); !errors.Is(err, ErrGone) {
		t.Errorf("get: %v", err)
	}
}

// A block that cannot be read counts as taken, and nobody writes it.
func TestUnreadableBlock(t *testing.T) {
	ctx := t.Context()
	pool := newPool(t, ipam.PoolSpec{IPv4: v4("10.0.0.0/28", 16)})
	o := v1alpha1.FromBlock(ipam.Block{Name: pool.Name + ".10-0-0-0", Pool: pool.Name, PoolUID: pool.UID, Slot: netip.MustParsePrefix("10.0.0.0/28"),
		Shares: []ipam.Share{{Node: "x", NodeUID: "x", Session: "x", Ranges: rs("10.0.1.1")}}})
	if err := api.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	c := New(api, nil)
	if _, err := c.Claim(ctx, node(1), pool, true); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("claim: %v", err)
	}
	if err := c.Release(ctx, node(1), o.Name); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("release: %v", err)
	}
}
