// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"maps"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/render"
)

type namespaceState int

const (
	namespaceMissing namespaceState = iota
	namespaceTerminating
	namespaceActive
)

// view is what one pass has read.
type view struct {
	network v1alpha1.Network
	// want is what the spec renders to, or nil with invalid set.
	want    *nadv1.NetworkAttachmentDefinition
	invalid error
	// namespace is that of want.
	namespace namespaceState
	// found lies where want belongs; nil if nothing does.
	found *nadv1.NetworkAttachmentDefinition
	// former are the network's own definitions in other namespaces; all of its own when it is being deleted.
	former []nadv1.NetworkAttachmentDefinition
	// pool says why the pool is not ready; empty if it is or there is none.
	pool string
	// users are the pods of each definition above, by namespace and name.
	users map[types.NamespacedName][]string
}

// plan is what one pass does, in the order of the fields.
type plan struct {
	create *nadv1.NetworkAttachmentDefinition
	// update is what found, as it was read, becomes: want merged into it.
	update, found *nadv1.NetworkAttachmentDefinition
	remove        []nadv1.NetworkAttachmentDefinition
	// release removes the network's finalizer.
	release bool
	// usable is the definition that pods can use after this pass, if there is one.
	usable *nadv1.NetworkAttachmentDefinition
	// note is an event about running pods; empty for none.
	note string

	ready metav1.Condition
	inUse *metav1.Condition // nil: nothing waits
}

// decide is the whole logic of this package. It changes nothing, not even v.
func decide(v view) plan {
	if !v.network.GetDeletionTimestamp().IsZero() {
		return decideDeletion(v)
	}
	p, placed := decidePlace(v)
	if !placed { // the former ones stay as long as there is no new one
		if p.usable == nil && len(v.former) > 0 {
			p.usable = &v.former[0]
		}
		return p
	}
	var waits []string
	for _, nad := range v.former {
		key := keyOf(&nad)
		if pods := v.users[key]; len(pods) > 0 {
			waits = append(waits, fmt.Sprintf("%s is used by %s (%s)", key, countPods(len(pods)), namePods(pods)))
			continue
		}
		p.remove = append(p.remove, nad)
	}
	if len(waits) > 0 {
		p.inUse = &metav1.Condition{
			Type: v1alpha1.ConditionInUse, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonFormerNamespaceStillIn,
			Message: "the NetworkAttachmentDefinition " + strings.Join(waits, "; ") + ": it is removed when they are gone",
		}
	}
	return p
}

// decideDeletion removes the definitions that no pod uses, and releases the network when none is left.
func decideDeletion(v view) plan {
	p := plan{ready: notReady(v1alpha1.ReasonDeleting, "the network is being deleted")}
	var waits []string
	for _, nad := range v.former {
		key := keyOf(&nad)
		if pods := v.users[key]; len(pods) > 0 {
			waits = append(waits, fmt.Sprintf("%s is used by %s (%s)", key, countPods(len(pods)), namePods(pods)))
			p.usable = &nad
			continue
		}
		p.remove = append(p.remove, nad)
	}
	if len(waits) > 0 {
		message := "the NetworkAttachmentDefinition " + strings.Join(waits, "; ") + ": delete these pods to let the deletion proceed"
		p.ready.Message += "; " + message
		p.inUse = &metav1.Condition{
			Type: v1alpha1.ConditionInUse, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDeletionWaits, Message: message,
		}
		return p
	}
	p.release = true
	return p
}

// decidePlace decides on the definition that the spec asks for, and says whether it is in place after this pass.
func decidePlace(v view) (plan, bool) {
	if v.invalid != nil {
		p := plan{ready: notReady(v1alpha1.ReasonInvalidSpec, v.invalid.Error())}
		if v.found != nil && owns(v.network, v.found) {
			p.usable = v.found
			p.ready.Message += " (the NetworkAttachmentDefinition keeps the last valid configuration)"
		}
		return p, false
	}
	if obstacle := obstacle(v); obstacle != nil {
		return plan{ready: *obstacle}, false
	}
	p := plan{usable: v.want, ready: readiness(v)}
	if v.found == nil {
		p.create = v.want.DeepCopy()
		return p, true
	}
	p.usable = merge(v.found, v.want)
	if same(v.found, p.usable) {
		return p, true
	}
	p.update, p.found = p.usable, v.found
	if pods := v.users[keyOf(v.want)]; v.found.Spec.Config != v.want.Spec.Config && len(pods) > 0 {
		p.note = fmt.Sprintf("the configuration of %s changed for new pods; %s run with the former one: %s",
			keyOf(v.want), countPods(len(pods)), namePods(pods))
	}
	return p, true
}

