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
	// Name of the controllers in logs; each kind's own, and its metrics, add the kind to it.
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

var nadGVK = nadv1.SchemeGroupVersion.WithKind("NetworkAttachmentDefinition")

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

// Setup adds a controller for each kind of network to mgr, whose scheme AddToScheme has seen and whose cache follows CacheByObject.
// Where a kind is not defined yet (Multus may be installed later, or the program be newer than its CustomResourceDefinitions), its
// controller starts when it is; the others, and the manager's other controllers, need not wait.
func Setup(mgr ctrl.Manager) error {
	return mgr.Add(&starter{mgr: mgr, log: mgr.GetLogger().WithName(Name)})
}

// starter waits for the kinds and then adds the controllers proper.
type starter struct {
	mgr ctrl.Manager
	log logr.Logger
}

// Start implements manager.Runnable; it runs on the leader only, as the default is.
func (s *starter) Start(ctx context.Context) error {
	tick := time.NewTicker(kindsEvery)
	defer tick.Stop()
	waiting, indexed := kinds(), false
	for look := 0; ; look++ {
		missing, err := s.missing(nadGVK, poolGVK)
		if err == nil && len(missing) == 0 {
			if !indexed {
				if err := indexCommon(ctx, s.mgr.GetFieldIndexer()); err != nil {
					return err
				}
				indexed = true
			}
			waiting, missing, err = s.begin(ctx, waiting)
		}
		if len(waiting) == 0 {
			return err
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

// begin adds the controllers of the kinds that are served. It returns the kinds that are not, with their names, or none and the error
// that ends it all.
func (s *starter) begin(ctx context.Context, waiting []kind) (left []kind, missing []string, err error) {
	for _, k := range waiting {
		names, err := s.missing(k.GroupVersionKind)
		if err == nil && len(names) == 0 {
			if err := setup(ctx, s.mgr, k); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err != nil {
			names = []string{err.Error()}
		}
		left, missing = append(left, k), append(missing, names...)
	}
	return left, missing, nil
}

// missing are those of the kinds that the API server does not serve.
func (s *starter) missing(of ...schema.GroupVersionKind) ([]string, error) {
	var out []string
	for _, gvk := range of {
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

func setup(ctx context.Context, mgr ctrl.Manager, k kind) error {
	if err := indexNetworks(ctx, mgr.GetFieldIndexer(), k); err != nil {
		return err
	}
	r := &reconciler{
		kind: k, client: mgr.GetClient(), cache: mgr.GetCache(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder("railyard-controller"),
	}
	pool := &unstructured.Unstructured{}
	pool.SetGroupVersionKind(poolGVK)
	byIndex := func(index string) handler.EventHandler {
		return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.networksBy(ctx, index, o.GetName())
		})
	}
	return ctrl.NewControllerManagedBy(mgr).Named(k.name()).
		For(k.object()).
		// A foreign one counts, too: its going ends a conflict.
		Watches(&nadv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(sameName)).
		Watches(metadataOf("Pod"), handler.EnqueueRequestsFromMapFunc(selectedNetworks), builder.WithPredicates(podLeaves())).
		Watches(metadataOf("Namespace"), byIndex(indexNamespace)).
		Watches(pool, byIndex(indexPool)).
		Complete(r)
}

// indexCommon makes the indexes that the controllers of all kinds share.
func indexCommon(ctx context.Context, f client.FieldIndexer) error {
	err := f.IndexField(ctx, &nadv1.NetworkAttachmentDefinition{}, indexOwner, func(o client.Object) []string {
		if o.GetAnnotations()[render.OwnerAnnotation] == "" {
			return nil
		}
		return []string{o.GetName()}
	})
	if err != nil {
		return fmt.Errorf("index NetworkAttachmentDefinitions by %s: %w", indexOwner, err)
	}
	err = f.IndexField(ctx, metadataOf("Pod"), indexSelected, func(o client.Object) []string {
		var out []string
		for _, nad := range selected(o) {
			out = append(out, nad.String())
		}
		return out
	})
	if err != nil {
		return fmt.Errorf("index pods by %s: %w", indexSelected, err)
	}
	return nil
}

// indexNetworks makes the indexes of one kind.
func indexNetworks(ctx context.Context, f client.FieldIndexer, k kind) error {
	for field, keys := range map[string]func(v1alpha1.Network) []string{
		indexNamespace: func(n v1alpha1.Network) []string {
			spec, _ := n.Common()
			return []string{spec.Namespace()}
		},
		indexPool: render.PoolNames,
	} {
		err := f.IndexField(ctx, k.object(), field, func(o client.Object) []string { return keys(o.(v1alpha1.Network)) })
		if err != nil {
			return fmt.Errorf("index %s by %s: %w", k, field, err)
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

// sameMap says that have has all of want.
func sameMap(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// networksBy are the networks under the key of an index. A cache that cannot be read has bigger troubles than a missed event.
func (r *reconciler) networksBy(ctx context.Context, index, key string) []reconcile.Request {
	var out []reconcile.Request
	list, err := r.kind.list(r.client.Scheme())
	if err == nil {
		err = r.cache.List(ctx, list, client.MatchingFields{index: key})
	}
	if err == nil {
		err = meta.EachListItem(list, func(o runtime.Object) error {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o.(v1alpha1.Network))})
			return nil
		})
	}
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list networks", "kind", r.kind.Kind, "index", index, "key", key)
		return nil
	}
	return out
}

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return o
}
