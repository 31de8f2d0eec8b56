// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

// namespaceMetadata is a Namespace of which only the metadata are read.
func namespaceMetadata() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return o
}

// selected are the namespaces that a pool is for, in order; nil without a selector, or with one that is wrong, which is another's to
// say. The controller looks, so that not every node watches every namespace.
func (r *reconciler) selected(ctx context.Context, p *v1alpha1.IPPool) ([]string, error) {
	if p.Spec.NamespaceSelector == nil {
		return nil, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.NamespaceSelector)
	if err != nil {
		return nil, nil //nolint:nilerr // the condition Accepted says so
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.api.List(ctx, &list, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("list the namespaces that pool %s selects: %w", p.Name, err)
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names, nil
}

// selecting are the pools with a selector: any of them may select the namespace now, or not any more.
func (r *reconciler) selecting(ctx context.Context, _ client.Object) []reconcile.Request {
	var l v1alpha1.IPPoolList
	if err := r.api.List(ctx, &l); err != nil {
		return nil // the cache has stopped, and everything with it
	}
	var out []reconcile.Request
	for i := range l.Items {
		if p := &l.Items[i]; p.Spec.NamespaceSelector != nil {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		}
	}
	return out
}
