// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

var claimKind = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Kind: "IPAMClaim"}

// The condition of an IPAMClaim, as OVN-Kubernetes sets it.
const (
	conditionAllocated = "IPsAllocated"
	reasonAllocated    = "SuccessfulAllocation"
	// claimIPs is how many addresses the status of a claim has room for.
	claimIPs = 2
)

// holderGone says why the holder of addresses is no more, as the API server says now; empty: it is there, or nobody knows.
func (r *reservations) holderGone(ctx context.Context, h v1alpha1.Holder) (string, error) {
	if h.Kind == v1alpha1.HolderStatefulSet {
		return r.setGone(ctx, h)
	}
	o, err := r.claim(ctx, h)
	switch {
	case meta.IsNoMatchError(err), isNoResource(err): // without the resource nobody can say which claims there are
		return "", nil
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("IPAMClaim %s/%s is gone", h.Namespace, h.Name), nil
	case err != nil:
		return "", fmt.Errorf("read IPAMClaim %s/%s: %w", h.Namespace, h.Name, err)
	case string(o.GetUID()) != h.UID:
		return fmt.Sprintf("IPAMClaim %s/%s is another by now", h.Namespace, h.Name), nil
	}
	return "", nil
}

func (r *reservations) claim(ctx context.Context, h v1alpha1.Holder) (*unstructured.Unstructured, error) {
	var o unstructured.Unstructured
	o.SetGroupVersionKind(claimKind)
	err := r.live.Get(ctx, client.ObjectKey{Namespace: h.Namespace, Name: h.Name}, &o)
	return &o, err
}

// isNoResource says that the API server does not serve the resource at all, which it answers as it does for an object that is missing.
func isNoResource(err error) bool {
	var s apierrors.APIStatus
	if !errors.As(err, &s) || s.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(s.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Type == metav1.CauseTypeUnexpectedServerResponse })
}

// setGone is holderGone for a pod of a StatefulSet: neither the pod is there, nor is the set to make it again.
func (r *reservations) setGone(ctx context.Context, h v1alpha1.Holder) (string, error) {
	var set appsv1.StatefulSet
	why := ""
	switch err := r.live.Get(ctx, client.ObjectKey{Namespace: h.Namespace, Name: h.Name}, &set); {
	case apierrors.IsNotFound(err):
		why = fmt.Sprintf("StatefulSet %s/%s is gone", h.Namespace, h.Name)
	case err != nil:
		return "", fmt.Errorf("read StatefulSet %s/%s: %w", h.Namespace, h.Name, err)
	case scaledDown(&set, h.Pod):
		why = fmt.Sprintf("StatefulSet %s/%s has no pod %s any more", h.Namespace, h.Name, h.Pod)
	default:
		return "", nil
	}
	pod := &metav1.PartialObjectMetadata{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	switch err := r.live.Get(ctx, client.ObjectKey{Namespace: h.Namespace, Name: h.Pod}, pod); {
	case apierrors.IsNotFound(err):
		return why, nil
	case err != nil:
		return "", fmt.Errorf("read pod %s/%s: %w", h.Namespace, h.Pod, err)
	}
	return "", nil
}

// scaledDown says that the set makes no pod of that name, as it is now.
func scaledDown(set *appsv1.StatefulSet, pod string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(pod, set.Name+"-"))
	if err != nil {
		return false
	}
	first, replicas := 0, 1
	if o := set.Spec.Ordinals; o != nil {
		first = int(o.Start)
	}
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	return n < first || n >= first+replicas
}

// sayInClaim writes the addresses, and the pod that has them, into the status of the IPAMClaim that holds them.
func (r *reservations) sayInClaim(ctx context.Context, obj *v1alpha1.IPReservation, p *v1alpha1.IPPool) error {
	h := obj.Spec.Holder
	if h.Kind != v1alpha1.HolderIPAMClaim {
		return nil
	}
	claim, err := r.claim(ctx, h)
	switch {
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err), err == nil && string(claim.GetUID()) != h.UID:
		return nil
	case err != nil:
		return fmt.Errorf("read IPAMClaim %s/%s: %w", h.Namespace, h.Name, err)
	}
	if first, _, _ := unstructured.NestedString(claim.Object, "spec", "interface"); first != "" && first != h.Interface {
		return nil // another rail of the attachment: a claim's status is about one interface
	}
	ips, err := withLength(obj, p)
	if err != nil || len(ips) > claimIPs {
		return err
	}
	pod := ""
	if obj.Spec.User != nil {
		pod = obj.Spec.User.Pod
	}
	return r.patchClaim(ctx, claim, ips, pod)
}

// withLength are the addresses with their subnets' prefix lengths.
func withLength(obj *v1alpha1.IPReservation, p *v1alpha1.IPPool) ([]string, error) {
	pool, err := p.Parse()
	if err != nil {
		return nil, nil //nolint:nilerr // said elsewhere
	}
	addrs, err := obj.Addrs()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		if sub, ok := pool.Subnet(a); ok {
			out = append(out, netip.PrefixFrom(a, sub.Prefix.Bits()).String())
		}
	}
	return out, nil
}

// patchClaim writes the status if it differs. In releases of the resource before v0.5 ownerPod is a name, and later an object with one: the
// API server says by a refusal which it is.
func (r *reservations) patchClaim(ctx context.Context, claim *unstructured.Unstructured, ips []string, pod string) error {
	has, _, _ := unstructured.NestedStringSlice(claim.Object, "status", "ips")
	owner, _, _ := unstructured.NestedString(claim.Object, "status", "ownerPod")
	if o, ok, _ := unstructured.NestedString(claim.Object, "status", "ownerPod", "name"); ok {
		owner = o
	}
	if slices.Equal(has, ips) && owner == pod {
		return nil
	}
	var conditions []metav1.Condition
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
	}
	if s, ok, _ := unstructured.NestedMap(claim.Object, "status"); ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s, &status); err == nil {
			conditions = status.Conditions
		}
	}
	before := slices.Clone(conditions)
	meta.SetStatusCondition(&conditions, metav1.Condition{
		Type: conditionAllocated, Status: metav1.ConditionTrue, Reason: reasonAllocated, Message: "IP addresses allocated successfully", ObservedGeneration: claim.GetGeneration(),
	})
	object := any(map[string]string{"name": pod})
	if pod == "" {
		object = nil
	}
	var last error
	for _, ownerPod := range []any{pod, object} {
		fields := map[string]any{"ips": ips, "ownerPod": ownerPod}
		if !equality.Semantic.DeepEqual(before, conditions) {
			fields["conditions"] = conditions
		}
		patch, err := json.Marshal(map[string]any{"status": fields})
		if err != nil {
			return err
		}
		last = r.api.Status().Patch(ctx, claim.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
		if last == nil || !apierrors.IsInvalid(last) {
			break
		}
	}
	if client.IgnoreNotFound(last) != nil {
		return fmt.Errorf("write the status of IPAMClaim %s/%s: %w", claim.GetNamespace(), cmp.Or(claim.GetName(), "?"), last)
	}
	return nil
}
