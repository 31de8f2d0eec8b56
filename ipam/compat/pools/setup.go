// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"fmt"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// kindsEvery is how often the definitions' kind is looked for, until Multus has been installed.
const kindsEvery = 2 * time.Second

// whereaboutsPool is what whereabouts keeps its allocations in.
var whereaboutsPool = schema.GroupVersionKind{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Kind: "IPPool"}

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

func setup(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &nadv1.NetworkAttachmentDefinition{}, index, poolNames); err != nil {
		return fmt.Errorf("index NetworkAttachmentDefinitions by %s: %w", index, err)
	}
	r := &reconciler{
		api: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder("railyard-controller"),
		beside: func() (bool, error) { return serves(mgr, whereaboutsPool) },
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
