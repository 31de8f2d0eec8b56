// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// TestNamespaces: the namespaces that a pool selects are in its status, as they come and go and are labelled; and what nodes make of
// the pool is never more than that.
func TestNamespaces(t *testing.T) {
	prefix := id(t)
	namespace := func(name, tenant string) *corev1.Namespace {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: prefix + "-" + name, Labels: map[string]string{prefix: tenant}}}
		if err := api.Create(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	namespace("b", "ours")
	other := namespace("c", "theirs")
	p := newPool(t, "p", 64)
	awaitReason(t, p, v1alpha1.ReasonAccepted)
	if parsed, err := p.Parse(); err != nil || parsed.Namespaces != nil {
		t.Fatalf("without a selector: %v, %v", parsed.Namespaces, err)
	}
	p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{prefix: "ours"}}
	if parsed, err := p.Parse(); err != nil || parsed.Namespaces == nil || len(*parsed.Namespaces) != 0 {
		t.Fatalf("before the controller has looked: %v, %v; want none", parsed.Namespaces, err)
	}
	if err := api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	selects := func(names ...string) {
		t.Helper()
		var want []string
		for _, n := range names {
			want = append(want, prefix+"-"+n)
		}
		await(t, p, "namespaces", func(p *v1alpha1.IPPool) bool {
			// The two come in one write: nobody sees the new spec judged with an old list.
			if accepted(p) && len(p.Status.Namespaces) == 0 {
				t.Error("accepted without the list")
			}
			return slices.Equal(p.Status.Namespaces, want)
		})
		parsed, err := p.Parse()
		if err != nil || !slices.Equal(*parsed.Namespaces, want) {
			t.Errorf("nodes make of it: %v, %v", parsed.Namespaces, err)
		}
	}
	selects("b")
	first := namespace("a", "ours")
	selects("a", "b")
	before := other.DeepCopy()
	other.Labels[prefix] = "ours"
	if err := api.Patch(t.Context(), other, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	selects("a", "b", "c")
	before = first.DeepCopy()
	first.Labels = nil
	if err := api.Patch(t.Context(), first, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	selects("b", "c")
	p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Like"}}}
	if err := api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	awaitReason(t, p, v1alpha1.ReasonInvalid, "spec.namespaceSelector")
}
