// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/iprange"
)

func TestGone(t *testing.T) {
	nodes := map[string]node{"a": {uid: "ua"}, "b": {uid: "ub", outOfService: true}}
	for name, tc := range map[string]struct {
		share ipam.Share
		nodes map[string]node
		want  string
	}{
		"a node":                  {ipam.Share{Node: "a", NodeUID: "ua"}, nodes, ""},
		"none of that name":       {ipam.Share{Node: "c", NodeUID: "uc"}, nodes, "no Node object"},
		"another of that name":    {ipam.Share{Node: "a", NodeUID: "u0"}, nodes, "another node"},
		"out of service":          {ipam.Share{Node: "b", NodeUID: "ub"}, nodes, "out of service"},
		"a share without a UID":   {ipam.Share{Node: "c"}, nodes, ""},
		"held for a pod":          {ipam.Hold("up", "c"), nodes, ""},
		"a cluster without nodes": {ipam.Share{Node: "c", NodeUID: "uc"}, nil, ""},
	} {
		if got := gone(tc.share, tc.nodes); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// newNode makes a node that lasts as long as the test.
func newNode(t *testing.T, name string) *corev1.Node {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := api.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}) })
	return n
}

// shared is a pool with one block in which each node has one address, in the order of the nodes.
func shared(t *testing.T, nodes ...*corev1.Node) (*v1alpha1.IPPool, *v1alpha1.IPBlock) {
	t.Helper()
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	b := ipam.Block{Name: p.Name + ".10-0-0-0", Pool: p.Name, PoolUID: string(p.UID), Slot: netip.MustParsePrefix("10.0.0.0/26")}
	addr := b.Slot.Addr()
	for _, n := range nodes {
		addr = addr.Next()
		b.Shares = append(b.Shares, ipam.Share{Node: n.Name, NodeUID: string(n.UID), Session: "session-of-" + n.Name, Ranges: []iprange.Range{iprange.Of(addr)}})
	}
	o := v1alpha1.FromBlock(b)
	if err := api.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return p, o
}

// owners are the nodes that own something in the block.
func owners(t *testing.T, b *v1alpha1.IPBlock) string {
	t.Helper()
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range b.Spec.Shares {
		out = append(out, s.Node)
	}
	return strings.Join(out, " ")
}

// awaitLost waits for the condition, and gives its message.
func awaitLost(t *testing.T, p *v1alpha1.IPPool, status metav1.ConditionStatus, says string) {
	t.Helper()
	await(t, p, "NodesLost="+string(status)+" "+says, func(p *v1alpha1.IPPool) bool {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionNodesLost)
		return c != nil && c.Status == status && strings.Contains(c.Message, says)
	})
}

func remove(t *testing.T, o client.Object) {
	t.Helper()
	if err := api.Delete(t.Context(), o, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
}

// What a node owned that is gone comes back after the quarantine, and nothing of what others own.
func TestLostNode(t *testing.T) {
	name := id(t)
	lost, other := newNode(t, name+"-1"), newNode(t, name+"-2")
	p, b := shared(t, lost, other)
	begin := time.Now()
	remove(t, lost)
	awaitLost(t, p, metav1.ConditionTrue, lost.Name+" has no Node object")
	awaitLost(t, p, metav1.ConditionFalse, "")
	if held := time.Since(begin); held < quarantine {
		t.Errorf("held for %v only", held)
	}
	if got := owners(t, b); got != other.Name {
		t.Errorf("owners are %q", got)
	}
	if _, ok := b.Labels[v1alpha1.NodeLabel(lost.Name)]; ok {
		t.Error("the lost node's label is still there")
	}
}

// A machine that was set up anew under its name is another node: its own new shares stay.
func TestLostNodeOfSameName(t *testing.T) {
	name := id(t)
	before := newNode(t, name)
	p, b := shared(t, before, newNode(t, name+"-2"))
	remove(t, before)
	after := newNode(t, name)
	if after.UID == before.UID {
		t.Fatal("the same UID")
	}
	b.Spec.Shares = append(b.Spec.Shares, v1alpha1.Share{Node: name, NodeUID: string(after.UID), Session: "new", Ranges: []string{"10.0.0.9"}})
	if err := api.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	awaitLost(t, p, metav1.ConditionTrue, "another node of that name")
	awaitLost(t, p, metav1.ConditionFalse, "")
	if got := owners(t, b); got != name+"-2 "+name || b.Spec.Shares[1].Session != "new" {
		t.Errorf("owners are %q: %+v", got, b.Spec.Shares)
	}
}

// A pod that is bound to the lost node keeps its addresses, until it is deleted.
func TestLostNodeWithPods(t *testing.T) {
	name := id(t)
	lost := newNode(t, name+"-1")
	p, b := shared(t, lost, newNode(t, name+"-2"))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec:       corev1.PodSpec{NodeName: lost.Name, Containers: []corev1.Container{{Name: "c", Image: "none.invalid/none"}}},
	}
	done := pod.DeepCopy()
	done.Name += "-done"
	for _, o := range []*corev1.Pod{pod, done} {
		if err := api.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = api.Delete(context.Background(), o, client.GracePeriodSeconds(0)) })
	}
	done.Status.Phase = corev1.PodSucceeded // it has no address any more
	if err := api.Status().Update(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	remove(t, lost)
	awaitLost(t, p, metav1.ConditionTrue, "1 pods are bound to it")
	if got := owners(t, b); !strings.HasPrefix(got, lost.Name) {
		t.Fatalf("owners are %q", got)
	}
	remove(t, pod)
	awaitLost(t, p, metav1.ConditionFalse, "")
	if got := owners(t, b); got != name+"-2" {
		t.Errorf("owners are %q", got)
	}
}

