// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// bindTime is how long a node may take from writing that it uses a reservation to having its addresses held.
const bindTime = time.Minute

// reservations ends what nobody has any more: uses of lost nodes, reservations whose holders are gone, holds without a reservation. And
// it puts back holds that somebody has removed. One call at a time.
type reservations struct {
	*reconciler
	// since is when what is to end was first seen so, by reservation: the holder gone, the node lost, the reservation missing. What it is
	// about is in the value, so that another reason begins anew.
	since map[string]sighting
}

type sighting struct {
	what string
	at   time.Time
}

// setupReservations adds it to mgr.
//
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipreservations,verbs=get;list;watch;update;patch;delete
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipreservations/status,verbs=get;update;patch
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipblocks,verbs=create
// +kubebuilder:rbac:groups=apps,resources=statefulsets,verbs=get
// +kubebuilder:rbac:groups=k8s.cni.cncf.io,resources=ipamclaims,verbs=get
// +kubebuilder:rbac:groups=k8s.cni.cncf.io,resources=ipamclaims/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get
func setupReservations(mgr ctrl.Manager, pools *reconciler) error {
	own := *pools
	own.log = mgr.GetLogger().WithName("ipreservation")
	r := &reservations{reconciler: &own, since: map[string]sighting{}}
	return ctrl.NewControllerManagedBy(mgr).
		Named("ipreservation").
		For(&v1alpha1.IPReservation{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.IPBlock{}, handler.EnqueueRequestsFromMapFunc(heldIn), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.usedBy), builder.WithPredicates(nodeEvents())).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// heldIn are the reservations for which a block holds addresses.
func heldIn(_ context.Context, o client.Object) []reconcile.Request {
	b, ok := o.(*v1alpha1.IPBlock)
	if !ok {
		return nil
	}
	var out []reconcile.Request
	for _, s := range b.Spec.Shares {
		if id, ok := (ipam.Share{Node: s.Node, NodeUID: s.NodeUID, Session: s.Session}).ReservedFor(); ok {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Name: b.Spec.Pool + "." + id}})
		}
	}
	return out
}

// usedBy are the reservations that the node uses.
func (r *reservations) usedBy(ctx context.Context, n client.Object) []reconcile.Request {
	var l v1alpha1.IPReservationList
	if err := r.api.List(ctx, &l, client.MatchingLabels{v1alpha1.NodeLabel(n.GetName()): ""}); err != nil {
		return nil // the cache has stopped, and everything with it
	}
	var out []reconcile.Request
	for i := range l.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&l.Items[i])})
	}
	return out
}

// Reconcile brings one reservation up to date.
func (r *reservations) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var obj v1alpha1.IPReservation
	err := r.live.Get(ctx, req.NamespacedName, &obj) // as the API server has it: a use may have begun that the cache does not show
	var again time.Duration
	switch {
	case apierrors.IsNotFound(err):
		again, err = r.orphan(ctx, req.Name)
	case err != nil:
	default:
		again, err = r.judgeReservation(ctx, &obj)
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return reconcile.Result{RequeueAfter: min(r.Interval, 100*time.Millisecond)}, nil
	}
	return reconcile.Result{RequeueAfter: again}, err
}

// seen says since when what has been so of the reservation, at every look.
func (r *reservations) seen(name, what string) time.Time {
	if was, ok := r.since[name]; ok && was.what == what {
		return was.at
	}
	r.since[name] = sighting{what, time.Now()}
	return r.since[name].at
}

