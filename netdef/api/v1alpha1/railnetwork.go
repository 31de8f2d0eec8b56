// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RailNetwork describes several rails that pods join by one reference, with one interface on each. The controller keeps a
// NetworkAttachmentDefinition of the same name for it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=rn,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="Masters",type=string,JSONPath=`.spec.rails[*].master`,priority=1
// +kubebuilder:printcolumn:name="Devices",type=string,JSONPath=`.spec.rails[*].device`,priority=1
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool.name`
// +kubebuilder:printcolumn:name="NAD",type=string,JSONPath=`.status.networkAttachmentDefinition`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name is longer than 63 characters: shorten it, as it labels the NetworkAttachmentDefinition and names the network in pod annotations"
type RailNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec   RailNetworkSpec `json:"spec"`
	Status NetworkStatus   `json:"status,omitempty"`
}

// RailNetworkSpec is what is wanted.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || size(self.mode) == 0 || self.mode in (self.kind == 'macvlan' ? ['bridge', 'private', 'vepa', 'passthru'] : self.kind == 'ipvlan' ? ['l2', 'l3', 'l3s'] : [])",fieldPath=".mode",message="is none of spec.kind's: write bridge, private, vepa or passthru for macvlan, l2, l3 or l3s for ipvlan, and nothing for the others"
// +kubebuilder:validation:XValidation:rule="!has(self.sriov) || self.kind == 'sriov'",fieldPath=".sriov",message="is for virtual functions: remove it, or write sriov as spec.kind"
// +kubebuilder:validation:XValidation:rule="!(self.kind in ['macvlan', 'ipvlan']) || self.rails.all(r, !has(r.device) || size(r.device) == 0)",fieldPath=".rails",message="device is for the kinds host-device and sriov: write master in each of spec.rails"
// +kubebuilder:validation:XValidation:rule="!(self.kind in ['host-device', 'sriov']) || self.rails.all(r, !has(r.master) || size(r.master) == 0)",fieldPath=".rails",message="master is for the kinds macvlan and ipvlan: write device in each of spec.rails"
// +kubebuilder:validation:XValidation:rule="!(self.kind in ['host-device', 'sriov']) || self.rails.all(r, has(r.device) && size(r.device) > 0 || has(r.label) || has(r.auto) && r.auto)",fieldPath=".rails",message="device is missing: the kinds host-device and sriov need device, label or auto in each of spec.rails"
// +kubebuilder:validation:XValidation:rule="!has(self.ipam) || size(self.ipam.trim()) == 0 || self.rails.all(r, !has(r.pool))",fieldPath=".ipam",message="spec.ipam and a pool in spec.rails exclude each other: keep the pools for Railyard's addresses, or ipam for another IPAM plugin's"
// +kubebuilder:validation:XValidation:rule="has(self.pool) || self.rails.all(r, has(r.pool)) || self.rails.all(r, !has(r.pool))",fieldPath=".pool",message="is missing: some of spec.rails name no pool of their own; write one here for them"
type RailNetworkSpec struct {
	NetworkSpec `json:",inline"`

	// Kind of link, the same for all rails. macvlan and ipvlan make one on each rail's master, host-device and sriov move each rail's
	// device into the pod.
	// +optional
	// +kubebuilder:default=macvlan
	// +kubebuilder:validation:Enum=macvlan;ipvlan;host-device;sriov
	Kind string `json:"kind,omitempty"`

	// Mode of a macvlan or ipvlan; empty means bridge or l2.
	// +optional
	// +kubebuilder:validation:Enum=bridge;private;vepa;passthru;l2;l3;l3s;""
	Mode string `json:"mode,omitempty"`

	// MTU of each of the pod's interfaces; 0 means the master's or the device's.
	// +optional
	MTU MTU `json:"mtu,omitempty"`

	// SRIOV is what the physical functions set for the virtual ones, the same for all rails, where kind is sriov.
	// +optional
	SRIOV *SRIOVSettings `json:"sriov,omitempty"`

	// Rails in order: a place in the list decides on the default of interface and table.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.interface) || a.interface == '' || self.exists_one(b, has(b.interface) && b.interface == a.interface))",message="two rails have the same interface: give each its own"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.table) || a.table == 0 || self.exists_one(b, has(b.table) && b.table == a.table))",message="two rails have the same table: give each its own"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.device) || a.device == '' || self.exists_one(b, has(b.device) && b.device == a.device))",message="two rails have the same device: it can be moved once only"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.label) || self.exists_one(b, has(b.label) && b.label == a.label))",message="two rails have the same label: give each its own"
	Rails []Rail `json:"rails"`
}

// Rail is one interface of the pod.
//
// +kubebuilder:validation:XValidation:rule="[has(self.master) && size(self.master) > 0, has(self.device) && size(self.device) > 0, has(self.label), has(self.auto) && self.auto].filter(x, x).size() <= 1",fieldPath=".label",message="stands beside another of master, device, label and auto: write one of them"
type Rail struct {
	// Interface is its name in the pod. Empty means the name that the pod's annotation gives for the first rail, and that with -2, -3
	// and so on for the others.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^([^-%/:\\\\s][^%/:\\\\s]*)?$') && self != '.' && self != '..'",message="is no interface's name: write one like net1, without blanks, slashes, colons and percent signs"
	Interface string `json:"interface,omitempty"`

	// Master is the parent on the node, for the kinds macvlan and ipvlan: a link name, an altname or a PCI address. Empty means the
	// link of the default route.
	// +optional
	Master LinkName `json:"master,omitempty"`

	// Device is what is moved into the pod, for the kinds host-device and sriov: a link name, an altname, a PCI address or the name of
	// an auxiliary device such as mlx5_core.sf.4.
	// +optional
	Device LinkName `json:"device,omitempty"`

	// Label stands for the NIC to which the node's list of labels gives it, instead of master or device.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-A-Za-z0-9_.]+$')",message="is no label: use letters, digits, dots, dashes and underscores"
	Label string `json:"label,omitempty"`

	// Auto takes the first of the node's NICs, by PCI address, that is fit for a rail and is no other rail's, instead of master or device.
	// +optional
	Auto bool `json:"auto,omitempty"`

	// RoCEToS is the type of service of this rail; left out, it is spec.roceToS.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	RoCEToS *int32 `json:"roceToS,omitempty"`

	// Pool names the IPPool of this rail; left out, it is spec.pool.
	// +optional
	Pool *PoolReference `json:"pool,omitempty"`

	// MTU of this rail; 0 means spec.mtu.
	// +optional
	MTU MTU `json:"mtu,omitempty"`

	// Table is the routing table for what leaves with this rail's addresses; 0 means 1000 for the first rail, 1001 for the second and
	// so on.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	// +kubebuilder:validation:XValidation:rule="self < 253 || self > 255",message="is a table of the kernel's own: write 1 to 252, or 256 and more"
	Table int32 `json:"table,omitempty"`
}

// RailNetworkList is a list of networks.
//
// +kubebuilder:object:root=true
type RailNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RailNetwork `json:"items"`
}

// Common implements Network.
func (n *RailNetwork) Common() (*NetworkSpec, *NetworkStatus) {
	return &n.Spec.NetworkSpec, &n.Status
}

// SetLink implements Network: mellanox.com/v1alpha1 has no such kind.
func (n *RailNetwork) SetLink(string) {}
