// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// FinalizerHolds keeps a reservation until its addresses have been given up in the pool's blocks. Its maker sets it.
	FinalizerHolds = "ipam.railyard.dev/holds"

	// ConditionUnused says since when no pod uses the reservation, and what will become of it.
	ConditionUnused = "Unused"
)

// Reasons of ConditionUnused.
const (
	// ReasonInUse: a pod has the addresses.
	ReasonInUse = "InUse"
	// ReasonHeld: its holder is there, so its addresses wait for its next pod.
	ReasonHeld = "Held"
	// ReasonEnding: its holder is gone, and the message says when its addresses are free again.
	ReasonEnding = "Ending"
	// ReasonNodeLost: the node of the pod that used it last is gone, and the message says until when they are held back.
	ReasonNodeLost = "NodeLost"
)

// Kinds of Holder.
const (
	HolderIPAMClaim   = "IPAMClaim"
	HolderStatefulSet = "StatefulSet"
)

// IPReservation is what addresses of a pool somebody has who outlives his pods, and which node may lease them now. Agents make them
// for pools with sticky addresses, and the controller removes them; a person may delete one that is not in use, to free its addresses.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipr,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.holder.kind`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.holder.namespace`
// +kubebuilder:printcolumn:name="Holder",type=string,JSONPath=`.spec.holder.name`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.user.pod`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.user.node`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPReservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is whose the addresses are.
	// +required
	Spec IPReservationSpec `json:"spec"`
	// status is what the controller found.
	// +optional
	Status IPReservationStatus `json:"status,omitzero"`
}

// IPReservationSpec is whose the addresses are. That they are no node's is in the pool's blocks, which alone decide.
type IPReservationSpec struct {
	// pool is the IPPool of the addresses, poolUID its UID.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.pool never changes"
	// +required
	Pool string `json:"pool"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.poolUID never changes"
	// +required
	PoolUID string `json:"poolUID"`

	// holder is who has the addresses.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.holder never changes"
	// +required
	Holder Holder `json:"holder"`

	// addresses are those reserved, one of each family of the pool.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=39
	// +listType=atomic
	// +required
	Addresses []string `json:"addresses"`

	// user is the node that may lease the addresses, for one attachment of one pod; none: no pod has them.
	// +optional
	User *ReservationUser `json:"user,omitempty"`
}

// Holder is who has addresses for longer than a pod lives.
type Holder struct {
	// kind is IPAMClaim or StatefulSet.
	// +kubebuilder:validation:Enum=IPAMClaim;StatefulSet
	// +required
	Kind string `json:"kind"`
	// namespace and name are the object's.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +required
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name"`
	// uid is that of an IPAMClaim: one made anew under the name is another. A StatefulSet is known by its name.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	UID string `json:"uid,omitempty"`
	// pod is the name of the StatefulSet's pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pod string `json:"pod,omitempty"`
	// interface is its name in the pod.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +required
	Interface string `json:"interface"`
}

// ReservationUser is who leases the addresses.
type ReservationUser struct {
	// node, nodeUID and session are those of the node's share of a block.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Node string `json:"node"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	NodeUID string `json:"nodeUID"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	Session string `json:"session"`
	// network and containerID are the attachment.
	// +kubebuilder:validation:MaxLength=512
	// +required
	Network string `json:"network"`
	// +kubebuilder:validation:MaxLength=512
	// +required
	ContainerID string `json:"containerID"`
	// pod is the pod's name, podUID its UID.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pod string `json:"pod,omitempty"`
	// +kubebuilder:validation:MaxLength=64
	// +optional
	PodUID string `json:"podUID,omitempty"`
	// since tells one use from the next, even of one pod.
	// +required
	Since metav1.MicroTime `json:"since"`
}

// IPReservationStatus is what the controller found.
type IPReservationStatus struct {
	// conditions: Unused.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPReservationList is a list of reservations.
//
// +kubebuilder:object:root=true
type IPReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPReservation `json:"items"`
}
