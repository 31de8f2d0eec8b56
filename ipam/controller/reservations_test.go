// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/test/cluster"
)

// reservedPool is a pool in which what is reserved is free at once after its holder.
func reservedPool(t *testing.T) *v1alpha1.IPPool {
	t.Helper()
	zero := int32(0)
	p := newPool(t, "p", 64, func(p *v1alpha1.IPPool) {
		p.Spec.CooldownSeconds = &zero
		p.Spec.Sticky = &v1alpha1.Sticky{For: []string{v1alpha1.HolderIPAMClaim, v1alpha1.HolderStatefulSet}, HoldSeconds: &zero}
	})
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	return p
}

// newReservation makes one, held in its block, that the node uses if there is one.
func newReservation(t *testing.T, p *v1alpha1.IPPool, h v1alpha1.Holder, user *corev1.Node) *v1alpha1.IPReservation {
	t.Helper()
	pool, err := p.Parse()
	if err != nil {
		t.Fatal(err)
	}
	h.Interface = "net1"
	addr := pool.Subnets[0].Prefix.Addr().Next()
	var u *v1alpha1.ReservationUser
	if user != nil {
		u = &v1alpha1.ReservationUser{Node: user.Name, NodeUID: string(user.UID), Session: "s", Network: "net", ContainerID: "c", Pod: "vm-pod", Since: metav1.NowMicro()}
	}
	r := v1alpha1.NewReservation(pool, h, []netip.Addr{addr}, u)
	if err := api.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = api.Delete(context.Background(), r)
		if got := (&v1alpha1.IPReservation{}); api.Get(context.Background(), client.ObjectKeyFromObject(r), got) == nil && len(got.Finalizers) > 0 {
			got.Finalizers = nil
			_ = api.Update(context.Background(), got)
		}
	})
	slot := pool.Subnets[0].Slot(addr)
	b := ipam.Block{Name: ipam.BlockName(p.Name, slot), Pool: p.Name, PoolUID: string(p.UID), Slot: slot}
	if err := claim.New(api, nil).Reserve(t.Context(), ipam.Owner{}, b, r.Hold(), addr); err != nil {
		t.Fatal(err)
	}
	return r
}

// holds are how many addresses of the pool are held for reservations.
func holds(t *testing.T, p *v1alpha1.IPPool) (n int) {
	t.Helper()
	var l v1alpha1.IPBlockList
	if err := api.List(t.Context(), &l, client.MatchingLabels{v1alpha1.LabelPool: p.Name}); err != nil {
		t.Fatal(err)
	}
	for i := range l.Items {
		n += len(heldIn(t.Context(), &l.Items[i]))
	}
	return n
}

// awaitEnd waits until the reservation, and what is held for it, is gone.
func awaitEnd(t *testing.T, p *v1alpha1.IPPool, r *v1alpha1.IPReservation) {
	t.Helper()
	cluster.Eventually(t, "the reservation ends", func() error {
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(r), r); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %+v %w", r.Status, err)
		}
		if n := holds(t, p); n > 0 {
			return fmt.Errorf("%d addresses are held", n)
		}
		return nil
	})
}

// awaitUse waits for the reason of the condition.
func awaitUse(t *testing.T, r *v1alpha1.IPReservation, reason string) {
	t.Helper()
	cluster.Eventually(t, "the condition says "+reason, func() error {
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionUnused); c == nil || c.Reason != reason {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// endUse has nobody use it, as an agent does, over what the controller writes meanwhile.
func endUse(t *testing.T, r *v1alpha1.IPReservation) {
	t.Helper()
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		r.SetUser(nil)
		return api.Update(t.Context(), r)
	}); err != nil {
		t.Fatal(err)
	}
}

func newSet(t *testing.T, name string, replicas int32) *appsv1.StatefulSet {
	t.Helper()
	l := map[string]string{"app": name}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none.invalid/none"}}}},
	}}
	if err := api.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), s) })
	return s
}

// A StatefulSet's address is held while the set may make the pod again, and is free when it is scaled down below it.
func TestStatefulSetScalesDown(t *testing.T) {
	p, set := reservedPool(t), newSet(t, id(t), 2)
	r := newReservation(t, p, v1alpha1.Holder{Kind: v1alpha1.HolderStatefulSet, Namespace: "default", Name: set.Name, Pod: set.Name + "-1"}, nil)
	awaitUse(t, r, v1alpha1.ReasonHeld)
	if n := holds(t, p); n != 1 {
		t.Fatalf("%d addresses are held", n)
	}
	one := int32(1)
	set.Spec.Replicas = &one
	if err := api.Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, p, r)
}

