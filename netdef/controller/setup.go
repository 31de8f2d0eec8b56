// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
)

const (
	// Name of the controller in logs, metrics and events.
	Name = "railyard-networks"
	// fieldOwner names us in managedFields.
	fieldOwner = "railyard-controller"

	indexOwner     = "railyard.owner"     // NADs by the network that owns them
	indexSelected  = "railyard.selected"  // pods by the NADs they select
	indexNamespace = "railyard.namespace" // networks by spec.networkNamespace
	indexPool      = "railyard.pool"      // networks by pool

	retryStale   = 500 * time.Millisecond
	kindsEvery   = 2 * time.Second
	kindsPerNote = 60 // looks between two log lines about a missing kind
)

// The kinds that this package asks the API server for and that some installation must have defined.
var (
	networkGVK = v1alpha1.GroupVersion.WithKind("MacvlanNetwork")
	nadGVK     = nadv1.SchemeGroupVersion.WithKind("NetworkAttachmentDefinition")
)

// AddToScheme registers the kinds that the manager's scheme must know.
func AddToScheme(s *runtime.Scheme) error {
	if err := nadv1.AddToScheme(s); err != nil {
		return err
	}
	return v1alpha1.AddToScheme(s)
}

// CacheByObject is how the manager's cache must treat pods and namespaces (cache.Options.ByObject): of the pods, those that run, and
// of each no more than its identity and the annotations that select networks. Everything else is cached as the manager does by default.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		metadataOf("Pod"): {Field: runningPods, Transform: slimPod},
	}
}

// Setup adds the controller to mgr, whose scheme AddToScheme has seen and whose cache follows CacheByObject. Where a kind is not
// defined yet (Multus may be installed later), the controller starts when it is; the manager's other controllers need not wait.
func Setup(mgr ctrl.Manager) error {
	return mgr.Add(&starter{mgr: mgr, log: mgr.GetLogger().WithName(Name)})
}

// starter waits for the kinds and then adds the controller proper.
type starter struct {
	mgr ctrl.Manager
	log logr.Logger
}

// Start implements manager.Runnable; it runs on the leader only, as the default is.
func (s *starter) Start(ctx context.Context) error {
	tick := time.NewTicker(kindsEvery)
	defer tick.Stop()
	for look := 0; ; look++ {
		missing, err := s.missing()
		if err == nil && len(missing) == 0 {
			return setup(ctx, s.mgr)
		}
		if look%kindsPerNote == 0 {
			s.log.Info("waiting for kinds that the API server does not serve: install their CustomResourceDefinitions", "kinds", missing, "error", errorText(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *starter) missing() ([]string, error) {
	var out []string
	for _, gvk := range []schema.GroupVersionKind{networkGVK, nadGVK, poolGVK} {
		_, err := s.mgr.GetRESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		if meta.IsNoMatchError(err) {
			out = append(out, gvk.GroupKind().String())
		} else if err != nil {
			return out, err
		}
	}
	return out, nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func setup(ctx context.Context, mgr ctrl.Manager) error {
	if err := index(ctx, mgr.GetFieldIndexer()); err != nil {
		return fmt.Errorf("index for %s: %w", Name, err)
	}
	r := &reconciler{
		client: mgr.GetClient(), cache: mgr.GetCache(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder("railyard-controller"),
	}
	pool := &unstructured.Unstructured{}
	pool.SetGroupVersionKind(poolGVK)
	byIndex := func(index string) handler.EventHandler {
		return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.networksBy(ctx, index, o.GetName())
		})
	}
	return ctrl.NewControllerManagedBy(mgr).Named(Name).
		For(&v1alpha1.MacvlanNetwork{}).
		// A foreign one counts, too: its going ends a conflict.
		Watches(&nadv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(sameName)).
		Watches(metadataOf("Pod"), handler.EnqueueRequestsFromMapFunc(selectedNetworks), builder.WithPredicates(podLeaves())).
		Watches(metadataOf("Namespace"), byIndex(indexNamespace)).
		Watches(pool, byIndex(indexPool)).
		Complete(r)
}

func index(ctx context.Context, f client.FieldIndexer) error {
	for _, x := range []struct {
		object client.Object
		field  string
		keys   client.IndexerFunc
	}{
		{&nadv1.NetworkAttachmentDefinition{}, indexOwner, func(o client.Object) []string {
			if o.GetAnnotations()[render.OwnerAnnotation] == "" {
				return nil
			}
			return []string{o.GetName()}
		}},
		{metadataOf("Pod"), indexSelected, func(o client.Object) []string {
			var out []string
			for _, nad := range selected(o) {
				out = append(out, nad.String())
			}
			return out
		}},
		{&v1alpha1.MacvlanNetwork{}, indexNamespace, func(o client.Object) []string {
			return []string{o.(*v1alpha1.MacvlanNetwork).Spec.Namespace()}
		}},
		{&v1alpha1.MacvlanNetwork{}, indexPool, func(o client.Object) []string {
			if pool := render.PoolName(o.(*v1alpha1.MacvlanNetwork)); pool != "" {
				return []string{pool}
			}
			return nil
		}},
	} {
		if err := f.IndexField(ctx, x.object, x.field, x.keys); err != nil {
			return fmt.Errorf("%T by %s: %w", x.object, x.field, err)
		}
	}
	return nil
}

// sameName maps an object to the network of its name.
func sameName(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetName()}}}
}

// selectedNetworks maps a pod to the networks that the definitions it selects may be of: they bear the same name.
func selectedNetworks(_ context.Context, pod client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, nad := range selected(pod) {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: nad.Name}})
	}
	return out
}

// podLeaves lets the events pass that may end a use: nothing ever waits for a pod to come.
func podLeaves() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return !sameMap(e.ObjectNew.GetAnnotations(), e.ObjectOld.GetAnnotations())
		},
	}
}

// networksBy are the networks under the key of an index. A cache that cannot be read has bigger troubles than a missed event.
func (r *reconciler) networksBy(ctx context.Context, index, key string) []reconcile.Request {
	var list v1alpha1.MacvlanNetworkList
	if err := r.cache.List(ctx, &list, client.MatchingFields{index: key}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list networks", "index", index, "key", key)
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return o
}
