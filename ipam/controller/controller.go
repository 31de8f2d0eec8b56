// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
)

// DefaultQuarantine is Options.Quarantine's.
const DefaultQuarantine = 10 * time.Minute

// Options are the times of the controller; zero is the default.
type Options struct {
	// Interval is how often at most the figures of a pool are refreshed, and a deletion is looked at: 3 s. The figures of a pool that
	// more than 100 nodes use are refreshed less often in proportion, as each of them is told.
	Interval time.Duration
	// Grace is how long a pool outlives its deletion at least, for nodes to learn of it: 2 s.
	Grace time.Duration
	// Quarantine is how long the addresses of a lost node are held back: 10 min.
	Quarantine time.Duration
	// Recheck is how often a pool that is not accepted is judged again without a reason: 10 s.
	Recheck time.Duration
}

// reconciler judges pools. One call at a time: a verdict rests on the ones before it.
type reconciler struct {
	api  client.Client // reads come from the cache, which holds all pools and blocks
	live client.Reader // and these do not
	log  logr.Logger
	Options

	claims *claim.Claimer
	lost   map[owner]time.Time // since when
}

// Setup adds the controller to mgr, whose scheme must know v1alpha1. Its cache holds all pools and blocks; have it
// strip managed fields (cache.TransformStripManagedFields) to keep it small.
//
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ippools,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ippools/status,verbs=get;update;patch
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ippools/finalizers,verbs=update
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipblocks,verbs=get;list;watch;update;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list
func Setup(mgr ctrl.Manager) error { return SetupWith(mgr, Options{}) }

// SetupWith is Setup with options.
func SetupWith(mgr ctrl.Manager, o Options) error {
	orDefault := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orDefault(&o.Interval, 3*time.Second)
	orDefault(&o.Grace, 2*time.Second)
	orDefault(&o.Quarantine, DefaultQuarantine)
	orDefault(&o.Recheck, 10*time.Second)
	r := &reconciler{
		api: mgr.GetClient(), live: mgr.GetAPIReader(), log: mgr.GetLogger().WithName("ippool"), Options: o,
		claims: claim.New(mgr.GetClient(), mgr.GetAPIReader()), lost: map[owner]time.Time{},
	}
	if err := setupReservations(mgr, r); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("ippool").
		For(&v1alpha1.IPPool{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.IPPool{}, handler.EnqueueRequestsFromMapFunc(r.waiting), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.IPBlock{}, r.blockEvents()).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.ofNode), builder.WithPredicates(nodeEvents())).
		Watches(namespaceMetadata(), handler.EnqueueRequestsFromMapFunc(r.selecting), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// waiting are the pools that may become acceptable by what happened to another.
func (r *reconciler) waiting(ctx context.Context, changed client.Object) []reconcile.Request {
	var l v1alpha1.IPPoolList
	if err := r.api.List(ctx, &l); err != nil {
		return nil // the cache has stopped, and everything with it
	}
	var out []reconcile.Request
	for i := range l.Items {
		if p := &l.Items[i]; p.Name != changed.GetName() && !accepted(p) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		}
	}
	return out
}

