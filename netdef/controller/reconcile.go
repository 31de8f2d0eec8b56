// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
)

// eventer is the part of an event recorder that this package uses.
type eventer interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// reconciler is that of one kind of network. It holds no state of its own; one pass per network runs at a time.
type reconciler struct {
	kind   kind
	client client.Client // writes, and reads from the caches
	cache  client.Reader // the caches, for unstructured objects too
	live   client.Reader // the API server
	events eventer
}

// Reconcile is one pass over the network of that name.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	network := r.kind.object()
	if err := r.client.Get(ctx, req.NamespacedName, network); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	deleting := !network.GetDeletionTimestamp().IsZero()
	if deleting && !controllerutil.ContainsFinalizer(network, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if !deleting && !controllerutil.ContainsFinalizer(network, v1alpha1.Finalizer) {
		if err := r.setFinalizer(ctx, network, controllerutil.AddFinalizer); err != nil {
			return quiet(err)
		}
	}
	v, err := r.observe(ctx, network)
	if err != nil {
		return quiet(err)
	}
	p := decide(v)
	if len(p.remove) > 0 {
		if p, err = r.reconsider(ctx, v, p); err != nil {
			return ctrl.Result{}, err
		}
	}
	failure := r.apply(ctx, network, &p)
	if apierrors.IsConflict(failure) || apierrors.IsAlreadyExists(failure) {
		return quiet(failure) // seen too early: the cache will show what was written
	}
	if p.release && failure == nil {
		if err := r.setFinalizer(ctx, network, controllerutil.RemoveFinalizer); err != nil {
			return quiet(client.IgnoreNotFound(err))
		}
		return ctrl.Result{}, nil
	}
	if err := r.writeStatus(ctx, network, p); err != nil {
		return quiet(err)
	}
	return ctrl.Result{}, failure
}

// quiet turns the answers that mean "your view was old" into another pass without an error in the log.
func quiet(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return ctrl.Result{RequeueAfter: retryStale}, nil
	}
	return ctrl.Result{}, err
}

// observe reads everything that decide needs.
func (r *reconciler) observe(ctx context.Context, network v1alpha1.Network) (view, error) {
	v := view{network: network, users: map[types.NamespacedName][]string{}}
	v.want, v.invalid = render.Network(network)
	spec, _ := network.Common()
	place := types.NamespacedName{Namespace: spec.Namespace(), Name: network.GetName()}
	deleting := !network.GetDeletionTimestamp().IsZero()
	own, err := r.ownNADs(ctx, network, deleting)
	if err != nil {
		return view{}, err
	}
	for _, nad := range own {
		if deleting || keyOf(&nad) != place {
			v.former = append(v.former, nad)
		}
		if v.users[keyOf(&nad)], err = cachedUsers(ctx, r.client, keyOf(&nad)); err != nil {
			return view{}, err
		}
	}
	if deleting {
		return v, nil
	}
	found := &nadv1.NetworkAttachmentDefinition{}
	switch err := r.client.Get(ctx, place, found); {
	case err == nil:
		v.found = found
	case !apierrors.IsNotFound(err):
		return view{}, fmt.Errorf("get NetworkAttachmentDefinition %s: %w", place, err)
	}
	if v.namespace, err = r.namespaceState(ctx, place.Namespace); err != nil {
		return view{}, err
	}
	if v.invalid == nil {
		v.pool, err = r.poolState(ctx, render.PoolNames(network))
	}
	return v, err
}

// ownNADs are the network's own definitions in all namespaces. Before a network goes for good the API server is asked, too: its cache
// may not know yet what the last pass created.
func (r *reconciler) ownNADs(ctx context.Context, network v1alpha1.Network, live bool) ([]nadv1.NetworkAttachmentDefinition, error) {
	var list nadv1.NetworkAttachmentDefinitionList
	if err := r.client.List(ctx, &list, client.MatchingFields{indexOwner: network.GetName()}); err != nil {
		return nil, fmt.Errorf("list the NetworkAttachmentDefinitions of %s: %w", network.GetName(), err)
	}
	if live {
		var now nadv1.NetworkAttachmentDefinitionList
		if err := r.live.List(ctx, &now, client.MatchingLabels{render.NetworkLabel: network.GetName()}); err != nil {
			return nil, fmt.Errorf("list the NetworkAttachmentDefinitions of %s: %w", network.GetName(), err)
		}
		list.Items = append(now.Items, list.Items...)
	}
	seen := map[types.NamespacedName]bool{}
	return slices.DeleteFunc(list.Items, func(nad nadv1.NetworkAttachmentDefinition) bool {
		key := keyOf(&nad)
		skip := seen[key] || !owns(network, &nad)
		seen[key] = true
		return skip
	}), nil
}

