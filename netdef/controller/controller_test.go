// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
	"github.com/railyard-net/railyard/test/cluster"
)

func TestNetworkComesAndGoes(t *testing.T) {
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{Master: "ens2f0", MTU: 9000, NetworkSpec: v1alpha1.NetworkSpec{IPAM: `{"type":"other","note":"two  blanks, it's"}`}})
	n.Annotations = map[string]string{"example.com/mine": "stays"}
	shared.create(t, n)
	n = shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	nad, err := shared.nad(t, "default", n.Name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := render.Network(n)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{want.Spec.Config, want.Labels, want.Annotations}, []any{nad.Spec.Config, nad.Labels, nad.Annotations}); diff != "" {
		t.Errorf("NetworkAttachmentDefinition (-want +got):\n%s", diff)
	}
	if !strings.Contains(nad.Spec.Config, `"note":"two  blanks, it's"`) || !strings.Contains(nad.Spec.Config, `"capabilities":`) {
		t.Errorf("config %s", nad.Spec.Config)
	}
	wantStatus := v1alpha1.MacvlanNetworkStatus{
		NetworkStatus: v1alpha1.NetworkStatus{
			ObservedGeneration:          n.Generation,
			State:                       v1alpha1.StateReady,
			NetworkAttachmentDefinition: "default/" + n.Name,
			Conditions:                  n.Status.Conditions,
		},
		MacvlanNetworkAttachmentDef: "k8s.cni.cncf.io/v1/namespaces/default/NetworkAttachmentDefinition/" + n.Name,
	}
	if diff := cmp.Diff(wantStatus, n.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if n.Annotations["example.com/mine"] != "stays" || len(n.Annotations) != 1 {
		t.Errorf("annotations of the network: %v", n.Annotations)
	}
	if diff := cmp.Diff([]string{v1alpha1.Finalizer}, n.Finalizers); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	if err := shared.client.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, n)
	shared.awaitGone(t, nad)
}

func TestReasonIsCleared(t *testing.T) {
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{})
	shared.create(t, n)
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	before, err := shared.nad(t, "default", n.Name)
	if err != nil {
		t.Fatal(err)
	}

	edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.MetaPlugins = `{"type":"tuning"},{"typ":"sbr"}` })
	got := shared.awaitReady(t, n.Name, v1alpha1.ReasonInvalidSpec)
	if got.Status.State != v1alpha1.StateError || !strings.Contains(got.Status.Reason, "spec.metaPlugins[1].type: is missing") {
		t.Errorf("status %+v", got.Status)
	}
	if got.Status.NetworkAttachmentDefinition != "default/"+n.Name {
		t.Errorf("the definition of the last good spec is not named: %+v", got.Status)
	}
	if after, err := shared.nad(t, "default", n.Name); err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("a bad edit touched the definition: %v, %v", after, err)
	}

	edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.MetaPlugins = `{"type":"tuning"},{"type":"sbr"}` })
	got = shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	if got.Status.State != v1alpha1.StateReady || got.Status.Reason != "" {
		t.Errorf("status %+v", got.Status)
	}
}

