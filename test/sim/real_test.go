// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// outside is a real API server, whose client lives outside of the bubble: while it waits for an answer, no time passes in there.
type outside struct {
	client.Client
	calls chan func()
	done  chan struct{}
}

func newOutside(ctx context.Context, c client.Client) *outside {
	o := &outside{c, make(chan func()), make(chan struct{})}
	go func() {
		for {
			select {
			case call := <-o.calls:
				call()
				o.done <- struct{}{}
			case <-ctx.Done():
				return
			}
		}
	}()
	return o
}

func (o *outside) do(call func(context.Context) error) (err error) {
	o.calls <- func() { err = call(context.Background()) }
	<-o.done
	return err
}

func (o *outside) Get(x client.Object) error {
	return o.do(func(ctx context.Context) error { return o.Client.Get(ctx, client.ObjectKeyFromObject(x), x) })
}

func (o *outside) List(l client.ObjectList, s labels.Selector) error {
	return o.do(func(ctx context.Context) error {
		return o.Client.List(ctx, l, client.MatchingLabelsSelector{Selector: s})
	})
}

func (o *outside) Create(x client.Object) error {
	return o.do(func(ctx context.Context) error {
		return whole(x, func(x client.Object) error { return o.Client.Create(ctx, x) })
	})
}

func (o *outside) Update(x client.Object) error {
	return o.do(func(ctx context.Context) error {
		return whole(x, func(x client.Object) error { return o.Client.Update(ctx, x) })
	})
}

func (o *outside) UpdateStatus(x client.Object) error {
	return o.do(func(ctx context.Context) error { return o.Status().Update(ctx, x) })
}

func (o *outside) Delete(x client.Object, pre *metav1.Preconditions) error {
	return o.do(func(ctx context.Context) error {
		return o.Client.Delete(ctx, x, &client.DeleteOptions{Preconditions: pre})
	})
}

// whole makes of metadata, which alone no server takes, an object of their kind.
func whole(x client.Object, do func(client.Object) error) error {
	p, ok := x.(*metav1.PartialObjectMetadata)
	if !ok {
		return do(x)
	}
	var o client.Object
	switch p.Kind {
	case kindPod:
		o = &corev1.Pod{ObjectMeta: *p.ObjectMeta.DeepCopy(), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	default:
		o = &corev1.Node{ObjectMeta: *p.ObjectMeta.DeepCopy()}
	}
	err := do(o)
	if err == nil {
		p.SetUID(o.GetUID())
		p.SetResourceVersion(o.GetResourceVersion())
		p.SetGeneration(o.GetGeneration())
		p.SetCreationTimestamp(o.GetCreationTimestamp())
	}
	return err
}

// TestRealServer runs clusters whose API server is a real one: what the one in memory allows, it must allow as well.
func TestRealServer(t *testing.T) {
	server, err := cluster.StartAPI(t.Context(), cluster.APIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := server.Apply(t.Context(), "manifests/crd/ipam.railyard.dev_ippools.yaml", "manifests/crd/ipam.railyard.dev_ipblocks.yaml",
		"manifests/crd/ipam.railyard.dev_ipreservations.yaml"); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	cfg := server.RESTConfig()
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	real := newOutside(t.Context(), c)
	for _, seed := range []uint64{0, 2, 6} {
		var r Result
		synctest.Test(t, func(*testing.T) { r = Run(NewPlan(seed), Options{Backend: real}) })
		if r.Err != nil {
			t.Errorf("seed %d: %v", seed, r.Err)
		}
		t.Logf("seed %d: %+v", seed, r.Stats)
		for _, all := range []client.Object{&v1alpha1.IPBlock{}, &v1alpha1.IPPool{}, &v1alpha1.IPReservation{}, &corev1.Node{}, &corev1.Pod{}} {
			if err := c.DeleteAllOf(t.Context(), all, client.InNamespace(namespaceOf(all)), client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// namespaceOf is where the simulator makes objects of the kind.
func namespaceOf(o client.Object) string {
	if _, ok := o.(*corev1.Pod); ok {
		return "default"
	}
	return ""
}
