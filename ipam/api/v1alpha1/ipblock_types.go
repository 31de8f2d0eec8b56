// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// LabelPool is the label of a block that names its pool.
	LabelPool = "ipam.railyard.dev/pool"
	// labelNodePrefix starts the labels of a block that name its sharers; see NodeLabel.
	labelNodePrefix = "node.ipam.railyard.dev/"
)

// IPBlock says who owns which addresses of one slot of a pool. Nodes write it; it is the only arbiter of its
// addresses. Its name follows from pool and slot, so that creating it is the mutual exclusion.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipb,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Slot",type=string,JSONPath=`.spec.slot`
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.spec.shares[*].node`
// +kubebuilder:printcolumn:name="Leased",type=integer,JSONPath=`.status.leased`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Cooling",type=integer,JSONPath=`.status.cooling`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.startsWith(self.spec.pool + '.')",message="metadata.name must be spec.pool, a dot, and the first address of spec.slot with dashes: blocks are made by nodes, not by hand"
type IPBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says who owns what.
	// +required
	Spec IPBlockSpec `json:"spec"`
	// status mirrors the leases on the nodes, seconds late; no address is given or freed on its word.
	// +optional
	Status IPBlockStatus `json:"status,omitzero"`
}

// IPBlockSpec says who owns what.
type IPBlockSpec struct {
	// pool is the name of the pool that the block is part of.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.pool never changes"
	// +required
	Pool string `json:"pool"`

	// poolUID is the UID of that pool: one made later under the same name has nothing to do with this block.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.poolUID never changes"
	// +required
	PoolUID string `json:"poolUID"`

	// slot is the run of addresses that the block is about, as a CIDR.
	// +kubebuilder:validation:MinLength=4
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="spec.slot must be a CIDR without bits right of its mask"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 20 : 116)",message="spec.slot must be /20 or /116 or longer: a block has at most 4096 addresses"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.slot never changes"
	// +required
	Slot string `json:"slot"`

	// shares are the parts of the slot by owner. No address is in two of them; one in none is unowned.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=map
	// +listMapKey=node
	// +listMapKey=nodeUID
	// +optional
	Shares []Share `json:"shares,omitempty"`

	// wants are requests of nodes that have no address left to sharers that may have some. They own nothing.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=node
	// +listMapKey=nodeUID
	// +optional
	Wants []Want `json:"wants,omitempty"`
}

// Share is one node's part of a block.
type Share struct {
	// node is the name of the owner.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Node string `json:"node"`

	// nodeUID is the UID of the owner's Node object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	NodeUID string `json:"nodeUID"`

	// session is the node store that leases from the share. A new store writes its own before it leases.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	Session string `json:"session"`

	// ranges are the addresses of the share.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4096
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=87
	// +kubebuilder:validation:items:Pattern=`^[0-9a-f.:]+([-/][0-9a-f.:]+)?$`
	// +listType=atomic
	// +required
	Ranges []string `json:"ranges"`
}

// Want is one node's request for addresses of the block, and the answer to it.
type Want struct {
	// node is the name of the node that asks.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Node string `json:"node"`

	// nodeUID is the UID of its Node object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	NodeUID string `json:"nodeUID"`

	// session is the node store that asks.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +required
	Session string `json:"session"`

	// from is the node that is asked: one that has a share.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	From string `json:"from"`

	// count is how many addresses would do.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4096
	// +required
	Count int32 `json:"count"`

	// cooling says that addresses which have not rested yet will do.
	// +optional
	Cooling bool `json:"cooling,omitempty"`

	// expires is when nobody waits any more. What was offered is then for whoever comes first.
	// +required
	Expires metav1.MicroTime `json:"expires"`

	// offered are addresses that from has taken out of its share for node, which takes them into its own.
	// +kubebuilder:validation:MaxItems=4096
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=87
	// +listType=atomic
	// +optional
	Offered []string `json:"offered,omitempty"`
}

// IPBlockStatus mirrors the leases on the nodes.
type IPBlockStatus struct {
	// leased, free and cooling are the sums over all sharers.
	// +optional
	Leased int32 `json:"leased"`
	// +optional
	Free int32 `json:"free"`
	// +optional
	Cooling int32 `json:"cooling"`

	// nodes are the figures of each sharer, once.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=atomic
	// +optional
	Nodes []NodeUsage `json:"nodes,omitempty"`

	// leases are those of all sharers, by address, each address once. As a list with keys each lease would be in the object twice: the
	// API server keeps for each writer which entries are its own.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=atomic
	// +optional
	Leases []BlockLease `json:"leases,omitempty"`
}

// NodeUsage is how one sharer uses its share.
type NodeUsage struct {
	// +kubebuilder:validation:MaxLength=253
	// +required
	Node string `json:"node"`
	// +optional
	Leased int32 `json:"leased"`
	// +optional
	Free int32 `json:"free"`
	// +optional
	Cooling int32 `json:"cooling"`
}

// BlockLease is one leased address: where, and for whom.
type BlockLease struct {
	// address is the leased address.
	// +kubebuilder:validation:MaxLength=39
	// +required
	Address string `json:"address"`
	// node is where it is leased.
	// +kubebuilder:validation:MaxLength=253
	// +required
	Node string `json:"node"`
	// network, containerID and ifName are the attachment that holds it.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Network string `json:"network,omitempty"`
	// +kubebuilder:validation:MaxLength=512
	// +optional
	ContainerID string `json:"containerID,omitempty"`
	// +kubebuilder:validation:MaxLength=64
	// +optional
	IfName string `json:"ifName,omitempty"`
	// namespace and pod are whose attachment it is, where known.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pod string `json:"pod,omitempty"`
}

// IPBlockList is a list of blocks.
//
// +kubebuilder:object:root=true
type IPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPBlock `json:"items"`
}
