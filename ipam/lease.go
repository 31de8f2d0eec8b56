// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"net/netip"
	"time"
)

// Key names one attachment. It is the idempotence key of every call: leasing twice under one key gives the same
// answer, releasing twice is fine.
type Key struct {
	// Network is the "name" of the CNI config (of the NetworkAttachmentDefinition), or any name of the caller's.
	Network string `json:"network"`
	// ContainerID is the sandbox's ID, or any ID that the caller never uses for something else.
	ContainerID string `json:"containerID"`
	// IfName tells several attachments of one container to one network apart.
	IfName string `json:"ifName"`
}

// Pod says for whom an address is held, for people who look; nothing is decided on it.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Request asks for one address of each family of a pool.
type Request struct {
	Key  Key    `json:"key"`
	Pool string `json:"pool"`
	// NetNS is the namespace whose life bounds the lease. The zero NetNS: only Release ends it.
	NetNS NetNS `json:"netns,omitzero"`
	// Static are addresses asked for by name, at most one a family, from the pool's reserved ranges. A family
	// without one is served from the ordinary ranges.
	Static []netip.Addr `json:"static,omitempty"`
	Pod    Pod          `json:"pod,omitzero"`
	// Attachment is the interface that the pod asked for, where that is another than Key.IfName, as for the further rails of a network.
	Attachment string `json:"attachment,omitempty"`
	// Settled: who asks the store has found that the pod is none whose addresses follow it. It does not pass the socket.
	Settled bool `json:"-"`
}

// Address is one leased address with what its subnet says about it.
type Address struct {
	// Prefix is the address with its subnet's length, e.g. 10.20.0.7/16.
	Prefix netip.Prefix `json:"prefix"`
	// Gateway is the subnet's, or invalid where the pool names none.
	Gateway netip.Addr `json:"gateway,omitzero"`
}

// Route is one that the pool asks its users to install.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	// Via is the next hop; invalid means the link itself.
	Via netip.Addr `json:"via,omitzero"`
}

// Lease is one attachment's hold on its addresses: both families or none.
type Lease struct {
	Key       Key       `json:"key"`
	Pool      string    `json:"pool"`
	Addresses []Address `json:"addresses"` // IPv4 first
	Routes    []Route   `json:"routes,omitempty"`
	NetNS     NetNS     `json:"netns,omitzero"`
	Pod       Pod       `json:"pod,omitzero"`
	// Probe: ask the neighbours before the addresses are used, and Decline one that somebody answers for.
	Probe bool `json:"probe,omitempty"`
	// Reservation is the IPReservation that the addresses are of; empty: they are the node's own.
	Reservation string `json:"reservation,omitempty"`
	// Since is wall-clock time and for people only; the store counts cooldowns on the boot clock.
	Since time.Time `json:"since"`
}

// Conflict is a foreign owner of an address.
type Conflict struct {
	Address netip.Addr `json:"address"`
	// Neighbour is its link-layer address, for people.
	Neighbour string `json:"neighbour,omitempty"`
}

// Validate refuses what is no address.
func (c Conflict) Validate() error {
	if !c.Address.IsValid() {
		return &FieldError{Field: "conflict.address", Detail: "is missing"}
	}
	return checkText("conflict.neighbour", c.Neighbour, 0, MaxIfName)
}

// ConflictNetwork is in the keys of addresses that are held back. It cannot be the name of a CNI network.
const ConflictNetwork = "(conflict)"

// ConflictKey is the key under which the address of the pool is held back.
func ConflictKey(pool string, c Conflict) Key {
	return Key{Network: ConflictNetwork, ContainerID: pool + "." + c.Address.String(), IfName: cmp.Or(c.Neighbour, "-")}
}

// Leaser is what this library offers another program, however it is reached: in process (agent.Agent), over the
// agent's socket with the store as fall-back (client.Client), or on the store alone (store.Store).
type Leaser interface {
	// Lease gives the lease under req.Key, the same one however often it is called. Once it has answered, the
	// lease outlives every process of the node.
	Lease(ctx context.Context, req Request) (Lease, error)
	// Release ends the lease under k. Nothing under k is success.
	Release(ctx context.Context, k Key) error
	// Lookup gives the lease under k, or ErrNotFound.
	Lookup(ctx context.Context, k Key) (Lease, error)
	// Decline ends the lease under k because a neighbour that leased nothing answers for one of its addresses, which is
	// then held back under ConflictKey until Release, or until the agent gives it another chance. The others are free
	// again. Nothing under k is ErrNotFound.
	Decline(ctx context.Context, k Key, c Conflict) error
	// Retain ends every lease of the network whose key is not in keep, and says how many. Other networks are
	// not touched.
	Retain(ctx context.Context, network string, keep []Key) (int, error)
	// Ready says whether a lease from pool could be had now: nil, or one of the errors that Lease would give.
	Ready(ctx context.Context, pool string) error
}
