// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
	"github.com/railyard-net/railyard/test/cluster"
)

// kindCase is a good spec of a kind, and the field of the status where NVIDIA's tools look.
type kindCase struct{ spec, link string }

func kindCases() map[string]kindCase {
	return map[string]kindCase{
		"MacvlanNetwork":    {`{"master":"ens1"}`, "macvlanNetworkAttachmentDef"},
		"HostDeviceNetwork": {`{"resourceName":"hostdev","sriov":{"vlan":7}}`, "hostDeviceNetworkAttachmentDef"},
		"IPoIBNetwork":      {`{"master":"ib0","pkey":"0x8001"}`, "ipoibNetworkAttachmentDef"},
		"RailNetwork":       {`{"kind":"host-device","rails":[{"device":"ens1"},{"device":"ens2"}]}`, ""},
	}
}

// make is a new network of the case's kind in namespace.
func (tc kindCase) make(t *testing.T, k kind, namespace string) v1alpha1.Network {
	t.Helper()
	n := k.object()
	if err := json.Unmarshal([]byte(`{"spec":`+tc.spec+`}`), n); err != nil {
		t.Fatal(err)
	}
	n.SetName(unique("net"))
	spec, _ := n.Common()
	spec.NetworkNamespace = namespace
	return n
}

// change edits what all kinds have in common.
func change(t *testing.T, n v1alpha1.Network, how func(*v1alpha1.NetworkSpec)) {
	t.Helper()
	edit(t, shared, n, func(n v1alpha1.Network) {
		spec, _ := n.Common()
		how(spec)
	})
}

// TestEveryKind takes a network of each kind through its whole life.
func TestEveryKind(t *testing.T) {
	cases := kindCases()
	for _, k := range kinds() {
		t.Run(k.Kind, func(t *testing.T) {
			t.Parallel()
			tc, ok := cases[k.Kind]
			if !ok {
				t.Fatal("there is no case for it")
			}
			from, to := shared.namespace(t), shared.namespace(t)
			n := tc.make(t, k, from)
			shared.create(t, n)
			former := comes(t, n, tc.link)
			driftIsRepaired(t, n)
			badEditKeeps(t, n)
			moves(t, n, former, to)
			goes(t, n, to)
			conflicts(t, tc.make(t, k, to), to)
		})
	}
}

func comes(t *testing.T, n v1alpha1.Network, link string) *nadv1.NetworkAttachmentDefinition {
	t.Helper()
	status := shared.await(t, n, v1alpha1.ReasonRendered)
	want, err := render.Network(n)
	if err != nil {
		t.Fatal(err)
	}
	nad, err := shared.nad(t, want.Namespace, n.GetName())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{want.Spec.Config, want.Labels, want.Annotations}, []any{nad.Spec.Config, nad.Labels, nad.Annotations}); diff != "" {
		t.Errorf("NetworkAttachmentDefinition (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{v1alpha1.Finalizer}, n.GetFinalizers()); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	if status.State != v1alpha1.StateReady || status.NetworkAttachmentDefinition != keyOf(nad).String() {
		t.Errorf("status %+v", status)
	}
	text, err := json.Marshal(n)
	wantLink := fmt.Sprintf(`"%s":"k8s.cni.cncf.io/v1/namespaces/%s/NetworkAttachmentDefinition/%s"`, link, nad.Namespace, nad.Name)
	if err != nil || link != "" && !strings.Contains(string(text), wantLink) {
		t.Errorf("%s lacks %s (%v)", text, wantLink, err)
	}
	return nad
}

