// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// FinalizerBlocks keeps a pool until its last block is gone. The controller adds it before it accepts a pool.
	FinalizerBlocks = "ipam.railyard.dev/blocks"

	// ConditionAccepted says whether nodes may lease from a pool. It counts only for the generation it names.
	ConditionAccepted = "Accepted"
	// ConditionNodesLost says that addresses are held back because the nodes that own them are gone.
	ConditionNodesLost = "NodesLost"
)

// Reasons of ConditionNodesLost.
const (
	// ReasonQuarantine: they are given back when the message says.
	ReasonQuarantine = "Quarantine"
	// ReasonNone: there are none any more.
	ReasonNone = "None"
)

// Reasons of ConditionAccepted.
const (
	// ReasonAccepted: nodes that the pool selects may lease from it.
	ReasonAccepted = "Accepted"
	// ReasonInvalid: the spec contradicts itself; the message names each field.
	ReasonInvalid = "Invalid"
	// ReasonOverlaps: another pool of the same domain has the addresses.
	ReasonOverlaps = "Overlaps"
	// ReasonLeftover: blocks of a pool that is gone still hold the name or the addresses.
	ReasonLeftover = "Leftover"
	// ReasonDeleting: the pool waits for its last block.
	ReasonDeleting = "Deleting"
)

// IPPool is a set of addresses that the nodes of a cluster share: IPv4, IPv6 or both.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipp,categories=railyard
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.spec.ipv4.subnet`
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.spec.ipv6.subnet`
// +kubebuilder:printcolumn:name="Capacity",type=string,description="Addresses to lease, IPv4/IPv6",JSONPath=`.status.capacity`
// +kubebuilder:printcolumn:name="Leased",type=string,description="Addresses leased, IPv4/IPv6",JSONPath=`.status.leased`
// +kubebuilder:printcolumn:name="Owned",type=string,description="Addresses owned by nodes, IPv4/IPv6",JSONPath=`.status.owned`,priority=1
// +kubebuilder:printcolumn:name="Blocks",type=integer,JSONPath=`.status.blocks`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`,priority=1
// +kubebuilder:printcolumn:name="Domain",type=string,JSONPath=`.spec.domain`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="metadata.name is longer than 63 characters: it is a label value and starts the names of the pool's blocks, so shorten it"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() > 63 || self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must be a DNS label: lower case letters, digits and dashes, no dot"
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the pool should be.
	// +required
	Spec IPPoolSpec `json:"spec"`
	// status is what the controller found.
	// +optional
	Status IPPoolStatus `json:"status,omitzero"`
}

// IPPoolSpec is what a person writes.
//
// +kubebuilder:validation:XValidation:rule="has(self.ipv4) || has(self.ipv6)",message="spec names neither ipv4 nor ipv6: give at least one of them a subnet"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.ipv4) || has(self.ipv4)",fieldPath=".ipv4",message="spec.ipv4 cannot be removed, nodes may hold its addresses: make a new pool"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.ipv6) || has(self.ipv6)",fieldPath=".ipv6",message="spec.ipv6 cannot be removed, nodes may hold its addresses: make a new pool"
// +kubebuilder:validation:XValidation:rule="!has(self.ipv4) || !isCIDR(self.ipv4.subnet) || cidr(self.ipv4.subnet).ip().family() == 4",fieldPath=".ipv4.subnet",message="spec.ipv4.subnet is IPv6: move it to spec.ipv6"
// +kubebuilder:validation:XValidation:rule="!has(self.ipv6) || !isCIDR(self.ipv6.subnet) || cidr(self.ipv6.subnet).ip().family() == 6",fieldPath=".ipv6.subnet",message="spec.ipv6.subnet is IPv4: move it to spec.ipv4"
// +kubebuilder:validation:XValidation:rule="!has(self.defaultRoute) || !self.defaultRoute || ((!has(self.ipv4) || has(self.ipv4.gateway)) && (!has(self.ipv6) || has(self.ipv6.gateway)))",fieldPath=".defaultRoute",message="spec.defaultRoute needs spec.ipv4.gateway and spec.ipv6.gateway for the families that the pool has: name them, or leave defaultRoute out"
type IPPoolSpec struct {
	// domain names the fabric that the addresses belong to. Pools of one domain must not overlap; pools of
	// different domains may use the same subnet. It never changes.
	// +kubebuilder:default=default
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.domain never changes: make a new pool"
	// +optional
	Domain string `json:"domain,omitempty"`

	// ipv4 are the IPv4 addresses. It may be added later, never removed.
	// +optional
	IPv4 *Subnet `json:"ipv4,omitempty"`

	// ipv6 are the IPv6 addresses. It may be added later, never removed.
	// +optional
	IPv6 *Subnet `json:"ipv6,omitempty"`

	// routes are installed on every interface with an address of the pool.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Routes []Route `json:"routes,omitempty"`

	// defaultRoute adds a default route through the gateway of each family.
	// +optional
	DefaultRoute bool `json:"defaultRoute,omitempty"`

	// cooldownSeconds is how long a released address rests before it is leased again, unless no other is free.
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	CooldownSeconds *int32 `json:"cooldownSeconds,omitempty"`

	// watermarks say how many addresses each node keeps at hand. What is left out follows from the size of the pool and
	// the number of nodes that use it.
	// +optional
	Watermarks *Watermarks `json:"watermarks,omitempty"`

	// detectConflicts has each node ask the neighbours for an address (ARP, NDP) before a pod gets it. One that somebody
	// answers for who has it not from a pool is held back for ten minutes, with an Event on the pod, and the pod gets another. It
	// costs each pod's start some 200 ms.
	// +optional
	DetectConflicts bool `json:"detectConflicts,omitempty"`

	// sticky has addresses follow who outlives a pod: its next pod gets the same, on whatever node. Left out, they follow nobody. It costs
	// each pod's start some requests to the API server, without which a pod of the pool cannot start.
	// +optional
	Sticky *Sticky `json:"sticky,omitempty"`

	// nodeSelector selects the nodes that may lease from the pool; empty is all of them. A node that no longer
	// matches keeps what is leased on it and gets nothing new.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// namespaceSelector selects the namespaces whose pods may lease from the pool, by the labels of the namespace; empty is all of
	// them. Whoever names the pool in a network elsewhere gets nothing. What is leased stays when a namespace no longer matches.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
}

