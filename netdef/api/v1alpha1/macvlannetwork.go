// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
type MacvlanNetworkSpec struct {
	NetworkSpec `json:",inline"`

	// Master is the parent on the node: a link name, an altname or a PCI address. Empty means the link of the default route.
	// +optional
	Master LinkName `json:"master,omitempty"`

	// Mode is the macvlan mode.
	// +optional
	// +kubebuilder:default=bridge
	// +kubebuilder:validation:Enum=bridge;private;vepa;passthru
	Mode string `json:"mode,omitempty"`

	// MTU of the pod's interface; 0 means the master's.
	// +optional
	MTU MTU `json:"mtu,omitempty"`
}

// MacvlanNetworkStatus is what the controller found and did.
type MacvlanNetworkStatus struct {
	NetworkStatus `json:",inline"`

	// MacvlanNetworkAttachmentDef is networkAttachmentDefinition as a link, for tools written for mellanox.com/v1alpha1.
	// +optional
	MacvlanNetworkAttachmentDef string `json:"macvlanNetworkAttachmentDef,omitempty"`
}

// MacvlanNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type MacvlanNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []MacvlanNetwork `json:"items"`
}

// Common implements Network.
func (n *MacvlanNetwork) Common() (*NetworkSpec, *NetworkStatus) {
	return &n.Spec.NetworkSpec, &n.Status.NetworkStatus
}

// SetLink implements Network.
func (n *MacvlanNetwork) SetLink(link string) { n.Status.MacvlanNetworkAttachmentDef = link }
