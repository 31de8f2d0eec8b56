// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"fmt"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// kindsEvery is how often the definitions' kind is looked for, until Multus has been installed.
const kindsEvery = 2 * time.Second

// whereaboutsGroup is what whereabouts keeps its allocations in.
const whereaboutsGroup = "whereabouts.cni.cncf.io/v1alpha1"

// Setup adds the controller to mgr, whose scheme must know NetworkAttachmentDefinitions and v1alpha1. It starts when the
// API server serves the former.
//
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ippools,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=ipam.railyard.dev,resources=ipblocks,verbs=list
// +kubebuilder:rbac:groups=k8s.cni.cncf.io,resources=network-attachment-definitions,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch;update
func Setup(mgr ctrl.Manager) error {
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		tick := time.NewTicker(kindsEvery)
		defer tick.Stop()
		for {
			there, err := serves(mgr, nadv1.SchemeGroupVersion.WithKind("NetworkAttachmentDefinition"))
			if err == nil && there {
				return setup(ctx, mgr)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}))
}

// serves says whether the API server knows the kind.
func serves(mgr ctrl.Manager, k schema.GroupVersionKind) (bool, error) {
	_, err := mgr.GetRESTMapper().RESTMapping(k.GroupKind(), k.Version)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

// beside asks the API server, not what was cached of it, for it decides whether addresses may be given.
func beside(d discovery.ServerResourcesInterface) (bool, error) {
	_, err := d.ServerResourcesForGroupVersion(whereaboutsGroup)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func setup(ctx context.Context, mgr ctrl.Manager) error {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for discovery: %w", err)
	}
	if err := mgr.GetFieldIndexer().IndexField(ctx, &nadv1.NetworkAttachmentDefinition{}, index, poolNames); err != nil {
		return fmt.Errorf("index NetworkAttachmentDefinitions by %s: %w", index, err)
	}
	r := &reconciler{
		api: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder("railyard-controller"),
		beside: func() (bool, error) { return beside(d) },
	}
	return ctrl.NewControllerManagedBy(mgr).Named("whereabouts-pools").
		Watches(&nadv1.NetworkAttachmentDefinition{}, handler.EnqueueRequestsFromMapFunc(requests)).
		Watches(&v1alpha1.IPPool{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetName()}}}
		})).
		Complete(r)
}

// requests are those for a definition and for each of its pools. Of an update both sides are asked, so a pool that is
// not meant any more is looked at, too.
func requests(_ context.Context, o client.Object) []reconcile.Request {
	out := []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(o)}}
	for _, name := range poolNames(o) {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
	}
	return out
}

func poolNames(o client.Object) []string {
	nad, ok := o.(*nadv1.NetworkAttachmentDefinition)
	if !ok {
		return nil
	}
	var out []string
	for _, r := range rangesOf(nad) {
		out = append(out, r.PoolName())
	}
	return out
}
