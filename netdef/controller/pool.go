// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"strings"

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

// poolState says why the pools of these names are not ready; empty if all are, or if there are none.
func (r *reconciler) poolState(ctx context.Context, names []string) (string, error) {
	var why []string
	for _, name := range names {
		pool := &unstructured.Unstructured{}
		pool.SetGroupVersionKind(poolGVK)
		switch err := r.cache.Get(ctx, types.NamespacedName{Name: name}, pool); {
		case apierrors.IsNotFound(err):
			why = append(why, fmt.Sprintf("IPPool %s does not exist: create it, or name another", name))
		case err != nil:
			return "", fmt.Errorf("get IPPool %s: %w", name, err)
		default:
			if text := judgePool(pool); text != "" {
				why = append(why, text)
			}
		}
	}
	return strings.Join(why, "; "), nil
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
