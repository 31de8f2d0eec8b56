// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DefaultNetworkNamespace is where a network's NetworkAttachmentDefinition goes if spec.networkNamespace is empty.
const DefaultNetworkNamespace = "default"

// MaxNameLength bounds the name of a network: it is the value of a label on the NetworkAttachmentDefinition.
const MaxNameLength = 63

// Finalizer keeps a network until its NetworkAttachmentDefinitions are removed.
const Finalizer = "railyard.dev/network-attachment-definitions"

// Network is any of this package's kinds. What is done with one of them is done with all through it.
//
// +kubebuilder:object:generate=false
type Network interface {
	metav1.Object
	runtime.Object
	// Common are the parts of spec and status that all kinds have; what is written to them is written to the network.
	Common() (*NetworkSpec, *NetworkStatus)
	// SetLink sets the status field by which tools written for mellanox.com/v1alpha1 find the NetworkAttachmentDefinition; it does
	// nothing for a kind that they do not know.
	SetLink(link string)
}

// Networks is one empty object of each kind.
func Networks() []Network {
	return []Network{&MacvlanNetwork{}, &HostDeviceNetwork{}, &IPoIBNetwork{}, &RailNetwork{}}
}

// KindOf is the kind of n, whether its TypeMeta is filled in or not: the name of its type, as in a scheme.
func KindOf(n Network) string { return reflect.TypeOf(n).Elem().Name() }

// NetworkSpec is what every kind of network has.
//
// +kubebuilder:validation:XValidation:rule="!has(self.roceToS) || !has(self.rdma) || self.rdma != 'off'",fieldPath=".roceToS",message="means nothing where spec.rdma is off: leave one of them out"
// +kubebuilder:validation:XValidation:rule="!has(self.pool) || !has(self.ipam) || size(self.ipam.trim()) == 0",fieldPath=".ipam",message="spec.ipam and spec.pool exclude each other: keep pool for Railyard's addresses, or ipam for another IPAM plugin's"
type NetworkSpec struct {
	// NetworkNamespace is the namespace of the NetworkAttachmentDefinition; empty means "default".
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$')",message="is no namespace name: use lower-case letters, digits and dashes, with a letter or digit at both ends"
	NetworkNamespace string `json:"networkNamespace,omitempty"`

	// RDMA says what becomes of the RDMA device that belongs to the pod's interface. auto, also if empty: the pod gets it if there is
	// one; required: a pod without one does not start; off: nobody looks.
	// +optional
	// +kubebuilder:validation:Enum=auto;required;"off"
	RDMA string `json:"rdma,omitempty"`

	// RoCEToS is the type of service of what pods send over RoCE: four times the DSCP, plus 2 for ECN. It is set on the RDMA device while
	// a pod has the network, so all pods on one device have the same. Left out, it stays as it is.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	RoCEToS *int32 `json:"roceToS,omitempty"`

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

// LinkName names a network device of a node, as each field of this type says.
//
// +kubebuilder:validation:MaxLength=127
// +kubebuilder:validation:XValidation:rule="self.matches('^[^/\\\\s]*$')",message="is no link name, altname or PCI address: remove blanks and slashes"
type LinkName string

// MTU in bytes.
//
// +kubebuilder:validation:Minimum=0
// +kubebuilder:validation:Maximum=65535
// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 68",message="is below 68, the least that IPv4 works with: use 0 for the master's or the device's MTU, or 1280 and more where IPv6 is used"
type MTU int32

// SRIOVSettings are what the physical function sets for a virtual one before the pod gets it. What is left out stays as it is on the
// node.
//
// +kubebuilder:validation:XValidation:rule="(!has(self.vlanQoS) || self.vlanQoS == 0) && !has(self.vlanProto) || has(self.vlan) && self.vlan > 0",fieldPath=".vlan",message="is needed for vlanQoS and vlanProto: write 1 to 4094, or leave them out"
// +kubebuilder:validation:XValidation:rule="!has(self.minTxRate) || !has(self.maxTxRate) || self.maxTxRate == 0 || self.minTxRate <= self.maxTxRate",fieldPath=".minTxRate",message="is more than maxTxRate: write at most that"
type SRIOVSettings struct {
	// VLAN is the identifier that the NIC adds to and takes off the pod's frames; 0 means none.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	VLAN *int32 `json:"vlan,omitempty"`

	// VLANQoS is the priority in that tag.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=7
	VLANQoS *int32 `json:"vlanQoS,omitempty"`

	// VLANProto is the protocol of the tag; left out, it is 802.1Q.
	// +optional
	// +kubebuilder:validation:Enum="802.1q";"802.1Q";"802.1ad";"802.1AD"
	VLANProto string `json:"vlanProto,omitempty"`

	// SpoofCheck drops frames with another sender's hardware address.
	// +optional
	SpoofCheck *bool `json:"spoofCheck,omitempty"`

	// Trust lets the pod change its hardware address and receive what is not for it.
	// +optional
	Trust *bool `json:"trust,omitempty"`

	// LinkState is what the pod sees of the cable: auto, the port's own state; enable, always up; disable, always down.
	// +optional
	// +kubebuilder:validation:Enum=auto;enable;disable
	LinkState string `json:"linkState,omitempty"`

	// MinTxRate is what the NIC lets the pod send at least, in Mbit/s; 0 means no promise. Not every NIC has it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	MinTxRate *int32 `json:"minTxRate,omitempty"`

	// MaxTxRate is what the NIC lets the pod send at most, in Mbit/s; 0 means no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	MaxTxRate *int32 `json:"maxTxRate,omitempty"`
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

// NetworkStatus is what the controller found and did.
type NetworkStatus struct {
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

	// Conditions are Ready, and InUse while something waits for pods to end.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Namespace is where the network's NetworkAttachmentDefinition belongs.
func (s *NetworkSpec) Namespace() string {
	if s.NetworkNamespace == "" {
		return DefaultNetworkNamespace
	}
	return s.NetworkNamespace
}