func TestScaledDown(t *testing.T) {
	three := int32(3)
	set := func(start int32, replicas *int32) *appsv1.StatefulSet {
		return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: replicas, Ordinals: &appsv1.StatefulSetOrdinals{Start: start}}}
	}
	for name, tc := range map[string]struct {
		set  *appsv1.StatefulSet
		pod  string
		want bool
	}{
		"the last":          {set(0, &three), "db-2", false},
		"one more":          {set(0, &three), "db-3", true},
		"before the first":  {set(5, &three), "db-4", true},
		"the first":         {set(5, &three), "db-5", false},
		"default replicas":  {set(0, nil), "db-1", true},
		"no pod of the set": {set(0, &three), "db-x", false},
	} {
		if got := scaledDown(tc.set, tc.pod); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The address of an IPAMClaim outlives it until the last user is gone; its status says what it has, and who.
func TestClaimIsDeletedInUse(t *testing.T) {
	p := reservedPool(t)
	node := newNode(t, id(t))
	c := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"network": "rail", "interface": "net1"}}}
	c.SetGroupVersionKind(claimKind)
	c.SetNamespace("default")
	c.SetName(id(t))
	if err := api.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r := newReservation(t, p, v1alpha1.Holder{Kind: v1alpha1.HolderIPAMClaim, Namespace: "default", Name: c.GetName(), UID: string(c.GetUID())}, node)
	awaitUse(t, r, v1alpha1.ReasonInUse)
	status := func(pod string) {
		t.Helper()
		cluster.Eventually(t, "the claim says who has the address", func() error {
			if err := api.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
				return err
			}
			ips, _, _ := unstructured.NestedStringSlice(c.Object, "status", "ips")
			owner, _, _ := unstructured.NestedString(c.Object, "status", "ownerPod")
			conditions, _, _ := unstructured.NestedSlice(c.Object, "status", "conditions")
			if !slices.Equal(ips, []string{r.Spec.Addresses[0] + "/24"}) || owner != pod || len(conditions) != 1 {
				return fmt.Errorf("%v", c.Object["status"])
			}
			return nil
		})
	}
	status("vm-pod")
	if err := api.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	<-time.After(4 * 50 * time.Millisecond) // looks that must not end it
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil || r.DeletionTimestamp != nil || holds(t, p) != 1 {
		t.Fatalf("in use: %v %+v, %d held", err, r.ObjectMeta, holds(t, p))
	}
	endUse(t, r)
	awaitEnd(t, p, r)
}

// A person may give up a reservation; in use it stays until that has ended.
func TestReservationIsDeleted(t *testing.T) {
	p, set, node := reservedPool(t), newSet(t, id(t), 2), newNode(t, id(t))
	r := newReservation(t, p, v1alpha1.Holder{Kind: v1alpha1.HolderStatefulSet, Namespace: "default", Name: set.Name, Pod: set.Name + "-1"}, node)
	remove(t, r)
	awaitUse(t, r, v1alpha1.ReasonInUse)
	if n := holds(t, p); n != 1 {
		t.Fatalf("%d addresses are held", n)
	}
	endUse(t, r)
	awaitEnd(t, p, r)
}

// The use of a node that is gone for good ends after the quarantine, and the address stays its holder's.
func TestUserIsLost(t *testing.T) {
	p, set, node := reservedPool(t), newSet(t, id(t), 1), newNode(t, id(t))
	newNode(t, id(t)+"-other")
	r := newReservation(t, p, v1alpha1.Holder{Kind: v1alpha1.HolderStatefulSet, Namespace: "default", Name: set.Name, Pod: set.Name + "-0"}, node)
	awaitUse(t, r, v1alpha1.ReasonInUse)
	began := time.Now()
	remove(t, node)
	awaitUse(t, r, v1alpha1.ReasonHeld)
	if d := time.Since(began); d < quarantine || r.Spec.User != nil || holds(t, p) != 1 {
		t.Errorf("after %v: used by %+v, %d held", d, r.Spec.User, holds(t, p))
	}
}

// A block that was deleted by hand is made again with what reservations hold in it; a hold without a reservation ends.
func TestHoldsAreKept(t *testing.T) {
	p, set := reservedPool(t), newSet(t, id(t), 1)
	r := newReservation(t, p, v1alpha1.Holder{Kind: v1alpha1.HolderStatefulSet, Namespace: "default", Name: set.Name, Pod: set.Name + "-0"}, nil)
	awaitUse(t, r, v1alpha1.ReasonHeld)
	if err := api.DeleteAllOf(t.Context(), &v1alpha1.IPBlock{}, client.MatchingLabels{v1alpha1.LabelPool: p.Name}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the address is held again", func() error {
		if n := holds(t, p); n != 1 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
		t.Fatal(err)
	}
	before := r.DeepCopy()
	r.Finalizers = nil
	if err := api.Patch(t.Context(), r, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	remove(t, r)
	awaitEnd(t, p, r)
}
