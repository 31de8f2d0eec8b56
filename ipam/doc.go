// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package ipam gives addresses that are unique in a cluster, at the speed of one node. It is a library: the CNI
// plugins use it as a DRA driver, a VM manager or any other program on a node may.
//
// # Two levels
//
// A pool is cut into aligned slots. The IPBlock object of a slot has a name that follows from pool and slot
// (BlockName), so creating it is claiming it, and the object's shares say which node owns which of its addresses.
// That is rare, and goes through the API server. Leases are frequent and local: the node's store gives one address
// of each family from what the node owns, in one transaction on tmpfs, without asking anybody.
//
//	API   IPPool ── IPBlock ── share of a node          rare; the object is the only arbiter of its addresses
//	                              │ acknowledged write
//	node                       holding ── lease         frequent; the store is the only arbiter of the holding
//
// # States
//
// A share, seen from its owner:
//
//	unowned ──create or update──▶ written ──acknowledged──▶ granted ──idle and cooled──▶ retired ──▶ unowned
//	                                 │ no answer: a read decides                           │ repeated until the API
//	                                 ▼                                                     ▼ says that it is gone
//	                              granted or unowned                                  never leased again
//
// A part of a share may go to another node that asks for it (Block.Wants): it is withdrawn, as retired as above, then
// unowned, and then written into the other's share by the other.
//
// An address of a granted share:
//
//	free ──Lease──▶ leased ──Release, Retain, namespace gone──▶ cooling ──cooldown──▶ free
//
// Free addresses queue: those never used first, then the one released longest ago. A cooling address is leased
// only where the node finds no other, neither in its store nor in the pool. Reserved addresses are leased by name
// only (Request.Static), do not queue and do not cool.
//
// # Guarantees
//
//  1. An address is owned by at most one node.
//  2. A node leases only what an acknowledged write says is its own.
//  3. No two live leases hold one address.
//  4. A lease is in the store, where it outlives every process of the node, before Lease answers.
//  5. Every call may be repeated. Lease under one Key gives the same addresses until Release; Release and Retain
//     of what is gone succeed.
//  6. An address is exactly one of free, cooling, leased, reserved, excluded and not granted, and the numbers add
//     up.
//
// Block.Check looks after the first within one object, and the method Check of package store after the others; run
// them after every test.
//
// # What fails, and what then
//
//   - The caller dies before it reads the answer: it, or whoever takes over, asks again under the same Key. If
//     nobody does, the lease ends with its network namespace (Request.NetNS), or else by Release.
//   - The agent is down: package client takes the store's lock and leases from what the node owns. ErrPoolFull
//     then means: not without the agent.
//   - The API server is down: the same, through the agent. Claims wait.
//   - The node reboots: the store is on tmpfs and empty; what the node owns is what the API says, fenced by a new
//     session (Share.Session) before it is leased from.
//   - The store is lost or damaged under live workloads: it is rebuilt from the addresses in the live namespaces
//     before anything is leased; until then the error is ErrUnavailable.
//   - A pool is edited badly, or deleted: it is closed (ErrPoolClosed); leases live on.
//
// # How to use it
//
// Leaser is the whole interface. A program on a node takes package client, which finds the agent's socket (package
// wire has the protocol, for other languages) or the store. A program that is itself the node's agent takes
// package store, or all of package agent. Which error means what is with the sentinels, ErrInvalid to
// ErrUnavailable: errors.Is works the same on both sides of the socket, and so does errors.As for a FieldError.
//
// Any Key will do that the caller never uses for something else; a DRA driver might take the claim's UID as
// ContainerID, and a VM manager the machine's, with no NetNS, and call Release.
package ipam