func TestForeignDefinitionIsNotTouched(t *testing.T) {
	name, ns := unique("net"), shared.namespace(t)
	foreign := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	foreign.Spec.Config = `{"cniVersion":"0.3.1","type":"bridge"}`
	shared.create(t, foreign)
	n := network(name, v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
	shared.create(t, n)
	got := shared.awaitReady(t, name, v1alpha1.ReasonConflict)
	if got.Status.State != v1alpha1.StateError || got.Status.NetworkAttachmentDefinition != "" {
		t.Errorf("status %+v", got.Status)
	}
	same := func() {
		t.Helper()
		if now, err := shared.nad(t, ns, name); err != nil || now.ResourceVersion != foreign.ResourceVersion {
			t.Errorf("the foreign definition was touched: %v, %v", now, err)
		}
	}
	same()
	if err := shared.client.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, n)
	same()

	// And once the foreign one is gone, a waiting network takes the place by itself.
	n = network(name, v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
	shared.create(t, n)
	shared.awaitReady(t, name, v1alpha1.ReasonConflict)
	if err := shared.client.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	shared.awaitReady(t, name, v1alpha1.ReasonRendered)
}

func TestHandOver(t *testing.T) {
	name, ns := unique("net"), shared.namespace(t)
	nad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"team": "a"}}}
	shared.create(t, nad)
	n := network(name, v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
	shared.create(t, n)
	shared.awaitReady(t, name, v1alpha1.ReasonConflict)
	edit(t, shared, nad, func(nad *nadv1.NetworkAttachmentDefinition) {
		nad.Annotations = map[string]string{render.OwnerAnnotation: render.Owner(n, ns)}
	})
	shared.awaitReady(t, name, v1alpha1.ReasonRendered)
	got, err := shared.nad(t, ns, name)
	if err != nil || got.Labels["team"] != "a" || !strings.Contains(got.Spec.Config, `"type":"railyard"`) {
		t.Errorf("handed over: %v, %v", got, err)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{Master: "ens1"})
	shared.create(t, n)
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	nad, err := shared.nad(t, "default", n.Name)
	if err != nil {
		t.Fatal(err)
	}
	want := nad.Spec.Config
	edit(t, shared, nad, func(nad *nadv1.NetworkAttachmentDefinition) {
		nad.Spec.Config = "{}"
		nad.Labels = map[string]string{"theirs": "stays"}
		nad.Annotations["k8s.v1.cni.cncf.io/resourceName"] = "example.com/rdma"
	})
	cluster.Eventually(t, "the definition is repaired", func() error {
		got, err := shared.nad(t, "default", n.Name)
		if err != nil {
			return err
		}
		if got.Spec.Config != want || got.Labels[render.NetworkLabel] != n.Name {
			return fmt.Errorf("%+v", got)
		}
		if got.Labels["theirs"] != "stays" || got.Annotations["k8s.v1.cni.cncf.io/resourceName"] != "example.com/rdma" {
			t.Fatalf("a foreign label or annotation was lost: %+v", got.ObjectMeta)
		}
		return nil
	})
	if err := shared.client.Delete(t.Context(), nad); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the definition is made again", func() error {
		got, err := shared.nad(t, "default", n.Name)
		if err == nil && got.UID == nad.UID {
			err = errors.New("it is still the old one")
		}
		return err
	})
}

func TestNamespaceMove(t *testing.T) {
	from, to := shared.namespace(t), shared.namespace(t)
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: from}})
	shared.create(t, n)
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	former, err := shared.nad(t, from, n.Name)
	if err != nil {
		t.Fatal(err)
	}
	// A copy that somebody made elsewhere, marks and all, is not ours.
	copied := former.DeepCopy()
	copied.ObjectMeta = metav1.ObjectMeta{Namespace: shared.namespace(t), Name: n.Name, Labels: former.Labels, Annotations: former.Annotations}
	shared.create(t, copied)
	pod := shared.pod(t, from, selecting(n.Name+"@net1"))

	edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.NetworkNamespace = to })
	shared.awaitInUse(t, n, v1alpha1.ReasonFormerNamespaceStillIn, from+"/"+pod.Name)
	got := shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	if got.Status.NetworkAttachmentDefinition != to+"/"+n.Name {
		t.Errorf("status %+v", got.Status)
	}
	if _, err := shared.nad(t, to, n.Name); err != nil {
		t.Error(err)
	}
	if _, err := shared.nad(t, from, n.Name); err != nil {
		t.Errorf("the definition in use: %v", err)
	}
	if err := shared.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, former)
	shared.awaitInUse(t, n, "", "")
	if _, err := shared.nad(t, copied.Namespace, n.Name); err != nil {
		t.Errorf("the copy: %v", err)
	}
}

func TestNamespaceThatIsMissing(t *testing.T) {
	from, to := shared.namespace(t), unique("later")
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: from}})
	shared.create(t, n)
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.NetworkNamespace = to })
	got := shared.awaitReady(t, n.Name, v1alpha1.ReasonNamespaceNotFound)
	if got.Status.State != v1alpha1.StateNotReady || !strings.Contains(got.Status.Reason, "create it, or name another") {
		t.Errorf("status %+v", got.Status)
	}
	if _, err := shared.nad(t, from, n.Name); err != nil {
		t.Errorf("the former definition went before there was a new one: %v", err)
	}
	shared.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: to}})
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	former := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: from, Name: n.Name}}
	shared.awaitGone(t, former)

	// A namespace that is going takes nothing new.
	if err := shared.client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: from}}); err != nil {
		t.Fatal(err)
	}
	edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.NetworkNamespace = from })
	shared.awaitReady(t, n.Name, v1alpha1.ReasonNamespaceTerminating)
}

