// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadutils "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/iprange"
)

var (
	podKind   = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	claimKind = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Kind: "IPAMClaim"}
)

// wish is who the addresses of a request follow, and which of them that one asks for.
type wish struct {
	holder v1alpha1.Holder
	static []netip.Addr
}

// wishOf finds out whom the addresses of a request follow; nil: nobody. It asks the API server, and an error says that nobody knows.
func (a *Agent) wishOf(ctx context.Context, req ipam.Request, s ipam.Sticky) (*wish, error) {
	if req.Pod.Name == "" || req.Pod.Namespace == "" {
		return nil, nil //nolint:nilnil // no pod, no holder
	}
	pod := &metav1.PartialObjectMetadata{}
	pod.SetGroupVersionKind(podKind)
	err := a.cfg.Client.Get(ctx, client.ObjectKey{Namespace: req.Pod.Namespace, Name: req.Pod.Name}, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && req.Pod.UID != "" && string(pod.UID) != req.Pod.UID:
		return nil, fmt.Errorf("%w: pod %s/%s does not exist any more, and its pool has sticky addresses", ipam.ErrUnavailable, req.Pod.Namespace, req.Pod.Name)
	case err != nil:
		return nil, fmt.Errorf("%w: read pod %s/%s, whose addresses may be sticky: %w", ipam.ErrUnavailable, req.Pod.Namespace, req.Pod.Name, err)
	}
	if s.IPAMClaims {
		name, err := claimOf(pod, cmp.Or(req.Attachment, req.Key.IfName))
		if err != nil {
			return nil, err
		}
		if name != "" {
			return a.claimWish(ctx, req, name)
		}
	}
	if c := metav1.GetControllerOf(pod); s.StatefulSets && c != nil && c.Kind == v1alpha1.HolderStatefulSet && strings.HasPrefix(c.APIVersion, "apps/") {
		return &wish{v1alpha1.Holder{
			Kind: v1alpha1.HolderStatefulSet, Namespace: pod.Namespace, Name: c.Name, Pod: pod.Name, Interface: req.Key.IfName,
		}, req.Static}, nil
	}
	return nil, nil //nolint:nilnil // as above
}

// claimOf is the IPAMClaim that a pod names for the interface; empty: none. Multus passes it to no plugin, so that it is read from the
// annotation, in which Multus calls the interfaces without a name net1, net2 and so on.
func claimOf(pod metav1.Object, ifName string) (string, error) {
	text := pod.GetAnnotations()[nadv1.NetworkAttachmentAnnot]
	if !strings.Contains(text, "ipam-claim-reference") {
		return "", nil
	}
	elements, err := nadutils.ParseNetworkAnnotation(text, pod.GetNamespace())
	if err != nil {
		return "", &ipam.FieldError{Field: nadv1.NetworkAttachmentAnnot, Detail: fmt.Sprintf("cannot be read: %v", err)}
	}
	for i, e := range elements {
		if cmp.Or(e.InterfaceRequest, fmt.Sprintf("net%d", i+1)) == ifName {
			return e.IPAMClaimReference, nil
		}
	}
	return "", nil
}

// claimWish reads the claim.
func (a *Agent) claimWish(ctx context.Context, req ipam.Request, name string) (*wish, error) {
	const field = "ipam-claim-reference"
	var o unstructured.Unstructured
	o.SetGroupVersionKind(claimKind)
	err := a.cfg.Client.Get(ctx, client.ObjectKey{Namespace: req.Pod.Namespace, Name: name}, &o)
	switch {
	case apierrors.IsNotFound(err):
		return nil, &ipam.FieldError{Field: field, Detail: fmt.Sprintf("there is no IPAMClaim %s/%s: create it before the pod", req.Pod.Namespace, name)}
	case err != nil:
		return nil, fmt.Errorf("%w: read IPAMClaim %s/%s: %w", ipam.ErrUnavailable, req.Pod.Namespace, name, err)
	case o.GetDeletionTimestamp() != nil:
		return nil, fmt.Errorf("%w: IPAMClaim %s/%s is being deleted: name another in the pod's %s", ipam.ErrPoolClosed, req.Pod.Namespace, name, field)
	}
	w := &wish{v1alpha1.Holder{
		Kind: v1alpha1.HolderIPAMClaim, Namespace: req.Pod.Namespace, Name: name, UID: string(o.GetUID()), Interface: req.Key.IfName,
	}, req.Static}
	asked, _, err := unstructured.NestedStringSlice(o.Object, "spec", "ipRequests")
	if err != nil {
		return nil, &ipam.FieldError{Field: "ipRequests", Detail: err.Error()}
	}
	for i, text := range asked {
		if len(req.Static) > 0 {
			break // the pod's own wish comes first
		}
		bare, _, _ := strings.Cut(text, "/")
		addr, err := iprange.ParseAddr(bare)
		if err != nil {
			return nil, &ipam.FieldError{Field: fmt.Sprintf("ipRequests[%d]", i), Detail: fmt.Sprintf("of IPAMClaim %s/%s: %v", req.Pod.Namespace, name, err)}
		}
		w.static = append(w.static, addr)
	}
	return w, nil
}