func driftIsRepaired(t *testing.T, n v1alpha1.Network) {
	t.Helper()
	want, err := render.Network(n)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, shared, want.DeepCopy(), func(nad *nadv1.NetworkAttachmentDefinition) {
		nad.Spec.Config = "{}"
		nad.Annotations["example.com/theirs"] = "stays"
		if _, ours := want.Annotations[render.ResourceAnnotation]; ours {
			nad.Annotations[render.ResourceAnnotation] = "example.com/other"
		}
	})
	want.Annotations["example.com/theirs"] = "stays"
	cluster.Eventually(t, "the definition is repaired", func() error {
		got, err := shared.nad(t, want.Namespace, want.Name)
		if err != nil {
			return err
		}
		if diff := cmp.Diff([]any{want.Spec.Config, want.Annotations}, []any{got.Spec.Config, got.Annotations}); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

func badEditKeeps(t *testing.T, n v1alpha1.Network) {
	t.Helper()
	spec, _ := n.Common()
	before, err := shared.nad(t, spec.Namespace(), n.GetName())
	if err != nil {
		t.Fatal(err)
	}
	change(t, n, func(s *v1alpha1.NetworkSpec) { s.MetaPlugins = "[7]" })
	status := shared.await(t, n, v1alpha1.ReasonInvalidSpec)
	if status.State != v1alpha1.StateError || !strings.Contains(status.Reason, "spec.metaPlugins[0]: is a JSON number") || status.NetworkAttachmentDefinition == "" {
		t.Errorf("status %+v", status)
	}
	if after, err := shared.nad(t, before.Namespace, n.GetName()); err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("a bad edit touched the definition: %v, %v", after, err)
	}
	change(t, n, func(s *v1alpha1.NetworkSpec) { s.MetaPlugins = "" })
	shared.await(t, n, v1alpha1.ReasonRendered)
}

func moves(t *testing.T, n v1alpha1.Network, former *nadv1.NetworkAttachmentDefinition, to string) {
	t.Helper()
	pod := shared.pod(t, former.Namespace, selecting(n.GetName()+"@net1"))
	change(t, n, func(s *v1alpha1.NetworkSpec) { s.NetworkNamespace = to })
	shared.awaitInUse(t, n, v1alpha1.ReasonFormerNamespaceStillIn, former.Namespace+"/"+pod.Name)
	if got := shared.await(t, n, v1alpha1.ReasonRendered).NetworkAttachmentDefinition; got != to+"/"+n.GetName() {
		t.Errorf("pods are told to refer to %s", got)
	}
	if _, err := shared.nad(t, former.Namespace, n.GetName()); err != nil {
		t.Errorf("the definition in use: %v", err)
	}
	if err := shared.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, former)
	shared.awaitInUse(t, n, "", "")
}

func goes(t *testing.T, n v1alpha1.Network, from string) {
	t.Helper()
	pod := shared.pod(t, from, selecting(n.GetName()))
	if err := shared.client.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	shared.await(t, n, v1alpha1.ReasonDeleting)
	shared.awaitInUse(t, n, v1alpha1.ReasonDeletionWaits, from+"/"+pod.Name)
	nad, err := shared.nad(t, from, n.GetName())
	if err != nil {
		t.Fatalf("the definition in use: %v", err)
	}
	if err := shared.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, nad)
	shared.awaitGone(t, n)
}

func conflicts(t *testing.T, n v1alpha1.Network, namespace string) {
	t.Helper()
	foreign := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: n.GetName()}}
	shared.create(t, foreign, n)
	if status := shared.await(t, n, v1alpha1.ReasonConflict); status.State != v1alpha1.StateError {
		t.Errorf("status %+v", status)
	}
	if err := shared.client.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	shared.awaitGone(t, n)
	if now, err := shared.nad(t, namespace, n.GetName()); err != nil || now.ResourceVersion != foreign.ResourceVersion {
		t.Errorf("the foreign definition was touched: %v, %v", now, err)
	}
}

// TestOneNameOfTwoKinds: the second has to wait, and comes when the first goes.
func TestOneNameOfTwoKinds(t *testing.T) {
	ns := shared.namespace(t)
	first := network(unique("net"), v1alpha1.MacvlanNetworkSpec{NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}})
	shared.create(t, first)
	shared.await(t, first, v1alpha1.ReasonRendered)
	second := &v1alpha1.IPoIBNetwork{ObjectMeta: metav1.ObjectMeta{Name: first.Name}, Spec: v1alpha1.IPoIBNetworkSpec{NetworkSpec: first.Spec.NetworkSpec}}
	shared.create(t, second)
	shared.await(t, second, v1alpha1.ReasonConflict)
	if err := shared.client.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	shared.await(t, second, v1alpha1.ReasonRendered)
	if nad, err := shared.nad(t, ns, first.Name); err != nil || nad.Annotations[render.OwnerAnnotation] != render.Owner(second, ns) {
		t.Errorf("%v, %v", nad, err)
	}
}