func (r *reservations) judgeReservation(ctx context.Context, obj *v1alpha1.IPReservation) (time.Duration, error) {
	var p v1alpha1.IPPool
	err := r.api.Get(ctx, client.ObjectKey{Name: obj.Spec.Pool}, &p)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("read pool %s: %w", obj.Spec.Pool, err)
	}
	there := err == nil && string(p.UID) == obj.Spec.PoolUID && p.DeletionTimestamp == nil
	if there && obj.DeletionTimestamp == nil {
		if err := errors.Join(r.keepHolds(ctx, obj, &p), r.sayInClaim(ctx, obj, &p)); err != nil {
			return 0, err
		}
	}
	switch {
	case obj.Spec.User != nil:
		return r.judgeUser(ctx, obj)
	case obj.DeletionTimestamp != nil:
		return 0, r.free(ctx, obj)
	}
	why, hold := "its pool is gone, or is going", time.Duration(0)
	if there {
		if why, err = r.holderGone(ctx, obj.Spec.Holder); err != nil {
			return 0, err
		}
		hold = p.HoldTime(obj.Spec.Holder.Kind)
	}
	if why == "" {
		delete(r.since, obj.Name)
		return r.Recheck * 6, r.sayUse(ctx, obj, metav1.ConditionTrue, v1alpha1.ReasonHeld, "the addresses wait for the holder's next pod")
	}
	end := r.seen(obj.Name, "ending").Add(hold)
	if wait := time.Until(end); wait > 0 {
		return wait, r.sayUse(ctx, obj, metav1.ConditionTrue, v1alpha1.ReasonEnding,
			fmt.Sprintf("%s; the addresses are held until %s", why, end.UTC().Format(time.RFC3339)))
	}
	r.log.Info("a reservation ends", "reservation", obj.Name, "holder", obj.Spec.Holder.String(), "why", why)
	err = r.api.Delete(ctx, obj, client.Preconditions{UID: &obj.UID, ResourceVersion: &obj.ResourceVersion}) // unless a use has begun
	return min(r.Interval, 100*time.Millisecond), err
}

// judgeUser ends the use of a node that is lost for good, by the rules of the shares of such a node.
func (r *reservations) judgeUser(ctx context.Context, obj *v1alpha1.IPReservation) (time.Duration, error) {
	u := obj.Spec.User
	nodes, err := r.nodes(ctx)
	if err != nil {
		return 0, err
	}
	why := gone(ipam.Share{Node: u.Node, NodeUID: u.NodeUID}, nodes)
	if why == "" {
		delete(r.since, obj.Name)
		return 0, r.sayUse(ctx, obj, metav1.ConditionFalse, v1alpha1.ReasonInUse, fmt.Sprintf("pod %s on node %s has the addresses", u.Pod, u.Node))
	}
	end := r.seen(obj.Name, "lost "+u.Node+u.NodeUID+u.Session).Add(r.Quarantine)
	message := fmt.Sprintf("node %s %s; the addresses are held back until %s", u.Node, why, end.UTC().Format(time.RFC3339))
	wait := time.Until(end)
	if wait <= 0 {
		lost, pods, err := r.lostForGood(ctx, u.Node, u.NodeUID)
		switch {
		case err != nil:
			return 0, err
		case lost && pods == 0:
			obj.SetUser(nil)
			r.log.Info("the use of a lost node is ended", "reservation", obj.Name, "node", u.Node, "why", why)
			return r.Interval, r.api.Update(ctx, obj)
		case lost:
			message = fmt.Sprintf("node %s %s, but %d pods are bound to it: delete them if they are dead; the addresses are held until then", u.Node, why, pods)
		}
		wait = 10 * r.Interval
	}
	return wait, r.sayUse(ctx, obj, metav1.ConditionFalse, v1alpha1.ReasonNodeLost, message)
}

func (r *reservations) sayUse(ctx context.Context, obj *v1alpha1.IPReservation, status metav1.ConditionStatus, reason, message string) error {
	next := obj.DeepCopy()
	meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionUnused, Status: status, Reason: reason, Message: clip(message), ObservedGeneration: obj.Generation,
	})
	if equality.Semantic.DeepEqual(obj.Status, next.Status) {
		return nil
	}
	if err := r.api.Status().Update(ctx, next); err != nil {
		return fmt.Errorf("write the status of reservation %s: %w", obj.Name, err)
	}
	return nil
}

// blocksOf are the blocks of a pool, as the cache has them.
func (r *reservations) blocksOf(ctx context.Context, pool string) ([]v1alpha1.IPBlock, error) {
	var l v1alpha1.IPBlockList
	if err := r.api.List(ctx, &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		return nil, fmt.Errorf("list blocks of pool %s: %w", pool, err)
	}
	return l.Items, nil
}

