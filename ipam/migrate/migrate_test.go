// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
	"github.com/railyard-net/railyard/test/cluster"
)

const rail0 = `{"type":"whereabouts","ipRanges":[{"range":"10.20.0.0/26","exclude":["10.20.0.32/28"]},{"range":"fd00:20::/122"}],"network_name":"rail0","gateway":"10.20.0.1"}`

// fill has whereabouts give addresses in all the ways in which they can be known.
func (o *old) fill() {
	o.node("n1", corev1.ConditionTrue)
	o.node("n2", corev1.ConditionFalse)
	o.define("rail0", rail0)
	o.define("other", `{"type":"whereabouts","range":"10.20.0.0/26"}`)
	o.pod("a", "n1", "rail0", "10.20.0.2")
	o.pod("b", "n2", "rail0")                 // no status: Multus was told not to write it
	o.pod("c", "n1", "rail0", "10.20.0.9")    // given, and in no object (W1)
	o.pod("d", "n1", "other", "10.20.0.10")   // of another network
	o.pod("s", "n1", "rail0", "10.20.0.33")   // static, in an excluded range (W5)
	o.pod("r", "n1", "gone", "fd00:20::1234") // outside of every pool
	o.allocations("rail0-10.20.0.0-26", "10.20.0.0/26", map[string]string{"2": "default/a", "3": "default/b", "4": "default/gone"})
	o.allocations("rail0-fd00-20---122", "fd00:20::/122", map[string]string{"7": "default/a"})
	o.allocations("10.20.0.0-26", "10.20.0.0/26", map[string]string{"11": "default/d"})
	o.object(whereaboutsKind("OverlappingRangeIPReservation"), "rail0-10.20.0.5", map[string]any{"spec": map[string]any{"podref": "default/b"}})
	o.object(whereaboutsKind("OverlappingRangeIPReservation"), "rail0-fd00-20--8", map[string]any{"spec": map[string]any{"podref": "default/b"}})
}

func names(t *testing.T) (four, six, other string) {
	t.Helper()
	find := func(section string) []compat.Pool {
		calls, err := compat.Find(`{"ipam":`+section+`}`, "x")
		must(t, err)
		return calls[0].Pools
	}
	p := find(rail0)
	return p[0].Name, p[1].Name, find(`{"type":"whereabouts","range":"10.20.0.0/26"}`)[0].Name
}

func TestWhereabouts(t *testing.T) {
	o := newOld(t)
	o.fill()
	m := o.migration(compat.TypeWhereabouts)
	four, _, _ := names(t)

	// A dry run says it all and changes nothing.
	p, err := m.Plan(t.Context())
	must(t, err)
	var report strings.Builder
	must(t, p.Report(&report))
	for _, want := range []string{
		four, "10.20.0.2  ", "default/gone (no such pod)", "allocation,network-status", "10.20.0.9 ", "reservation", "--apply",
	} {
		if !strings.Contains(report.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &report)
		}
	}
	var made v1alpha1.IPPoolList
	must(t, o.api.List(t.Context(), &made))
	if len(made.Items)+len(o.blocks()) > 0 {
		t.Error("a dry run has made something")
	}

	// While the cluster is full of nodes that want addresses.
	stop := o.greedy("hungry")
	_, err = m.Apply(t.Context())
	must(t, err)
	for pool, want := range wanted(t) {
		cluster.Eventually(t, "every address of "+pool+" is owned", func() error {
			if got := o.ownersOf(pool); len(got) != want.all {
				return fmt.Errorf("%d are, of %d", len(got), want.all)
			}
			return nil
		})
	}
	stop()
	for pool, want := range wanted(t) {
		if pools.IsClosed(o.pool(pool)) || o.pool(pool).Annotations[Annotation] != compat.TypeWhereabouts {
			t.Errorf("%s: %+v", pool, o.pool(pool))
		}
		for a, owner := range o.ownersOf(pool) {
			if w := cmp.Or(want.held[a], "hungry"); owner != w {
				t.Errorf("%s of %s is owned by %s, want %s", a, pool, owner, w)
			}
		}
	}
}

