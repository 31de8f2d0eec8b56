// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
	netdefv1alpha1 "github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestSamplesOfEachKind: each kind of network has a sample, which the API server took and which renders, and whose pools and pods are
// among the samples, too. Who works with networks may do so with all kinds.
func TestSamplesOfEachKind(t *testing.T) {
	admin := newClient(t, api.RESTConfig(), nil)
	for _, kind := range netdefv1alpha1.Networks() {
		name := netdefv1alpha1.KindOf(kind)
		resource := strings.ToLower(name) + "s"
		for _, verb := range []string{"list", "watch", "patch"} {
			if q := verb + " " + resource + " railyard.dev"; !allowed(t, cluster.ControllerServiceAccount, q) {
				t.Errorf("the controller cannot %s", q)
			}
		}
		for _, q := range []string{"patch " + resource + "/status railyard.dev", "update " + resource + "/finalizers railyard.dev"} {
			if !allowed(t, cluster.ControllerServiceAccount, q) {
				t.Errorf("the controller cannot %s", q)
			}
		}
		if q := "delete " + resource + " railyard.dev"; allowed(t, cluster.ControllerServiceAccount, q) {
			t.Errorf("the controller can %s", q)
		}
		list, err := admin.Scheme().New(netdefv1alpha1.GroupVersion.WithKind(name + "List"))
		if err != nil {
			t.Fatal(err)
		}
		if err := admin.List(t.Context(), list.(client.ObjectList)); err != nil {
			t.Fatal(err)
		}
		if meta.LenList(list) == 0 {
			t.Errorf("no sample of %s", name)
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error { return checkSample(t.Context(), admin, o.(netdefv1alpha1.Network)) }); err != nil {
			t.Error(err)
		}
	}
}

func checkSample(ctx context.Context, admin client.Client, n netdefv1alpha1.Network) error {
	nad, err := render.Network(n)
	if err != nil {
		return fmt.Errorf("%s: %w", n.GetName(), err)
	}
	for _, pool := range render.PoolNames(n) {
		if err := admin.Get(ctx, client.ObjectKey{Name: pool}, &ipamv1alpha1.IPPool{}); err != nil {
			return fmt.Errorf("the pool of %s: %w", n.GetName(), err)
		}
	}
	var pods corev1.PodList
	if err := admin.List(ctx, &pods, client.InNamespace(nad.Namespace)); err != nil {
		return err
	}
	resource := corev1.ResourceName(nad.Annotations[render.ResourceAnnotation])
	for _, pod := range pods.Items {
		if !strings.Contains(pod.Annotations["k8s.v1.cni.cncf.io/networks"], n.GetName()) {
			continue
		}
		if _, asks := pod.Spec.Containers[0].Resources.Limits[resource]; resource != "" && !asks {
			return fmt.Errorf("pod %s does not ask for %s", pod.Name, resource)
		}
		return nil
	}
	if n.GetName() == "rail0" {
		return nil // its pods are made by a Deployment
	}
	return fmt.Errorf("no pod uses %s", n.GetName())
}
