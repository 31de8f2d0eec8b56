// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultNetworkNamespace is where a network's NetworkAttachmentDefinition goes if spec.networkNamespace is empty.
const DefaultNetworkNamespace = "default"

// MaxNameLength bounds the name of a network: it is the value of a label on the NetworkAttachmentDefinition.
const MaxNameLength = 63

// Finalizer keeps a network until its NetworkAttachmentDefinitions are removed.
const Finalizer = "railyard.dev/network-attachment-definitions"

// MacvlanNetwork describes a rail that pods join by macvlan. The controller keeps a NetworkAttachmentDefinition of the same name
// for it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=mvn,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Master",type=string,JSONPath=`.spec.master`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`,priority=1
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool.name`
// +kubebuilder:printcolumn:name="NAD",type=string,JSONPath=`.status.networkAttachmentDefinition`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name is longer than 63 characters: shorten it, as it labels the NetworkAttachmentDefinition and names the network in pod annotations"
type MacvlanNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MacvlanNetworkSpec   `json:"spec,omitempty"`
	Status MacvlanNetworkStatus `json:"status,omitempty"`
}

// MacvlanNetworkSpec is what is wanted. It takes every field of mellanox.com/v1alpha1 MacvlanNetwork unchanged.
//
// +kubebuilder:validation:XValidation:rule="!has(self.pool) || !has(self.ipam) || size(self.ipam.trim()) == 0",fieldPath=".ipam",message="spec.ipam and spec.pool exclude each other: keep pool for Railyard's addresses, or ipam for another IPAM plugin's"
type MacvlanNetworkSpec struct {
	// NetworkNamespace is the namespace of the NetworkAttachmentDefinition; empty means "default".
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$')",message="is no namespace name: use lower-case letters, digits and dashes, with a letter or digit at both ends"
	NetworkNamespace string `json:"networkNamespace,omitempty"`

	// Master is the parent on the node: a link name, an altname or a PCI address. Empty means the link of the default route.
	// +optional
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/\\\\s]*$')",message="is no link name, altname or PCI address: remove blanks and slashes"
	Master string `json:"master,omitempty"`

	// Mode is the macvlan mode.
	// +optional
	// +kubebuilder:default=bridge
	// +kubebuilder:validation:Enum=bridge;private;vepa;passthru
	Mode string `json:"mode,omitempty"`

	// MTU of the pod's interface; 0 means the master's.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 68",message="is below 68, the least that IPv4 works with: use 0 for the master's MTU, or 1280 and more where IPv6 is used"
	MTU int32 `json:"mtu,omitempty"`

	// IPAM is the JSON of a CNI ipam section, kept as it is. Empty, with no pool, means a network without addresses.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.trim() == '' || (self.trim().startsWith('{') && self.trim().endsWith('}'))",message="is no JSON object: write it as '{\"type\": ...}'"
	IPAM string `json:"ipam,omitempty"`

	// MetaPlugins are the JSON configurations of the CNI plugins to run after this one: objects separated by commas, or a list of
	// objects.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:XValidation:rule="self.trim() == '' || ((self.trim().startsWith('{') && self.trim().endsWith('}')) || (self.trim().startsWith('[') && self.trim().endsWith(']')))",message="is no JSON fragment: write one or more objects separated by commas, '{\"type\": ...}, {\"type\": ...}', or a list of them"
	MetaPlugins string `json:"metaPlugins,omitempty"`

	// Pool names the IPPool that the pods' addresses come from.
	// +optional
	Pool *PoolReference `json:"pool,omitempty"`

	// CNIVersion of the rendered configuration. 1.0.0 suits every Multus since 3.9 and all common plugins; 1.1.0 adds STATUS and GC
	// for runtimes that call them, and needs it in every one of the metaPlugins.
	// +optional
	// +kubebuilder:default="1.0.0"
	// +kubebuilder:validation:Enum="1.0.0";"1.1.0"
	CNIVersion string `json:"cniVersion,omitempty"`
}

// PoolReference names an IPPool of ipam.railyard.dev.
type PoolReference struct {
	// Name of the IPPool.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="is no IPPool name: use lower-case letters, digits and dashes, with a letter or digit at both ends"
	Name string `json:"name"`
}

// The values of status.state: the words that tools written for mellanox.com/v1alpha1 wait for.
const (
	StateReady    = "ready"
	StateNotReady = "notReady"
	StateError    = "error"
)

// The types of the conditions.
const (
	// ConditionReady: the NetworkAttachmentDefinition is what the spec asks for, and pods can use it.
	ConditionReady = "Ready"
	// ConditionInUse: something waits for pods to end. It is absent while nothing does.
	ConditionInUse = "InUse"
)

// The reasons of the conditions.
const (
	ReasonRendered             = "Rendered"             // Ready=True
	ReasonInvalidSpec          = "InvalidSpec"          // the message names the field and the fix
	ReasonNamespaceNotFound    = "NamespaceNotFound"    // retried when the namespace appears
	ReasonNamespaceTerminating = "NamespaceTerminating" // retried when the namespace is back
	ReasonConflict             = "Conflict"             // a NetworkAttachmentDefinition of that name is somebody else's
	ReasonPoolNotReady         = "PoolNotReady"         // spec.pool is missing, not accepted or being deleted
	ReasonDeleting             = "Deleting"             // the network is being deleted
	ReasonFailed               = "Failed"               // the API server refused; retried with back-off

	ReasonDeletionWaits          = "DeletionWaits"          // InUse=True: pods use a network that is being deleted
	ReasonFormerNamespaceStillIn = "FormerNamespaceStillIn" // InUse=True: pods use the NetworkAttachmentDefinition of the former namespace
)

// MacvlanNetworkStatus is what the controller found and did.
type MacvlanNetworkStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// State sums up the conditions in one word.
	// +optional
	// +kubebuilder:validation:Enum=ready;notReady;ignore;error
	State string `json:"state,omitempty"`

	// Reason says why the state is not ready; it is empty when it is.
	// +optional
	Reason string `json:"reason,omitempty"`

	// NetworkAttachmentDefinition is the namespace and name, with a slash between, of what pods refer to.
	// +optional
	NetworkAttachmentDefinition string `json:"networkAttachmentDefinition,omitempty"`

	// MacvlanNetworkAttachmentDef is the same as a link, for tools written for mellanox.com/v1alpha1.
	// +optional
	MacvlanNetworkAttachmentDef string `json:"macvlanNetworkAttachmentDef,omitempty"`

	// Conditions are Ready, and InUse while something waits for pods to end.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MacvlanNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type MacvlanNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []MacvlanNetwork `json:"items"`
}

// Namespace is where the network's NetworkAttachmentDefinition belongs.
func (s *MacvlanNetworkSpec) Namespace() string {
	if s.NetworkNamespace == "" {
		return DefaultNetworkNamespace
	}
	return s.NetworkNamespace
}