// wanted is what fill leads to: which addresses are held, and how many are owned once everybody took what there was.
func wanted(t *testing.T) map[string]struct {
	held map[string]string
	all  int
} {
	type want = struct {
		held map[string]string
		all  int
	}
	four, six, other := names(t)
	return map[string]want{
		four: {map[string]string{
			"10.20.0.2": "held:n1", "10.20.0.3": "held:n2", "10.20.0.4": "held:", "10.20.0.5": "held:n2", "10.20.0.9": "held:n1", "10.20.0.33": "held:n1",
		}, 61 - 16 + 1}, // without the gateway, and of the excluded ones the static one
		six:   {map[string]string{"fd00:20::7": "held:n1", "fd00:20::8": "held:n2"}, 63},
		other: {map[string]string{"10.20.0.10": "held:n1", "10.20.0.11": "held:n1"}, 62},
	}
}

// TestRefuses: nothing begins while the old management can still give.
func TestRefuses(t *testing.T) {
	o := newOld(t)
	o.define("rail0", rail0)
	o.create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "wb"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{whereaboutsGroup}, Resources: []string{"*"}, Verbs: []string{"patch"}}}})
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "wb"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "wb"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "whereabouts"}},
	}
	o.create(binding)
	m := o.migration(compat.TypeWhereabouts)
	cluster.Eventually(t, "the account may write", func() error {
		p, err := m.Plan(t.Context())
		if err == nil && len(p.Giving) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	if _, err := m.Apply(t.Context()); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "ClusterRoleBinding") {
		t.Errorf("%v", err)
	}
	must(t, o.api.Delete(t.Context(), binding))
	cluster.Eventually(t, "the account may not write", func() error {
		_, err := m.Apply(t.Context())
		return err
	})
}

func (o *old) pool(name string) *v1alpha1.IPPool {
	o.t.Helper()
	var p v1alpha1.IPPool
	must(o.t, o.api.Get(o.t.Context(), client.ObjectKey{Name: name}, &p))
	return &p
}

// TestRefused: a pool that is not accepted stays closed and is named, the others are opened.
func TestRefused(t *testing.T) {
	o := newOld(t)
	o.define("wide", `{"type":"whereabouts","range":"10.20.0.0/16"}`)
	o.define("other", `{"type":"whereabouts","range":"10.30.0.0/16"}`)
	m := o.migration(compat.TypeWhereabouts)
	_, err := m.Apply(t.Context())
	must(t, err)
	o.define("narrow", `{"type":"whereabouts","range":"10.20.1.0/24"}`)
	o.define("late", `{"type":"whereabouts","range":"10.40.0.0/24"}`)
	o.allocations("10.20.1.0-24", "10.20.1.0/24", map[string]string{"2": "default/a"})
	p, err := m.Apply(t.Context())
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), v1alpha1.ReasonOverlaps) {
		t.Fatalf("%v", err)
	}
	closed := map[string]bool{}
	for _, x := range p.Pools {
		closed[x.Object.Spec.IPv4.Subnet] = pools.IsClosed(o.pool(x.Object.Name))
	}
	if len(closed) != 4 || !closed["10.20.1.0/24"] || closed["10.20.0.0/16"] || closed["10.30.0.0/16"] || closed["10.40.0.0/24"] {
		t.Errorf("closed: %v", closed)
	}
}

// TestOpenBefore: a pool from which nodes could take addresses before those in use were known is nothing to go on with.
func TestOpenBefore(t *testing.T) {
	o := newOld(t)
	o.node("n1", corev1.ConditionTrue)
	o.define("rail0", `{"type":"whereabouts","range":"10.20.0.0/28"}`)
	m := o.migration(compat.TypeWhereabouts)
	p, err := m.Plan(t.Context())
	must(t, err)
	pool := p.Pools[0].Object
	o.create(pool)
	must(t, m.accepted(t.Context(), pool))
	_, err = m.Apply(t.Context())
	must(t, err) // nothing is in use
	o.pod("a", "n1", "rail0")
	o.allocations("10.20.0.0-28", "10.20.0.0/28", map[string]string{"2": "default/a", "3": "default/gone"})
	if _, err = m.Apply(t.Context()); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "10.20.0.2 is in use by pod default/a") {
		t.Errorf("%v", err)
	}
	stop := o.greedy("hungry")
	cluster.Eventually(t, "the node has everything", func() error {
		if n := len(o.ownersOf(pool.Name)); n != 14 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	stop()
	if _, err = m.Apply(t.Context()); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "owned by node hungry") {
		t.Errorf("%v", err)
	}
}