// Sticky says whom addresses follow.
type Sticky struct {
	// for are the kinds of holders: IPAMClaim, of ipamclaims.k8s.cni.cncf.io, for a pod whose network annotation names one
	// (ipam-claim-reference); StatefulSet, for each pod of one, by its name.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPAMClaim;StatefulSet
	// +listType=set
	// +required
	For []string `json:"for"`

	// holdSeconds is how long the addresses of a StatefulSet's pod are kept after the set has been deleted, or scaled down below that pod.
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	// +optional
	HoldSeconds *int32 `json:"holdSeconds,omitempty"`
}

// Watermarks say how many addresses of each family a node keeps at hand.
//
// +kubebuilder:validation:XValidation:rule="!has(self.low) || !has(self.high) || self.low <= self.high",fieldPath=".high",message="watermarks.high is less than watermarks.low: what goes back would be claimed again at once"
type Watermarks struct {
	// low is how many free addresses a node that uses the pool has at least before it claims the next block ahead of
	// need; 0 is never. Default: a quarter of a block where the pool has two blocks for each node that uses it, else 0.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65536
	// +optional
	Low *int32 `json:"low,omitempty"`

	// high is how many free addresses stay on the node when an empty block goes back. Default: half a block.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65536
	// +optional
	High *int32 `json:"high,omitempty"`

	// keepLast has a node keep its last block though nothing is leased from it. Default: true where the pool has a
	// block for each node that uses it.
	// +optional
	KeepLast *bool `json:"keepLast,omitempty"`
}

