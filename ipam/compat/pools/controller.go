// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
)

const (
	// index finds the NetworkAttachmentDefinitions of a pool.
	index = "railyard.whereabouts-pool"
	// lookAgain is when a pool that no config means is looked at again, while nodes have addresses of it.
	lookAgain = time.Minute
	retry     = 500 * time.Millisecond
)

// The reasons of events.
const (
	reasonInvalid     = "AddressesInvalid"
	reasonNotAccepted = "PoolNotAccepted"
	reasonWaits       = "PoolWaitsForMigration"
)

// eventer is the part of an event recorder that this package uses.
type eventer interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// reconciler serves two kinds of requests: a name with a namespace is that of a definition, one without is a pool's.
type reconciler struct {
	api    client.Client // reads come from the cache
	live   client.Reader // and these do not
	events eventer
	// beside says that whereabouts' objects are there.
	beside func() (bool, error)
}

// Reconcile brings one pool up to date, or says of one definition what is wrong with it.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if req.Namespace != "" {
		return reconcile.Result{}, r.judge(ctx, req)
	}
	again, err := r.pool(ctx, req.Name)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return reconcile.Result{RequeueAfter: retry}, nil // the cache will show what was written
	}
	return reconcile.Result{RequeueAfter: again}, err
}

// judge tells a definition's user what Find could not read of it.
func (r *reconciler) judge(ctx context.Context, req reconcile.Request) error {
	var nad nadv1.NetworkAttachmentDefinition
	if err := r.api.Get(ctx, req.NamespacedName, &nad); err != nil {
		return client.IgnoreNotFound(err)
	}
	if _, err := compat.Find(nad.Spec.Config, nad.Name); err != nil {
		r.events.Eventf(&nad, nil, corev1.EventTypeWarning, reasonInvalid, "ReadConfig", "%.900s", err.Error())
	}
	return nil
}

func (r *reconciler) pool(ctx context.Context, name string) (time.Duration, error) {
	nads, ranges, err := r.demand(ctx, name)
	if err != nil {
		return 0, err
	}
	var have v1alpha1.IPPool
	err = r.api.Get(ctx, client.ObjectKey{Name: name}, &have)
	switch {
	case apierrors.IsNotFound(err) && len(ranges) == 0:
		return 0, nil
	case apierrors.IsNotFound(err):
		return 0, r.create(ctx, nads, ranges)
	case err != nil:
		return 0, fmt.Errorf("get IPPool %s: %w", name, err)
	case len(ranges) == 0 && have.Labels[Label] == compat.TypeWhereabouts:
		return r.remove(ctx, &have)
	}
	if have.Labels[Label] == compat.TypeWhereabouts && have.DeletionTimestamp == nil {
		if next, changed := update(&have, Object(ranges)); changed {
			patch := client.MergeFromWithOptions(have.DeepCopy(), client.MergeFromWithOptimisticLock{})
			if err := r.api.Patch(ctx, next, patch); err != nil {
				return 0, fmt.Errorf("update IPPool %s: %w", name, err)
			}
			return 0, nil
		}
	}
	r.tell(&have, nads)
	return 0, nil
}

// demand are the definitions that mean the pool, the oldest first, and what each says of its range.
func (r *reconciler) demand(ctx context.Context, pool string) ([]nadv1.NetworkAttachmentDefinition, []compat.Range, error) {
	var list nadv1.NetworkAttachmentDefinitionList
	if err := r.api.List(ctx, &list, client.MatchingFields{index: pool}); err != nil {
		return nil, nil, fmt.Errorf("list the NetworkAttachmentDefinitions of IPPool %s: %w", pool, err)
	}
	slices.SortFunc(list.Items, func(a, b nadv1.NetworkAttachmentDefinition) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list.Items, Ranges(list.Items, pool), nil
}

// Ranges are those of the definitions whose pool has that name.
func Ranges(nads []nadv1.NetworkAttachmentDefinition, pool string) []compat.Range {
	var out []compat.Range
	for i := range nads {
		for _, r := range rangesOf(&nads[i]) {
			if r.PoolName() == pool {
				out = append(out, r)
			}
		}
	}
	return out
}

// rangesOf are the ranges of one definition, as far as it can be read: judge says the rest.
func rangesOf(nad *nadv1.NetworkAttachmentDefinition) []compat.Range {
	calls, _ := compat.Find(nad.Spec.Config, nad.Name)
	var out []compat.Range
	for _, c := range calls {
		for _, p := range c.Pools {
			if p.Range != nil {
				out = append(out, *p.Range)
			}
		}
	}
	return out
}

func (r *reconciler) create(ctx context.Context, nads []nadv1.NetworkAttachmentDefinition, ranges []compat.Range) error {
	p := Object(ranges)
	beside, err := r.beside()
	if err != nil {
		return fmt.Errorf("ask whether whereabouts is there: %w", err)
	}
	if beside {
		Close(p)
	}
	if err := r.api.Create(ctx, p); err != nil {
		return fmt.Errorf("create IPPool %s: %w", p.Name, err)
	}
	r.tell(p, nads)
	return nil
}

// remove deletes a pool that no definition means, when the API server says that no node has an address of it.
func (r *reconciler) remove(ctx context.Context, p *v1alpha1.IPPool) (time.Duration, error) {
	if p.DeletionTimestamp != nil {
		return 0, nil
	}
	var blocks v1alpha1.IPBlockList
	if err := r.live.List(ctx, &blocks, client.MatchingLabels{v1alpha1.LabelPool: p.Name}, client.Limit(1)); err != nil {
		return 0, fmt.Errorf("list the blocks of IPPool %s: %w", p.Name, err)
	}
	if len(blocks.Items) > 0 {
		return lookAgain, nil
	}
	err := r.api.Delete(ctx, p, client.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("delete IPPool %s, which no config means: %w", p.Name, err)
	}
	return 0, nil
}

// tell says on each definition why nothing can be had from its pool.
func (r *reconciler) tell(p *v1alpha1.IPPool, nads []nadv1.NetworkAttachmentDefinition) {
	reason, note := verdict(p)
	if reason == "" {
		return
	}
	for i := range nads {
		r.events.Eventf(&nads[i], nil, corev1.EventTypeWarning, reason, "MakePool", "%.900s", note)
	}
}

// verdict is why a pool gives nothing to any node; empty if it does, or if nobody knows yet.
func verdict(p *v1alpha1.IPPool) (reason, note string) {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	switch {
	case c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == p.Generation:
		return reasonNotAccepted, fmt.Sprintf("IPPool %s is not accepted (%s): %s", p.Name, c.Reason, c.Message)
	case IsClosed(p):
		return reasonWaits, fmt.Sprintf("IPPool %s is closed while addresses of whereabouts may be in use: run \"railyard-controller migrate --from whereabouts\"", p.Name)
	}
	return "", ""
}
