// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HostDeviceNetwork describes a network whose pods get a device of the node for themselves: a physical function, a virtual one or a
// subfunction. The controller keeps a NetworkAttachmentDefinition of the same name for it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hdn,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.resourceName`
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.spec.device`,priority=1
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool.name`
// +kubebuilder:printcolumn:name="NAD",type=string,JSONPath=`.status.networkAttachmentDefinition`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name is longer than 63 characters: shorten it, as it labels the NetworkAttachmentDefinition and names the network in pod annotations"
type HostDeviceNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec   HostDeviceNetworkSpec   `json:"spec"`
	Status HostDeviceNetworkStatus `json:"status,omitempty"`
}

// HostDeviceNetworkSpec is what is wanted. It takes every field of mellanox.com/v1alpha1 HostDeviceNetwork unchanged.
//
// +kubebuilder:validation:XValidation:rule="(has(self.resourceName) && size(self.resourceName) > 0) != (has(self.device) && size(self.device) > 0)",fieldPath=".resourceName",message="exactly one of spec.resourceName and spec.device is wanted: write resourceName where a device plugin hands out the devices, or device for one that is the same on every node"
type HostDeviceNetworkSpec struct {
	NetworkSpec `json:",inline"`

	// ResourceName is the device plugin's resource that the pods' devices are of, written into the annotation
	// k8s.v1.cni.cncf.io/resourceName. A name without a slash gets the prefix nvidia.com/, as mellanox.com/v1alpha1 has it; one with a
	// slash, such as intel.com/sriov, is taken as it is. The pod asks for the same resource in its limits.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self.matches('^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$')",message="is no resource name: write one like hostdev, which means nvidia.com/hostdev, or one with a prefix like intel.com/sriov"
	ResourceName string `json:"resourceName,omitempty"`

	// Device is moved into the pod where no resource is handed out: a link name, an altname, a PCI address or the name of an auxiliary
	// device such as mlx5_core.sf.4. One pod a node can have it at a time.
	// +optional
	Device LinkName `json:"device,omitempty"`

	// MTU of the device while the pod has it; 0 means the one that it has.
	// +optional
	MTU MTU `json:"mtu,omitempty"`

	// SRIOV says that the devices are virtual functions, and what their physical function sets for them.
	// +optional
	SRIOV *SRIOVSettings `json:"sriov,omitempty"`
}

// HostDeviceNetworkStatus is what the controller found and did.
type HostDeviceNetworkStatus struct {
	NetworkStatus `json:",inline"`

	// HostDeviceNetworkAttachmentDef is networkAttachmentDefinition as a link, for tools written for mellanox.com/v1alpha1.
	// +optional
	HostDeviceNetworkAttachmentDef string `json:"hostDeviceNetworkAttachmentDef,omitempty"`
}

// HostDeviceNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type HostDeviceNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []HostDeviceNetwork `json:"items"`
}

// Common implements Network.
func (n *HostDeviceNetwork) Common() (*NetworkSpec, *NetworkStatus) {
	return &n.Spec.NetworkSpec, &n.Status.NetworkStatus
}

// SetLink implements Network.
func (n *HostDeviceNetwork) SetLink(link string) { n.Status.HostDeviceNetworkAttachmentDef = link }