// A node that is out of service, says an administrator by the taint for it, is lost; one that is back in time is not.
func TestOutOfService(t *testing.T) {
	name := id(t)
	n := newNode(t, name+"-1")
	p, b := shared(t, n, newNode(t, name+"-2"))
	taint := func(with ...corev1.Taint) {
		t.Helper()
		before := n.DeepCopy()
		n.Spec.Taints = with
		if err := api.Patch(t.Context(), n, client.StrategicMergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	out := corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}
	taint(out)
	awaitLost(t, p, metav1.ConditionTrue, "out of service")
	taint()
	awaitLost(t, p, metav1.ConditionFalse, "")
	if got := owners(t, b); got != name+"-1 "+name+"-2" {
		t.Fatalf("owners are %q", got)
	}
	taint(out)
	awaitLost(t, p, metav1.ConditionTrue, "out of service")
	awaitLost(t, p, metav1.ConditionFalse, "")
	if got := owners(t, b); got != name+"-2" {
		t.Errorf("owners are %q", got)
	}
}

// A node that is unknown to the cache, but not to the API server, keeps what it has.
func TestLostOnlyToTheCache(t *testing.T) {
	name := id(t)
	n := newNode(t, name)
	_, b := shared(t, n)
	r := &reconciler{api: api, live: api, Options: Options{Interval: time.Second}, lost: map[owner]time.Time{}}
	h := quarantined{owner: owner{n.Name, string(n.UID), "session-of-" + n.Name}, blocks: []string{b.Name}}
	if done, err := r.release(t.Context(), &h); done || err != nil {
		t.Errorf("released: %v %v", done, err)
	}
	if got := owners(t, b); got != name {
		t.Errorf("owners are %q", got)
	}
}

// A node that has written its new UID since the look keeps its share, though its store and so its session are the old ones.
func TestLostButBack(t *testing.T) {
	name := id(t)
	n := newNode(t, name)
	_, b := shared(t, n)
	r := &reconciler{api: api, live: api, claims: claim.New(api, api), Options: Options{Interval: time.Second}, lost: map[owner]time.Time{}}
	h := quarantined{owner: owner{n.Name, "the-uid-before", "session-of-" + n.Name}, blocks: []string{b.Name}}
	if _, err := r.release(t.Context(), &h); err != nil {
		t.Fatal(err)
	}
	if got := owners(t, b); got != name {
		t.Errorf("owners are %q", got)
	}
}

// Since when a node is lost is forgotten with its last share, and when it is back.
func TestForget(t *testing.T) {
	o := owner{"a", "ua", "sa"}
	share := []v1alpha1.Share{{Node: "a", NodeUID: "ua", Session: "sa", Ranges: []string{"10.0.0.1"}}}
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: types.UID("up")}}
	blocks := []v1alpha1.IPBlock{{ObjectMeta: metav1.ObjectMeta{Name: "p.10-0-0-0"}, Spec: v1alpha1.IPBlockSpec{Pool: "p", PoolUID: "up", Slot: "10.0.0.0/26", Shares: share}}}
	r := &reconciler{lost: map[owner]time.Time{}, Options: Options{Quarantine: time.Hour}}
	now := time.Now()
	nobody := map[string]node{"b": {uid: "ub"}}
	for range 2 {
		if got := r.lostIn(p, blocks, nobody, now.Add(time.Minute)); len(got) != 1 || r.lost[o] != now.Add(time.Minute) {
			t.Fatalf("%+v %v", got, r.lost)
		}
		if got := r.lostIn(p, blocks, nobody, now.Add(2*time.Minute)); !got[0].until.Equal(now.Add(time.Minute + time.Hour)) {
			t.Errorf("until %v", got[0].until)
		}
		if got := r.lostIn(p, blocks, map[string]node{"a": {uid: "ua"}}, now); len(got) != 0 || len(r.lost) != 0 {
			t.Errorf("%+v %v", got, r.lost)
		}
	}
	r.lostIn(p, blocks, nobody, now)
	if r.lostIn(p, nil, nobody, now); len(r.lost) != 0 {
		t.Errorf("%v", r.lost)
	}
}