// obstacle is what keeps want from its place, or nil.
func obstacle(v view) *metav1.Condition {
	key := keyOf(v.want)
	var c metav1.Condition
	switch {
	case v.namespace == namespaceMissing:
		c = notReady(v1alpha1.ReasonNamespaceNotFound,
			fmt.Sprintf("spec.networkNamespace: namespace %s does not exist: create it, or name another", key.Namespace))
	case v.namespace == namespaceTerminating:
		c = notReady(v1alpha1.ReasonNamespaceTerminating,
			fmt.Sprintf("spec.networkNamespace: namespace %s is being deleted: create it again, or name another", key.Namespace))
	case v.found != nil && !owns(v.network, v.found):
		c = notReady(v1alpha1.ReasonConflict, conflict(key, v.found, v.want))
	case v.found != nil && !v.found.DeletionTimestamp.IsZero():
		c = notReady(v1alpha1.ReasonFailed,
			fmt.Sprintf("NetworkAttachmentDefinition %s is being deleted and waits for its finalizers %v", key, v.found.Finalizers))
	default:
		return nil
	}
	return &c
}

// conflict says whose the definition is that lies where want belongs.
func conflict(key types.NamespacedName, found, want *nadv1.NetworkAttachmentDefinition) string {
	if owner, place, ok := strings.Cut(found.Annotations[render.OwnerAnnotation], " in "); ok && place == found.Namespace {
		return fmt.Sprintf("NetworkAttachmentDefinition %s is that of %s: rename one of the two networks, or give one another spec.networkNamespace", key, owner)
	}
	return fmt.Sprintf("NetworkAttachmentDefinition %s exists and is not this network's: delete or rename it, or hand it over by the annotation %s: %s",
		key, render.OwnerAnnotation, want.Annotations[render.OwnerAnnotation])
}

func readiness(v view) metav1.Condition {
	if v.pool != "" {
		return notReady(v1alpha1.ReasonPoolNotReady, v.pool)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRendered,
		Message: fmt.Sprintf("NetworkAttachmentDefinition %s is up to date", keyOf(v.want)),
	}
}

// maxMessage bounds a condition's message; a wrong value quoted in it may be long.
const maxMessage = 4096

func notReady(reason, message string) metav1.Condition {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

// owns says that nad is n's own, by the annotation that names both the network and the place: a copy that somebody made into another
// namespace is not.
func owns(n v1alpha1.Network, nad *nadv1.NetworkAttachmentDefinition) bool {
	return nad.Name == n.GetName() && nad.Annotations[render.OwnerAnnotation] == render.Owner(n, nad.Namespace)
}

// merge is found with what we own in it replaced by want's, and without what we owned.
func merge(found, want *nadv1.NetworkAttachmentDefinition) *nadv1.NetworkAttachmentDefinition {
	out := found.DeepCopy()
	out.Spec.Config = want.Spec.Config
	out.Labels = overlay(out.Labels, want.Labels)
	if former := out.Annotations[render.AlsoAnnotation]; former != "" {
		for _, key := range append(strings.Split(former, ","), render.AlsoAnnotation) {
			delete(out.Annotations, key)
		}
	}
	out.Annotations = overlay(out.Annotations, want.Annotations)
	return out
}

func overlay(base, top map[string]string) map[string]string {
	if base == nil {
		base = map[string]string{}
	}
	maps.Copy(base, top)
	return base
}

// same says that writing merged over found would change nothing.
func same(found, merged *nadv1.NetworkAttachmentDefinition) bool {
	return found.Spec.Config == merged.Spec.Config && maps.Equal(found.Labels, merged.Labels) && maps.Equal(found.Annotations, merged.Annotations)
}

func keyOf(nad *nadv1.NetworkAttachmentDefinition) types.NamespacedName {
	return types.NamespacedName{Namespace: nad.Namespace, Name: nad.Name}
}