func TestPoolDecidesReadiness(t *testing.T) {
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{Pool: &v1alpha1.PoolReference{Name: unique("pool")}}})
	shared.create(t, n)
	says := func(text string) {
		t.Helper()
		cluster.Eventually(t, "the network says "+text, func() error {
			got := shared.awaitReady(t, n.Name, v1alpha1.ReasonPoolNotReady)
			if !strings.Contains(got.Status.Reason, text) {
				return errors.New(got.Status.Reason)
			}
			return nil
		})
	}
	says("does not exist")
	if _, err := shared.nad(t, "default", n.Name); err != nil {
		t.Errorf("the definition waits for the pool: %v", err)
	}
	pool := shared.pool(t, n.Spec.Pool.Name)
	says("has not been checked yet")
	shared.accept(t, pool, metav1.ConditionFalse, "overlaps pool other")
	says("overlaps pool other")
	shared.accept(t, pool, metav1.ConditionTrue, "")
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	if err := shared.client.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	says("does not exist")
}

func TestDeletionWaitsForPods(t *testing.T) {
	ns, elsewhere := shared.namespace(t), shared.namespace(t)
	for name, tc := range map[string]struct {
		namespace string
		annotate  func(net string) map[string]string
		policy    metav1.DeletionPropagation
	}{
		"short name":     {ns, func(net string) map[string]string { return selecting("other, " + net) }, metav1.DeletePropagationBackground},
		"with namespace": {elsewhere, func(net string) map[string]string { return selecting(ns + "/" + net + "@rail") }, metav1.DeletePropagationBackground},
		"JSON":           {ns, func(net string) map[string]string { return selecting(`[{"name":"` + net + `","ips":["10.20.0.7"]}]`) }, metav1.DeletePropagationBackground},
		"JSON with namespace": {elsewhere, func(net string) map[string]string {
			return selecting(`[{"name":"` + net + `","namespace":"` + ns + `"}]`)
		}, metav1.DeletePropagationBackground},
		"as default network":      {elsewhere, func(net string) map[string]string { return map[string]string{defaultNetworkAnnotation: ns + "/" + net} }, metav1.DeletePropagationBackground},
		"deleted in foreground":   {ns, selecting, metav1.DeletePropagationForeground},
		"deleted with its orphan": {ns, selecting, metav1.DeletePropagationOrphan},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
			shared.create(t, n)
			shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
			pod := shared.pod(t, tc.namespace, tc.annotate(n.Name))
			if err := shared.client.Delete(t.Context(), n, client.PropagationPolicy(tc.policy)); err != nil {
				t.Fatal(err)
			}
			got := shared.awaitReady(t, n.Name, v1alpha1.ReasonDeleting)
			shared.awaitInUse(t, n, v1alpha1.ReasonDeletionWaits, tc.namespace+"/"+pod.Name)
			nad, err := shared.nad(t, ns, n.Name)
			if err != nil {
				t.Fatalf("the definition in use: %v", err)
			}
			// A pod that has finished uses nothing, deleted or not.
			pod.Status.Phase = corev1.PodSucceeded
			if err := shared.client.Status().Update(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			shared.awaitGone(t, nad)
			if tc.policy == metav1.DeletePropagationBackground {
				shared.awaitGone(t, got)
				return
			}
			// There is no garbage collector here to take its own finalizer off.
			cluster.Eventually(t, "our finalizer goes", func() error {
				if err := shared.client.Get(t.Context(), client.ObjectKeyFromObject(got), got); err != nil {
					return client.IgnoreNotFound(err)
				}
				for _, f := range got.Finalizers {
					if f == v1alpha1.Finalizer {
						return errors.New("it is there")
					}
				}
				return nil
			})
			edit(t, shared, got, func(n *v1alpha1.MacvlanNetwork) { n.Finalizers = nil })
		})
	}
}

func TestChangeInUseIsNoted(t *testing.T) {
	ns := shared.namespace(t)
	n := network(unique("net"), v1alpha1.MacvlanNetworkSpec{MTU: 1500, NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
	shared.create(t, n)
	shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
	pod := shared.pod(t, ns, selecting(n.Name))
	// The cache of pods is a little behind; the next edit waits until it shows in a pass.
	mtu := v1alpha1.MTU(1500)
	cluster.Eventually(t, "an event names the pod", func() error {
		mtu++
		edit(t, shared, n, func(n *v1alpha1.MacvlanNetwork) { n.Spec.MTU = mtu })
		shared.awaitReady(t, n.Name, v1alpha1.ReasonRendered)
		nad, err := shared.nad(t, ns, n.Name)
		if err != nil || !strings.Contains(nad.Spec.Config, fmt.Sprintf(`"mtu":%d`, mtu)) {
			t.Fatalf("new pods do not get the new configuration: %v, %v", nad, err)
		}
		var list eventsv1.EventList
		if err := shared.client.List(t.Context(), &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Name == n.Name && e.Reason == "ConfigurationChanged" && strings.Contains(e.Note, ns+"/"+pod.Name) {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of them", len(list.Items))
	})
}
