// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
	"github.com/railyard-net/railyard/ipam/store"
)

func ranges(t testing.TB, texts ...string) []iprange.Range {
	t.Helper()
	var out []iprange.Range
	for _, s := range texts {
		r, err := iprange.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestDecide(t *testing.T) {
	t.Parallel()
	pool, err := ipam.ParsePool(ipam.PoolSpec{Name: "p", UID: "p1", IPv4: &ipam.SubnetSpec{
		Subnet: "10.0.0.0/24", BlockSize: 8, Reserved: []string{"10.0.0.12-10.0.0.14"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	me := ipam.Owner{Node: "n", NodeUID: "u", Session: "s"}
	mine := func(texts ...string) *ipam.Block {
		return &ipam.Block{PoolUID: "p1", Shares: []ipam.Share{{Node: "n", NodeUID: "u", Session: "s", Ranges: ranges(t, texts...)}}}
	}
	as := func(node, uid, session string) *ipam.Block {
		b := mine("10.0.0.8/31")
		b.Shares[0].Node, b.Shares[0].NodeUID, b.Shares[0].Session = node, uid, session
		return b
	}
	held := func(texts ...string) *store.Holding {
		return &store.Holding{Block: "p.10-0-0-8", Pool: "p", Slot: netip.MustParsePrefix("10.0.0.8/29"), Ranges: ranges(t, texts...)}
	}
	retired := held("10.0.0.8/31")
	retired.Retired = true
	leased := func(texts ...string) []netip.Addr {
		var out []netip.Addr
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	another := mine("10.0.0.8/31")
	another.PoolUID = "p0"
	for name, c := range map[string]struct {
		held   *store.Holding
		block  *ipam.Block
		leased []netip.Addr
		want   action
	}{
		"nothing anywhere":                             {want: keep},
		"another node's block":                         {block: as("m", "v", "x"), want: keep},
		"a share of this name, of another node":        {block: as("n", "v", "x"), want: keep},
		"the same on both sides":                       {held: held("10.0.0.8/31"), block: mine("10.0.0.8/31"), want: keep},
		"the same in other words":                      {held: held("10.0.0.8", "10.0.0.9"), block: mine("10.0.0.8/31"), want: keep},
		"a lost answer":                                {block: mine("10.0.0.8/31"), want: adopt},
		"a reboot":                                     {block: as("n", "u", "x"), want: fence},
		"a Node made again":                            {held: held("10.0.0.8/31"), block: as("n", "v", "s"), want: rename},
		"a Node made again and a lost answer":          {block: as("n", "v", "s"), want: adopt},
		"another agent under this name":                {held: held("10.0.0.8/31"), block: as("n", "u", "x"), want: fence},
		"the share grew":                               {held: held("10.0.0.8/31"), block: mine("10.0.0.8/30"), want: shed},
		"the share grew under a suspended lease":       {held: held(), block: mine("10.0.0.8"), leased: leased("10.0.0.8"), want: resize},
		"the share shrank":                             {held: held("10.0.0.8/30"), block: mine("10.0.0.8/31"), want: resize},
		"the share shrank under a lease":               {held: held("10.0.0.8/30"), block: mine("10.0.0.8/31"), leased: leased("10.0.0.11"), want: regain},
		"the block is gone":                            {held: held("10.0.0.8/31"), want: forget},
		"the block is gone under a lease":              {held: held("10.0.0.8/31"), leased: leased("10.0.0.8"), want: regain},
		"the block is another's under a lease":         {held: held("10.0.0.8/31"), block: as("m", "v", "x"), leased: leased("10.0.0.8"), want: regain},
		"retired":                                      {held: retired, block: mine("10.0.0.8/31"), want: cede},
		"retired, and gone":                            {held: retired, want: forget},
		"retired, and another's now":                   {held: retired, block: as("m", "v", "x"), want: forget},
		"a named address whose return is not answered": {held: held("10.0.0.8/31"), block: mine("10.0.0.8/31", "10.0.0.13"), want: shed},
		"a block of a pool of another UID":             {block: another, want: orphan},
	} {
		t.Run(name, func(t *testing.T) {
			v := view{held: c.held, block: c.block, me: me, pool: pool, leased: c.leased}
			if got := decide(v); got != c.want {
				t.Errorf("decide = %s, want %s", got, c.want)
			}
		})
	}
	v := view{held: held("10.0.0.8/31", "10.0.0.12/31"), pool: pool, leased: leased("10.0.0.12")}
	if got, want := v.unused(), ranges(t, "10.0.0.13"); !cmp.Equal(got, want, cmp.Comparer(func(a, b iprange.Range) bool { return a == b })) {
		t.Errorf("unused = %v, want %v", got, want)
	}
}

func TestCollectorLooksTwice(t *testing.T) {
	t.Parallel()
	gone := map[string]bool{}
	c := &collector{grace: time.Minute, gone: func(n ipam.NetNS) bool { return gone[n.Path] }}
	l := ipam.Lease{Key: ipam.Key{ContainerID: "a"}, NetNS: ipam.NetNS{Path: "/a", Ino: 1}}
	forever := ipam.Lease{Key: ipam.Key{ContainerID: "b"}}
	look := func(at time.Duration, want int) {
		t.Helper()
		if got := c.look(at, []ipam.Lease{l, forever}); len(got) != want {
			t.Errorf("at %s: %d leases to end, want %d", at, len(got), want)
		}
	}
	look(1*time.Second, 0)
	gone["/a"], gone[""] = true, true
	look(2*time.Second, 0)
	look(61*time.Second, 0)
	gone["/a"] = false // a folder that is not mounted for a moment
	look(62*time.Second, 0)
	gone["/a"] = true
	look(63*time.Second, 0)
	look(122*time.Second, 0)
	l.NetNS.Ino = 2 // the same attachment, in a new namespace
	look(124*time.Second, 0)
	look(183*time.Second, 0)
	look(184*time.Second, 1)
}

func TestPoolState(t *testing.T) {
	t.Parallel()
	obj := func(change func(*v1alpha1.IPPool)) *v1alpha1.IPPool {
		p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p1", Generation: 1}}
		p.Spec.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/24", BlockSize: 8}
		meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: 1,
		})
		if change != nil {
			change(p)
		}
		return p
	}
	last, err := obj(nil).Parse()
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(p *v1alpha1.IPPool) {
		p.Status.Conditions[0].Status, p.Status.Conditions[0].Message = metav1.ConditionFalse, "no"
	}
	for name, c := range map[string]struct {
		obj                    *v1alpha1.IPPool
		was                    *ipam.Pool
		held                   bool
		wantOK, wantOpen, same bool // same: addresses as in was
	}{
		"new and accepted":        {obj: obj(nil), wantOK: true, wantOpen: true},
		"new and not looked at":   {obj: obj(func(p *v1alpha1.IPPool) { p.Status.Conditions = nil }), wantOK: true},
		"new and wrong":           {obj: obj(func(p *v1alpha1.IPPool) { p.Spec.IPv4.Gateway = "x" })},
		"edited and accepted":     {obj: obj(func(p *v1alpha1.IPPool) { p.Spec.IPv4.Exclude = []v1alpha1.AddressRange{"10.0.0.1"} }), was: &last, wantOK: true, wantOpen: true},
		"edited and not judged":   {obj: obj(func(p *v1alpha1.IPPool) { p.Generation = 2; p.Spec.IPv4.Ranges = []v1alpha1.AddressRange{"10.0.0.1"} }), was: &last, wantOK: true, wantOpen: true, same: true},
		"edited and refused":      {obj: obj(func(p *v1alpha1.IPPool) { refuse(p); p.Spec.IPv4.Ranges = []v1alpha1.AddressRange{"10.0.0.1"} }), was: &last, wantOK: true, same: true},
		"edited and wrong":        {obj: obj(func(p *v1alpha1.IPPool) { p.Spec.IPv4.Gateway = "x" }), was: &last, wantOK: true, same: true},
		"being deleted":           {obj: obj(func(p *v1alpha1.IPPool) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }), was: &last, wantOK: true, same: true},
		"not for this node":       {obj: obj(func(p *v1alpha1.IPPool) { p.Spec.NodeSelector = metav1.SetAsLabelSelector(map[string]string{"a": "b"}) }), was: &last, wantOK: true, same: true},
		"made anew, blocks held":  {obj: obj(func(p *v1alpha1.IPPool) { p.UID = types.UID("p2") }), was: &last, held: true, wantOK: true, same: true},
		"made anew, nothing held": {obj: obj(func(p *v1alpha1.IPPool) { p.UID = types.UID("p2") }), was: &last, wantOK: true, wantOpen: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := poolState(c.obj, c.was, c.held, nil)
			if ok != c.wantOK || ok && (got.Closed == "") != c.wantOpen {
				t.Fatalf("poolState = %+v, %v; want known %v and open %v", got, ok, c.wantOK, c.wantOpen)
			}
			if c.same && (got.UID != c.was.UID || !slices.Equal(got.Subnets[0].Leasable, c.was.Subnets[0].Leasable)) {
				t.Errorf("poolState = %+v, want the addresses of %+v", got, *c.was)
			}
		})
	}
}
