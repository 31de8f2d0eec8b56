// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/netdef/gate"
	"github.com/railyard-net/railyard/test/cluster"
)

// TestControllerWritesOnlyTheGate: of a node the controller may change its own taint and note, and nothing else.
func TestControllerWritesOnlyTheGate(t *testing.T) {
	ctx := t.Context()
	admin := newClient(t, api.RESTConfig(), nil)
	cfg, err := api.ServiceAccountConfig(ctx, cluster.AgentNamespace, cluster.ControllerServiceAccount)
	controller := newClient(t, cfg, err)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gated", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"}}}
	node.Spec.Taints = []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	if err := admin.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	patch := func(change func(*corev1.Node)) error {
		var before corev1.Node
		if err := admin.Get(ctx, client.ObjectKeyFromObject(node), &before); err != nil {
			t.Fatal(err)
		}
		after := before.DeepCopy()
		change(after)
		return controller.Patch(ctx, after, client.MergeFrom(&before))
	}
	drain := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	cluster.Eventually(t, "the policy is in force", func() error {
		if err := patch(drain); !apierrors.IsForbidden(err) {
			return err
		}
		return nil
	})
	taint := func(key string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Node)
		ok     bool
	}{
		"close":                   {taint(gate.Taint), true},
		"note":                    {func(n *corev1.Node) { n.Annotations[gate.Annotation] = "boot run" }, true},
		"another taint":           {taint("more"), false},
		"out of service":          {taint(corev1.TaintNodeOutOfService), false},
		"take another taint away": {func(n *corev1.Node) { n.Spec.Taints = nil }, false},
		"another's effect":        {func(n *corev1.Node) { n.Spec.Taints[0].Effect = corev1.TaintEffectNoExecute }, false},
		"drain":                   {drain, false},
		"a label":                 {func(n *corev1.Node) { n.Labels["a"] = "c" }, false},
		"an annotation":           {func(n *corev1.Node) { n.Annotations["a"] = "c" }, false},
		"a new annotation":        {func(n *corev1.Node) { n.Annotations["c"] = "d" }, false},
		"take an annotation":      {func(n *corev1.Node) { delete(n.Annotations, "a") }, false},
		"a finalizer":             {func(n *corev1.Node) { n.Finalizers = []string{"example.com/x"} }, false},
		"an owner": {func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "gone"}}
		}, false},
	} {
		switch err := patch(tc.change); {
		case tc.ok && err != nil:
			t.Errorf("%s: refused: %v", name, err)
		case !tc.ok && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "railyard-controller-node-gate")):
			t.Errorf("%s: not refused by the policy: %v", name, err)
		}
	}
}
