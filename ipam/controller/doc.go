// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package controller watches over pools: it says which of them nodes may lease from, keeps a pool until its last
// block is gone, and counts. It is not on the way of any ADD: nodes that know a pool go on without it.
//
// # What makes a pool accepted
//
// The spec can be parsed; no other pool of its domain has one of its subnets; and no block is left of a pool that
// is gone, under its name or on its addresses. The subnets with which a pool was accepted are kept in
// status.granted and are its own until it is gone, whatever its condition says later, since nodes may hold their
// addresses. Among pools that were not granted yet the older wins, then the first by name.
//
// Decisions are made one at a time, on the pools as the API server has them and not as a cache does, by the one
// controller that holds the leader lease. The finalizer is on a pool before the condition is.
//
// # Deletion
//
// A pool that is being deleted gives nothing new at once (nodes look at the deletion timestamp). The finalizer goes
// when the API server lists no block, and not before Options.Grace has passed, in which nodes learn of the deletion.
//
// # Lost nodes
//
// A node is lost when its Node object is gone or another's of that name, or has the taint
// node.kubernetes.io/out-of-service. What it owns stays its own for Options.Quarantine, in which one controller must find it lost at
// every look, and for as long as a pod is bound to it; then it is given back. The condition NodesLost says of what, and until
// when. Docs/design/0008-lost-nodes.md has the reasons.
//
// # Reservations
//
// An IPReservation whose holder is gone, and which no node uses, ends after the pool's hold time: it is deleted under its version, so that a
// use which begins at that moment wins; then its addresses leave the blocks, and then its finalizer goes. The use of a lost node ends by
// the rules above. Holds that somebody has removed by hand are put back where nobody owns the address, and holds without a reservation
// end after the quarantine. The status of an IPAMClaim says which addresses it has, and which pod has them. Docs/design/0010-sticky.md has
// the reasons.
package controller