// TestKilled: a run that dies at any step leaves pools that are closed, and the next one finishes.
func TestKilled(t *testing.T) {
	o := newOld(t)
	o.fill()
	four, _, _ := names(t)
	stop := o.greedy("hungry")
	defer stop()
	for writes := 0; ; writes++ {
		ctx, cancel := context.WithCancel(t.Context())
		m := o.migration(compat.TypeWhereabouts)
		m.api = &dying{Client: o.api, left: writes, die: cancel}
		_, err := m.Apply(ctx)
		cancel()
		for pool, want := range wanted(t) {
			for a, owner := range o.ownersOf(pool) {
				if w := want.held[a]; w != "" && owner != w {
					t.Fatalf("after %d writes %s of %s is owned by %s, want %s", writes, a, pool, owner, w)
				}
			}
		}
		if err == nil {
			break
		}
		if writes > 40 {
			t.Fatalf("it never ends: %v", err)
		}
	}
	if pools.IsClosed(o.pool(four)) {
		t.Error("the pool is closed")
	}
}

// dying is a client whose process dies at its next write once none is left.
type dying struct {
	client.Client
	left int
	die  func()
}

func (d *dying) next() error {
	if d.left--; d.left < 0 {
		d.die()
		return errors.New("killed")
	}
	return nil
}

func (d *dying) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	switch o.(type) {
	case *v1alpha1.IPPool, *v1alpha1.IPBlock:
		if err := d.next(); err != nil {
			return err
		}
	}
	return d.Client.Create(ctx, o, opts...)
}

func (d *dying) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	if err := d.next(); err != nil {
		return err
	}
	return d.Client.Update(ctx, o, opts...)
}

func (d *dying) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	if err := d.next(); err != nil {
		return err
	}
	return d.Client.Patch(ctx, o, p, opts...)
}

// TestRelease: a hold ends when its pod is gone from a node that is ready, twice with the grace between, and no other does.
func TestRelease(t *testing.T) {
	o := newOld(t)
	o.fill()
	m := o.migration(compat.TypeWhereabouts)
	_, err := m.Apply(t.Context())
	must(t, err)
	four, six, _ := names(t)
	now := time.Now()
	r := &releaser{api: o.api, live: o.api, log: logr.Discard(), now: func() time.Time { return now }}
	for _, pod := range []string{"a", "b"} { // on n1, which is ready, and on n2, which is not
		must(t, o.api.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod}}, client.GracePeriodSeconds(0)))
	}
	has := func(pool string, want map[string]string) {
		t.Helper()
		got := o.ownersOf(pool)
		for a, node := range want {
			if got[a] != node {
				t.Errorf("%s of %s is owned by %q, want %q", a, pool, got[a], node)
			}
		}
	}
	must(t, r.pass(t.Context()))
	now = now.Add(releaseGrace - 1)
	must(t, r.pass(t.Context()))
	has(four, map[string]string{"10.20.0.2": "held:n1", "10.20.0.3": "held:n2", "10.20.0.4": "held:", "10.20.0.9": "held:n1"})
	now = now.Add(1)
	must(t, r.pass(t.Context()))
	has(four, map[string]string{"10.20.0.2": "", "10.20.0.3": "held:n2", "10.20.0.5": "held:n2", "10.20.0.4": "held:", "10.20.0.9": "held:n1"})
	has(six, map[string]string{"fd00:20::7": "", "fd00:20::8": "held:n2"})
	o.node("n2", corev1.ConditionTrue)
	must(t, r.pass(t.Context()))
	has(four, map[string]string{"10.20.0.3": "held:n2"})
	now = now.Add(releaseGrace)
	must(t, r.pass(t.Context()))
	has(four, map[string]string{"10.20.0.3": "", "10.20.0.4": "held:", "10.20.0.9": "held:n1"})
	n, err := m.Forget(t.Context())
	if err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
	has(four, map[string]string{"10.20.0.4": "", "10.20.0.9": "held:n1"})
	// Again, after the fact: what the old objects say is old, and gives no new holds.
	_, err = m.Apply(t.Context())
	must(t, err)
	has(four, map[string]string{"10.20.0.2": "", "10.20.0.9": "held:n1"})
}
