// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadutils "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/utils"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// defaultNetworkAnnotation replaces the cluster's default network of one pod.
	defaultNetworkAnnotation = "v1.multus-cni.io/default-network"
	// defaultNetworkNamespace is where Multus looks for it if no namespace is given.
	defaultNetworkNamespace = "kube-system"
	// podPage is how many pods one request of a live look asks for.
	podPage = 500
	// podsNamed is how many pods a message names.
	podsNamed = 5
)

// runningPods selects the pods whose sandbox exists or may come to exist.
var runningPods = fields.AndSelectors(
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
)

// selected are the NetworkAttachmentDefinitions that a pod's annotations select. What Multus could not read selects nothing, as such
// a pod never gets a network.
func selected(pod client.Object) []types.NamespacedName {
	var out []types.NamespacedName
	for annotation, namespace := range map[string]string{
		nadv1.NetworkAttachmentAnnot: pod.GetNamespace(),
		defaultNetworkAnnotation:     defaultNetworkNamespace,
	} {
		if text := pod.GetAnnotations()[annotation]; text != "" {
			out = append(out, parseSelection(text, namespace)...)
		}
	}
	slices.SortFunc(out, compareNames)
	return slices.Compact(out)
}

func parseSelection(text, namespace string) []types.NamespacedName {
	var elements []nadv1.NetworkSelectionElement
	if strings.ContainsAny(text, `[{"`) {
		// Not by the library: it follows the nil pointer that a null in the list gives.
		if json.Unmarshal([]byte(text), &elements) != nil {
			return nil
		}
	} else {
		parsed, err := nadutils.ParseNetworkAnnotation(text, namespace)
		if err != nil {
			return nil
		}
		for _, e := range parsed {
			elements = append(elements, *e)
		}
	}
	var out []types.NamespacedName
	for _, e := range elements {
		if e.Name == "" {
			continue
		}
		if e.Namespace == "" {
			e.Namespace = namespace
		}
		out = append(out, types.NamespacedName{Namespace: e.Namespace, Name: e.Name})
	}
	return out
}

// slimPod keeps of a cached pod what selected reads, and its identity.
func slimPod(obj any) (any, error) {
	pod, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil
	}
	slim := metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	for _, annotation := range []string{nadv1.NetworkAttachmentAnnot, defaultNetworkAnnotation} {
		if text, ok := pod.Annotations[annotation]; ok {
			if slim.Annotations == nil {
				slim.Annotations = map[string]string{}
			}
			slim.Annotations[annotation] = text
		}
	}
	pod.ObjectMeta = slim
	return pod, nil
}

// cachedUsers are the pods that use the definition nad, by the cache: "namespace/name", ascending.
func cachedUsers(ctx context.Context, r client.Reader, nad types.NamespacedName) ([]string, error) {
	pods := podList()
	if err := r.List(ctx, pods, client.MatchingFields{indexSelected: nad.String()}); err != nil {
		return nil, fmt.Errorf("list the pods that use %s: %w", nad, err)
	}
	var out []string
	for i := range pods.Items {
		out = append(out, client.ObjectKeyFromObject(&pods.Items[i]).String())
	}
	slices.Sort(out)
	return out, nil
}

// liveUsers is cachedUsers by the API server itself, for several definitions in one look: the last word before one is removed.
func liveUsers(ctx context.Context, r client.Reader, nads map[types.NamespacedName]bool) (map[types.NamespacedName][]string, error) {
	out := map[types.NamespacedName][]string{}
	pods := podList()
	for {
		err := r.List(ctx, pods, client.MatchingFieldsSelector{Selector: runningPods}, client.Limit(podPage), client.Continue(pods.Continue))
		if err != nil {
			return nil, fmt.Errorf("list the running pods: %w", err)
		}
		for i := range pods.Items {
			for _, nad := range selected(&pods.Items[i]) {
				if nads[nad] {
					out[nad] = append(out[nad], client.ObjectKeyFromObject(&pods.Items[i]).String())
				}
			}
		}
		if pods.Continue == "" {
			return out, nil
		}
	}
}

// namePods names the first few of pods and says how many there are.
func namePods(pods []string) string {
	if len(pods) <= podsNamed {
		return strings.Join(pods, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(pods[:podsNamed], ", "), len(pods)-podsNamed)
}

func countPods(n int) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

func compareNames(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }

func podList() *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	return l
}