// keepHolds has the blocks hold the reservation's addresses, and no others for it. A node that has just begun to use it does that
// by itself.
func (r *reservations) keepHolds(ctx context.Context, obj *v1alpha1.IPReservation, p *v1alpha1.IPPool) error {
	pool, err := p.Parse()
	if err != nil {
		return nil //nolint:nilerr // nothing is leased from such a pool, and what is in the blocks stays
	}
	addrs, err := obj.Addrs()
	if err != nil {
		return err
	}
	blocks, err := r.blocksOf(ctx, p.Name)
	if err != nil {
		return err
	}
	held := map[netip.Addr]string{}
	for i := range blocks {
		b, err := blocks[i].Block()
		if err != nil {
			continue
		}
		for _, s := range b.Shares {
			if id, ok := s.ReservedFor(); ok && id == obj.HoldID() {
				for _, a := range each(s.Ranges) {
					held[a] = b.Name
				}
			}
		}
	}
	for a, block := range held {
		if !slices.Contains(addrs, a) { // of addresses that it was given instead of these, and never had
			if err := r.claims.Unreserve(ctx, block, obj.Hold(), a); err != nil {
				return err
			}
		}
	}
	if u := obj.Spec.User; u != nil && time.Since(u.Since.Time) < bindTime {
		return nil
	}
	for _, a := range addrs {
		sub, ok := pool.Subnet(a)
		if _, is := held[a]; is || !ok {
			continue
		}
		slot := sub.Slot(a)
		b := ipam.Block{Name: ipam.BlockName(p.Name, slot), Pool: p.Name, PoolUID: string(p.UID), Slot: slot}
		err := r.claims.Reserve(ctx, ipam.Owner{}, b, obj.Hold(), a)
		if errors.Is(err, ipam.ErrTaken) {
			r.log.Error(err, "an address of a reservation is somebody else's: was its block deleted by hand?", "reservation", obj.Name)
			continue
		}
		if err != nil {
			return err
		}
		r.log.Info("an address of a reservation, which nobody owned, is held again", "reservation", obj.Name, "address", a)
	}
	return nil
}

// each are the addresses of ranges, which are of one slot.
func each(ranges []iprange.Range) []netip.Addr {
	var out []netip.Addr
	for _, x := range ranges {
		for a := x.From(); x.Contains(a); a = a.Next() {
			out = append(out, a)
		}
	}
	return out
}

// free takes the addresses of a deleted reservation out of every block, and then lets it go. Nobody can begin to use it any more.
func (r *reservations) free(ctx context.Context, obj *v1alpha1.IPReservation) error {
	if err := r.unhold(ctx, obj.Spec.Pool, obj.Hold()); err != nil {
		return err
	}
	delete(r.since, obj.Name)
	if !controllerutil.RemoveFinalizer(obj, v1alpha1.FinalizerHolds) {
		return nil
	}
	return client.IgnoreNotFound(r.api.Update(ctx, obj))
}

// unhold takes a hold out of every block of the pool that the API server, not the cache, has.
func (r *reservations) unhold(ctx context.Context, pool string, hold ipam.Share) error {
	var l v1alpha1.IPBlockList
	if err := r.live.List(ctx, &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		return fmt.Errorf("list blocks of pool %s: %w", pool, err)
	}
	for i := range l.Items {
		if !slices.ContainsFunc(l.Items[i].Spec.Shares, func(s v1alpha1.Share) bool {
			return s.Node == hold.Node && s.NodeUID == hold.NodeUID && s.Session == hold.Session
		}) {
			continue
		}
		if err := r.claims.Unreserve(ctx, l.Items[i].Name, hold); err != nil {
			return err
		}
	}
	return nil
}

// orphan ends the holds for a reservation that does not exist, once that has been so for the quarantine: a write that was on its way
// when the reservation went has left them, or somebody has removed it with its finalizer.
func (r *reservations) orphan(ctx context.Context, name string) (time.Duration, error) {
	id := v1alpha1.HoldID(name)
	pool := name[:max(0, len(name)-len(id)-1)]
	blocks, err := r.blocksOf(ctx, pool)
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(blocks, func(b v1alpha1.IPBlock) bool {
		return slices.ContainsFunc(heldIn(ctx, &b), func(q reconcile.Request) bool { return q.Name == name })
	}) {
		delete(r.since, name)
		return 0, nil
	}
	if wait := time.Until(r.seen(name, "missing").Add(r.Quarantine)); wait > 0 {
		return wait, nil
	}
	delete(r.since, name)
	r.log.Info("addresses are held for a reservation that does not exist, and are free again", "reservation", name)
	return 0, r.unhold(ctx, pool, ipam.Reserved(id))
}