// blockEvents brings a pool back once per Interval however often its blocks change: the queue keeps the earliest
// of several delays.
func (r *reconciler) blockEvents() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	later := func(ctx context.Context, o client.Object, q queue) {
		if b, ok := o.(*v1alpha1.IPBlock); ok {
			q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKey{Name: b.Spec.Pool}}, r.pause(ctx, b.Spec.Pool))
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { later(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { later(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { later(ctx, e.Object, q) },
	}
}

// toldPerInterval is how many agents may be told the figures of a pool in each Interval: every agent watches every pool.
const toldPerInterval = 100

// pause is the time between two refreshments of a pool's figures.
func (r *reconciler) pause(ctx context.Context, pool string) time.Duration {
	var p v1alpha1.IPPool
	if err := r.api.Get(ctx, client.ObjectKey{Name: pool}, &p); err != nil || p.DeletionTimestamp != nil {
		return r.Interval // it is gone, or waits for its last block
	}
	return stretch(r.Interval, p.Status.Nodes)
}

func stretch(interval time.Duration, nodes int32) time.Duration {
	return interval * time.Duration(max(nodes, toldPerInterval)) / toldPerInterval
}

// accepted says that the pool as it is now needs no judgement.
func accepted(p *v1alpha1.IPPool) bool {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == p.Generation
}

// findings are what a pass knows besides the pool.
type findings struct {
	blocks []v1alpha1.IPBlock // of all pools
	lost   []quarantined      // of this one
}

// Reconcile brings one pool up to date.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var p v1alpha1.IPPool
	if err := r.api.Get(ctx, req.NamespacedName, &p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var blocks v1alpha1.IPBlockList
	if err := r.api.List(ctx, &blocks); err != nil {
		return reconcile.Result{}, fmt.Errorf("list blocks: %w", err)
	}
	lost, look, err := r.quarantine(ctx, &p, blocks.Items)
	if err != nil {
		return reconcile.Result{}, err
	}
	found := findings{blocks.Items, lost}
	var again time.Duration
	switch {
	case p.DeletionTimestamp != nil:
		again, err = r.bury(ctx, &p, found)
	case accepted(&p):
		err = r.report(ctx, &p, nil, found)
	default:
		again, err = r.decide(ctx, &p, found)
	}
	if again == 0 || look > 0 && look < again {
		again = look
	}
	if apierrors.IsConflict(err) { // the cache is behind: what it still has to tell brings us back, or this does
		return reconcile.Result{RequeueAfter: min(r.Interval, 100*time.Millisecond)}, nil
	}
	if err == nil {
		err = r.sweep(ctx, req.Name, blocks.Items)
	}
	return reconcile.Result{RequeueAfter: again}, client.IgnoreNotFound(err)
}

// decide judges a pool and acts on it: the finalizer first, for no node may claim a block of a pool that could
// vanish under it.
func (r *reconciler) decide(ctx context.Context, p *v1alpha1.IPPool, found findings) (time.Duration, error) {
	var pools v1alpha1.IPPoolList
	if err := r.live.List(ctx, &pools); err != nil {
		return 0, fmt.Errorf("list pools: %w", err)
	}
	i := slices.IndexFunc(pools.Items, func(q v1alpha1.IPPool) bool { return q.UID == p.UID })
	if i < 0 {
		return 0, nil
	}
	p = pools.Items[i].DeepCopy() // as it is on the server, like the others
	if p.DeletionTimestamp != nil {
		return r.Interval, nil
	}
	v := judge(p, pools.Items, found.blocks)
	if !v.accepted() {
		return r.Recheck, r.report(ctx, p, &v, found)
	}
	before := p.DeepCopy()
	if controllerutil.AddFinalizer(p, v1alpha1.FinalizerBlocks) {
		if err := r.api.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return 0, fmt.Errorf("add the finalizer to pool %s: %w", p.Name, err)
		}
	}
	return 0, r.report(ctx, p, &v, found)
}

// report writes the status if it has changed; v is nil where the condition stays.
func (r *reconciler) report(ctx context.Context, p *v1alpha1.IPPool, v *verdict, found findings) error {
	next := p.DeepCopy()
	if v != nil {
		status := metav1.ConditionFalse
		if v.accepted() {
			status, next.Status.Granted = metav1.ConditionTrue, v.granted
		}
		next.Status.ObservedGeneration = p.Generation
		meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: status,
			Reason: v.reason, Message: clip(v.message), ObservedGeneration: p.Generation})
	}
	var err error
	if next.Status.Namespaces, err = r.selected(ctx, p); err != nil {
		return err
	}
	if pool, err := p.Parse(); err == nil { // figures of a pool that cannot be parsed stay
		count(pool, ofPool(found.blocks, p), &next.Status)
	}
	sayLost(&next.Status, p.Generation, found.lost)
	if equality.Semantic.DeepEqual(p.Status, next.Status) {
		return nil
	}
	if err := r.api.Status().Update(ctx, next); err != nil {
		return fmt.Errorf("write the status of pool %s: %w", p.Name, err)
	}
	return nil
}

// clip keeps a message below what the API takes.
func clip(s string) string {
	if len(s) > 4096 {
		return strings.ToValidUTF8(s[:4096], "") + "..."
	}
	return s
}

func ofPool(blocks []v1alpha1.IPBlock, p *v1alpha1.IPPool) []v1alpha1.IPBlock {
	var out []v1alpha1.IPBlock
	for _, b := range blocks {
		if b.Spec.Pool == p.Name && b.Spec.PoolUID == string(p.UID) {
			out = append(out, b)
		}
	}
	return out
}

// bury lets a deleted pool go when the API server, not the cache, says that it has no block left.
func (r *reconciler) bury(ctx context.Context, p *v1alpha1.IPPool, found findings) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerBlocks) {
		return 0, nil
	}
	left := ofPool(found.blocks, p)
	if len(left) == 0 {
		var l v1alpha1.IPBlockList
		if err := r.live.List(ctx, &l, client.MatchingLabels{v1alpha1.LabelPool: p.Name}); err != nil {
			return 0, fmt.Errorf("list blocks of pool %s: %w", p.Name, err)
		}
		left = ofPool(l.Items, p)
	}
	if len(left) > 0 {
		var names []string
		for _, b := range left {
			names = append(names, fmt.Sprintf("%s (nodes: %s)", b.Name, nodes(b)))
		}
		v := verdict{reason: v1alpha1.ReasonDeleting, message: fmt.Sprintf("%d blocks are left: %s. They go when the last pod with one of their addresses does", len(names), some(names))}
		return r.Interval, r.report(ctx, p, &v, findings{left, found.lost})
	}
	if wait := r.Grace - time.Since(p.DeletionTimestamp.Time); wait > 0 {
		return wait, nil
	}
	before := p.DeepCopy()
	controllerutil.RemoveFinalizer(p, v1alpha1.FinalizerBlocks)
	if err := r.api.Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return 0, fmt.Errorf("remove the finalizer from pool %s: %w", p.Name, err)
	}
	return 0, nil
}

// sweep deletes the pool's blocks in which nobody has a share: nobody else would. A node that claims one at the
// same moment wins, by the version.
func (r *reconciler) sweep(ctx context.Context, pool string, blocks []v1alpha1.IPBlock) error {
	for i := range blocks {
		b := &blocks[i]
		if b.Spec.Pool != pool || len(b.Spec.Shares) > 0 || b.DeletionTimestamp != nil {
			continue
		}
		err := r.api.Delete(ctx, b, client.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete block %s, which nobody owns: %w", b.Name, err)
		}
	}
	return nil
}