func (r *reconciler) namespaceState(ctx context.Context, name string) (namespaceState, error) {
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	switch err := r.client.Get(ctx, types.NamespacedName{Name: name}, ns); {
	case apierrors.IsNotFound(err):
		return namespaceMissing, nil
	case err != nil:
		return namespaceMissing, fmt.Errorf("get namespace %s: %w", name, err)
	case !ns.DeletionTimestamp.IsZero():
		return namespaceTerminating, nil
	}
	return namespaceActive, nil
}

// reconsider decides again with the pods that the API server knows right now, as removing a definition cannot be taken back.
func (r *reconciler) reconsider(ctx context.Context, v view, p plan) (plan, error) {
	keys := map[types.NamespacedName]bool{}
	for i := range p.remove {
		keys[keyOf(&p.remove[i])] = true
	}
	users, err := liveUsers(ctx, r.live, keys)
	if err != nil {
		return plan{}, err
	}
	for key := range keys {
		v.users[key] = users[key]
	}
	return decide(v), nil
}

// apply does what p says. What the API server refuses becomes the condition of p; the error is for the retry.
func (r *reconciler) apply(ctx context.Context, network v1alpha1.Network, p *plan) error {
	if p.create != nil {
		if err := r.client.Create(ctx, p.create, client.FieldOwner(fieldOwner)); err != nil {
			return p.fail(fmt.Errorf("create NetworkAttachmentDefinition %s: %w", keyOf(p.create), err))
		}
	}
	if p.update != nil {
		// The difference alone, and only over what was read: neither a foreign key nor a foreign change is lost.
		patch := client.MergeFromWithOptions(p.found, client.MergeFromWithOptimisticLock{})
		if err := r.client.Patch(ctx, p.update.DeepCopy(), patch, client.FieldOwner(fieldOwner)); err != nil {
			return p.fail(fmt.Errorf("update NetworkAttachmentDefinition %s: %w", keyOf(p.update), err))
		}
	}
	if p.note != "" {
		r.events.Eventf(network, nil, corev1.EventTypeNormal, "ConfigurationChanged", "Render", "%s", p.note)
	}
	for i := range p.remove {
		nad := &p.remove[i]
		err := r.client.Delete(ctx, nad, client.Preconditions{UID: &nad.UID, ResourceVersion: &nad.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			return p.fail(fmt.Errorf("delete NetworkAttachmentDefinition %s: %w", keyOf(nad), err))
		}
	}
	return nil
}

// fail records err in the condition and returns it.
func (p *plan) fail(err error) error {
	p.ready = notReady(v1alpha1.ReasonFailed, err.Error())
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		p.ready.Reason = v1alpha1.ReasonNamespaceTerminating
	}
	p.usable = nil
	return err
}

func (r *reconciler) setFinalizer(ctx context.Context, network v1alpha1.Network, change func(client.Object, string) bool) error {
	base := copyOf(network)
	if !change(network, v1alpha1.Finalizer) {
		return nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, network, patch, client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("change the finalizer of %s %s: %w", r.kind, network.GetName(), err)
	}
	return nil
}

// writeStatus writes the status if it says something new.
func (r *reconciler) writeStatus(ctx context.Context, network v1alpha1.Network, p plan) error {
	base := copyOf(network)
	_, status := network.Common()
	*status = newStatus(*status, network.GetGeneration(), p)
	link := ""
	if p.usable != nil {
		link = fmt.Sprintf("%s/namespaces/%s/NetworkAttachmentDefinition/%s", nadv1.SchemeGroupVersion, p.usable.Namespace, p.usable.Name)
	}
	network.SetLink(link)
	if equality.Semantic.DeepEqual(base, network) {
		return nil
	}
	err := r.client.Status().Patch(ctx, network, client.MergeFrom(base), client.FieldOwner(fieldOwner))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the status of %s %s: %w", r.kind, network.GetName(), err)
	}
	return nil
}

// newStatus is what becomes of the status that was, after p was done for that generation of the network.
func newStatus(was v1alpha1.NetworkStatus, generation int64, p plan) v1alpha1.NetworkStatus {
	s := *was.DeepCopy()
	s.ObservedGeneration = generation
	s.State, s.Reason = state(p.ready)
	s.NetworkAttachmentDefinition = ""
	if p.usable != nil {
		s.NetworkAttachmentDefinition = keyOf(p.usable).String()
	}
	ready := p.ready
	ready.ObservedGeneration = generation
	meta.SetStatusCondition(&s.Conditions, ready)
	if p.inUse == nil {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionInUse)
		return s
	}
	inUse := *p.inUse
	inUse.ObservedGeneration = generation
	meta.SetStatusCondition(&s.Conditions, inUse)
	return s
}

func state(ready metav1.Condition) (state, reason string) {
	if ready.Status == metav1.ConditionTrue {
		return v1alpha1.StateReady, ""
	}
	switch ready.Reason {
	case v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonConflict, v1alpha1.ReasonFailed:
		return v1alpha1.StateError, ready.Message
	}
	return v1alpha1.StateNotReady, ready.Message
}
