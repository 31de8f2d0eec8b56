// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPoIBNetwork describes a network that pods join by IP over InfiniBand. The controller keeps a NetworkAttachmentDefinition of the same
// name for it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ibn,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Master",type=string,JSONPath=`.spec.master`
// +kubebuilder:printcolumn:name="PKey",type=string,JSONPath=`.spec.pkey`,priority=1
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool.name`
// +kubebuilder:printcolumn:name="NAD",type=string,JSONPath=`.status.networkAttachmentDefinition`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name is longer than 63 characters: shorten it, as it labels the NetworkAttachmentDefinition and names the network in pod annotations"
type IPoIBNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPoIBNetworkSpec   `json:"spec,omitempty"`
	Status IPoIBNetworkStatus `json:"status,omitempty"`
}

// IPoIBNetworkSpec is what is wanted. It takes every field of mellanox.com/v1alpha1 IPoIBNetwork unchanged.
//
// +kubebuilder:validation:XValidation:rule="!has(self.roceToS)",fieldPath=".roceToS",message="is for RoCE, and the network is InfiniBand: leave it out"
type IPoIBNetworkSpec struct {
	NetworkSpec `json:",inline"`

	// Master is the IPoIB parent on the node: a link name, an altname or a PCI address. Empty means the link of the default route.
	// +optional
	Master LinkName `json:"master,omitempty"`

	// Mode is the IPoIB mode: datagram, or connected for a larger MTU at the price of a connection for each peer. Empty means the
	// master's.
	// +optional
	// +kubebuilder:validation:Enum=datagram;connected;""
	Mode string `json:"mode,omitempty"`

	// MTU of the pod's interface; 0 means the master's, or the largest if the mode is another than the master's. A datagram link takes
	// 4092 at most, a connected one 65520.
	// +optional
	MTU MTU `json:"mtu,omitempty"`

	// PKey is the partition that the pods are in, such as 0x8001; empty means the master's.
	// +optional
	// +kubebuilder:validation:MaxLength=6
	// +kubebuilder:validation:XValidation:rule="self.matches('^(0[xX][0-9a-fA-F]{1,4}|[1-9][0-9]{0,4})?$')",message="is no partition key: write one like 0x8001"
	PKey string `json:"pkey,omitempty"`
}

// IPoIBNetworkStatus is what the controller found and did.
type IPoIBNetworkStatus struct {
	NetworkStatus `json:",inline"`

	// IPoIBNetworkAttachmentDef is networkAttachmentDefinition as a link, for tools written for mellanox.com/v1alpha1.
	// +optional
	IPoIBNetworkAttachmentDef string `json:"ipoibNetworkAttachmentDef,omitempty"`
}

// IPoIBNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type IPoIBNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []IPoIBNetwork `json:"items"`
}

// Common implements Network.
func (n *IPoIBNetwork) Common() (*NetworkSpec, *NetworkStatus) {
	return &n.Spec.NetworkSpec, &n.Status.NetworkStatus
}

// SetLink implements Network.
func (n *IPoIBNetwork) SetLink(link string) { n.Status.IPoIBNetworkAttachmentDef = link }