// Subnet is one family of a pool.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.subnet) || !has(self.ranges) || self.ranges.all(r, r.split('-').all(a, isCIDR(a) ? cidr(self.subnet).containsCIDR(a) : (!isIP(a) || cidr(self.subnet).containsIP(a))))",fieldPath=".ranges",message="ranges must lie inside of subnet: move or shorten the one that does not"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.subnet) || !has(self.exclude) || self.exclude.all(r, r.split('-').all(a, isCIDR(a) ? cidr(self.subnet).containsCIDR(a) : (!isIP(a) || cidr(self.subnet).containsIP(a))))",fieldPath=".exclude",message="exclude must lie inside of subnet: move or shorten the one that does not"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.subnet) || !has(self.reserved) || self.reserved.all(r, r.split('-').all(a, isCIDR(a) ? cidr(self.subnet).containsCIDR(a) : (!isIP(a) || cidr(self.subnet).containsIP(a))))",fieldPath=".reserved",message="reserved must lie inside of subnet: move or shorten the one that does not"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.subnet) || !has(self.gateway) || !isIP(self.gateway) || cidr(self.subnet).containsIP(self.gateway)",fieldPath=".gateway",message="gateway must lie inside of subnet: a next hop is a neighbour"
type Subnet struct {
	// subnet is the layer-2 segment as a CIDR; addresses get its prefix length. It never changes.
	// +kubebuilder:validation:MinLength=4
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="subnet is not a CIDR such as 10.20.0.0/16 or fd00:20::/64 (IPv4-mapped IPv6 is written as IPv4)"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="subnet has bits set right of its mask: write its first address"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= 8",message="subnet is too wide: use /8 or longer"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || !(cidr(self).ip().isLoopback() || cidr('224.0.0.0/4').containsCIDR(self) || cidr('ff00::/8').containsCIDR(self) || cidr('fe80::/10').containsCIDR(self))",message="subnet is multicast, loopback or link-local: use addresses that hosts may own"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="subnet never changes: make a new pool"
	// +required
	Subnet string `json:"subnet"`

	// ranges are the addresses to lease; empty is the whole subnet. Ranges may be added at any time. What is
	// taken away drains: leases stay, and nothing new is leased there.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Ranges []AddressRange `json:"ranges,omitempty"`

	// exclude are addresses that are never leased.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Exclude []AddressRange `json:"exclude,omitempty"`

	// reserved are addresses that are leased only to who asks for one by name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Reserved []AddressRange `json:"reserved,omitempty"`

	// gateway is the next hop for routes that name none. It is never leased.
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="gateway is not an IP address (IPv4-mapped IPv6 is written as IPv4)"
	// +optional
	Gateway string `json:"gateway,omitempty"`

	// blockSize is how many addresses a node claims at once: a power of two from 1 to 4096, and never more than
	// the subnet has. It never changes.
	// +kubebuilder:default=64
	// +kubebuilder:validation:Enum=1;2;4;8;16;32;64;128;256;512;1024;2048;4096
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="blockSize never changes: make a new pool"
	// +optional
	BlockSize int32 `json:"blockSize,omitempty"`
}

// AddressRange is an address, a CIDR, or two addresses as from-to (inclusive).
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=87
// +kubebuilder:validation:XValidation:rule="isIP(self) || isCIDR(self) || (self.split('-').size() == 2 && self.split('-').all(a, isIP(a)))",message="not an address, a CIDR, or from-to such as 10.20.0.10-10.20.0.99 (no blanks; IPv4-mapped IPv6 is written as IPv4)"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="the CIDR has bits set right of its mask: write its first address"
type AddressRange string

// Route is one route of a pool.
type Route struct {
	// dst is the destination as a CIDR.
	// +kubebuilder:validation:MinLength=4
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="dst is not a CIDR such as 10.0.0.0/8 or ::/0"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="dst has bits set right of its mask: write its first address"
	// +required
	Dst string `json:"dst"`

	// via is the next hop; empty is the gateway of dst's family.
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="via is not an IP address"
	// +optional
	Via string `json:"via,omitempty"`
}

// IPPoolStatus is what the controller found. Figures are IPv4/IPv6 where a pool has both families, are refreshed
// every few seconds, and nothing is decided on them.
type IPPoolStatus struct {
	// observedGeneration is the generation of the spec that the conditions are about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// granted are the subnets that the pool was accepted with. They stay the pool's until it is gone, whatever
	// becomes of the condition, because nodes may hold their addresses.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=43
	// +listType=atomic
	// +optional
	Granted []string `json:"granted,omitempty"`

	// namespaces are those that spec.namespaceSelector selects now, in order; nodes go by this list.
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=atomic
	// +optional
	Namespaces []string `json:"namespaces,omitempty"`

	// capacity is how many addresses can be leased; ~2^n from 2^53 on.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Capacity string `json:"capacity,omitempty"`

	// owned is how many of them blocks give to nodes.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Owned string `json:"owned,omitempty"`

	// leased is how many of them pods hold.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Leased string `json:"leased,omitempty"`

	// draining is how many addresses nodes still own that the pool does not lease any more: what ranges or reserved lost, or exclude or gateway
	// gained. It falls as the pods that have them end.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Draining string `json:"draining,omitempty"`

	// blocks is how many blocks the pool has.
	// +optional
	Blocks int32 `json:"blocks"`

	// nodes is how many nodes own addresses of the pool.
	// +optional
	Nodes int32 `json:"nodes,omitempty"`

	// conditions: Accepted; NodesLost, where nodes that own addresses are gone.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}
