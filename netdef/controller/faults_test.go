// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestLostAnswers runs a manager whose writes are done and then reported as failed, each kind of write once.
func TestLostAnswers(t *testing.T) {
	api := cluster.NewAPI(t, "manifests/crd", "manifests/install/multus-crd")
	var lost [5]atomic.Bool
	mgr, err := newManager(api.RESTConfig(), losing(&lost))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = mgr.Start(t.Context()) }()
	admin, err := client.New(api.RESTConfig(), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{api: api, client: admin}
	to := e.namespace(t)
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{})
	e.create(t, n)
	e.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	edit(t, e, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.MTU = 1400 })
	e.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	edit(t, e, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.NetworkNamespace = to })
	n = e.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	e.awaitGone(t, &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n.Name}})
	if meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionInUse) != nil {
		t.Errorf("conditions %+v", n.Status.Conditions)
	}
	if err := admin.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	e.awaitGone(t, n)
	var left nadv1.NetworkAttachmentDefinitionList
	if err := admin.List(t.Context(), &left); err != nil || len(left.Items) > 0 {
		t.Errorf("left behind: %v, %v", left.Items, err)
	}
	for i := range lost {
		if !lost[i].Load() {
			t.Errorf("write %d was never lost", i)
		}
	}
}

// losing makes clients of which each kind of write is done and then reported as failed, once.
func losing(lost *[5]atomic.Bool) client.NewClientFunc {
	once := func(i int, err error) error {
		if err == nil && lost[i].CompareAndSwap(false, true) {
			return errors.New("the answer was lost")
		}
		return err
	}
	return func(cfg *rest.Config, o client.Options) (client.Client, error) {
		c, err := client.NewWithWatch(cfg, o)
		if err != nil {
			return nil, err
		}
		return interceptor.NewClient(c, interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				return once(0, c.Create(ctx, o, opts...))
			},
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				if _, ok := o.(*nadv1.NetworkAttachmentDefinition); ok {
					return once(1, c.Patch(ctx, o, p, opts...))
				}
				return once(2, c.Patch(ctx, o, p, opts...))
			},
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
				return once(3, c.Delete(ctx, o, opts...))
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				return once(4, c.SubResource(sub).Patch(ctx, o, p, opts...))
			},
		}), nil
	}
}

// TestMultusComesLater: without the kind NetworkAttachmentDefinition the controller waits for it, and needs no restart.
func TestMultusComesLater(t *testing.T) {
	api := cluster.NewAPI(t, "manifests/crd")
	mgr, err := newManager(api.RESTConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(t.Context()) }()
	select {
	case err := <-ended:
		t.Fatalf("the manager ended: %v", err)
	case <-mgr.Elected():
	}
	admin, err := client.New(api.RESTConfig(), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{api: api, client: admin}
	n := networkObject("MacvlanNetwork", unique("early"), nil)
	e.create(t, n)
	if err := api.Apply(t.Context(), "manifests/install/multus-crd"); err != nil {
		t.Fatal(err)
	}
	e.awaitReady(t, n.GetName(), v1alpha1.ReasonRendered)
}
