// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Pools are read without their Go type: networks and addresses are two libraries, and either may be used without the other.
var poolGVK = schema.GroupVersionKind{Group: "ipam.railyard.dev", Version: "v1alpha1", Kind: "IPPool"}

// conditionAccepted is the condition by which a pool says that addresses can be had from it.
const conditionAccepted = "Accepted"

// poolState says why the pool of that name is not ready; empty if it is, or if name is.
func (r *reconciler) poolState(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	pool := &unstructured.Unstructured{}
	pool.SetGroupVersionKind(poolGVK)
	err := r.cache.Get(ctx, types.NamespacedName{Name: name}, pool)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("IPPool %s does not exist: create it, or name another", name), nil
	case err != nil:
		return "", fmt.Errorf("get IPPool %s: %w", name, err)
	}
	return judgePool(pool), nil
}

func judgePool(pool *unstructured.Unstructured) string {
	name := pool.GetName()
	if pool.GetDeletionTimestamp() != nil {
		return fmt.Sprintf("IPPool %s is being deleted: name another", name)
	}
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
	}
	if raw, ok, _ := unstructured.NestedMap(pool.Object, "status"); ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status); err != nil {
			return fmt.Sprintf("IPPool %s has a status that cannot be read: %v", name, err)
		}
	}
	accepted := meta.FindStatusCondition(status.Conditions, conditionAccepted)
	switch {
	case accepted == nil || accepted.ObservedGeneration != pool.GetGeneration():
		return fmt.Sprintf("IPPool %s has not been checked yet", name)
	case accepted.Status != metav1.ConditionTrue:
		return fmt.Sprintf("IPPool %s is not accepted (%s): %s", name, accepted.Reason, accepted.Message)
	}
	return ""
}