// TestResourceAnnotation: it goes with spec.resourceName, and where it is a user's own, it stays.
func TestResourceAnnotation(t *testing.T) {
	ns := shared.namespace(t)
	n := &v1alpha1.HostDeviceNetwork{ObjectMeta: metav1.ObjectMeta{Name: unique("net")}, Spec: v1alpha1.HostDeviceNetworkSpec{
		NetworkSpec: v1alpha1.NetworkSpec{NetworkNamespace: ns}, ResourceName: "intel.com/vf",
	}}
	shared.create(t, n)
	annotations := func(want string) {
		t.Helper()
		shared.await(t, n, v1alpha1.ReasonRendered)
		nad, err := shared.nad(t, ns, n.Name)
		if got := nad.Annotations[render.ResourceAnnotation]; err != nil || got != want || (want == "") != (len(nad.Annotations) == 1) {
			t.Errorf("annotations %v, want the resource %q (%v)", nad.Annotations, want, err)
		}
	}
	annotations("intel.com/vf")
	edit(t, shared, n, func(n *v1alpha1.HostDeviceNetwork) { n.Spec.ResourceName = "vf" })
	annotations("nvidia.com/vf")
	edit(t, shared, n, func(n *v1alpha1.HostDeviceNetwork) { n.Spec.ResourceName, n.Spec.Device = "", "ens1" })
	annotations("")
	edit(t, shared, &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n.Name}}, func(nad *nadv1.NetworkAttachmentDefinition) {
		nad.Annotations[render.ResourceAnnotation] = "example.com/own"
	})
	edit(t, shared, n, func(n *v1alpha1.HostDeviceNetwork) { n.Spec.MTU = 9000 })
	annotations("example.com/own")
}

// TestPoolsOfRails: each of them decides on readiness, and each is watched.
func TestPoolsOfRails(t *testing.T) {
	a, b := unique("pool"), unique("pool")
	n := &v1alpha1.RailNetwork{ObjectMeta: metav1.ObjectMeta{Name: unique("net")}, Spec: v1alpha1.RailNetworkSpec{Rails: []v1alpha1.Rail{
		{Master: "ens1", Pool: &v1alpha1.PoolReference{Name: a}}, {Master: "ens2", Pool: &v1alpha1.PoolReference{Name: b}},
	}}}
	shared.create(t, n)
	status := shared.await(t, n, v1alpha1.ReasonPoolNotReady)
	if !strings.Contains(status.Reason, "IPPool "+a+" does not exist") || !strings.Contains(status.Reason, "IPPool "+b+" does not exist") {
		t.Errorf("status %+v", status)
	}
	for _, name := range []string{a, b} {
		shared.accept(t, shared.pool(t, name), metav1.ConditionTrue, "")
	}
	shared.await(t, n, v1alpha1.ReasonRendered)
}

// TestCRDComesLater: a program that is newer than the installed kinds serves those that there are, and the others when they come.
func TestCRDComesLater(t *testing.T) {
	const late = "railyard.dev_railnetworks.yaml"
	root, err := cluster.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(root, "manifests/crd/*dev_*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"manifests/install/multus-crd"}
	for _, path := range all {
		if filepath.Base(path) != late {
			paths = append(paths, path)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "manifests/crd", late)); err != nil {
		t.Fatal(err)
	}
	api := cluster.NewAPI(t, paths...)
	mgr, err := newManager(api.RESTConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = mgr.Start(t.Context()) }()
	admin, err := client.New(api.RESTConfig(), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{api: api, client: admin}
	early := network(unique("net"), v1alpha1.MacvlanNetworkSpec{})
	e.create(t, early)
	e.await(t, early, v1alpha1.ReasonRendered)
	if err := api.Apply(t.Context(), "manifests/crd/"+late); err != nil {
		t.Fatal(err)
	}
	n := &v1alpha1.RailNetwork{ObjectMeta: metav1.ObjectMeta{Name: unique("net")}, Spec: v1alpha1.RailNetworkSpec{Rails: []v1alpha1.Rail{{}}}}
	// A kind that is established shows in the discovery a little later.
	cluster.Eventually(t, "the kind is served", func() error { return admin.Create(t.Context(), n) })
	e.await(t, n, v1alpha1.ReasonRendered)
}
