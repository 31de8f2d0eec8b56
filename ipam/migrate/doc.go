// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package migrate takes over the addresses that whereabouts or nv-ipam gave, such that none of them is free a second
// time for a moment. docs/design/0006-migration.md has the whole argument.
//
// # How
//
// The old management stops giving addresses; [Migration.Apply] refuses to begin while it can see that it does not. Then
// the IPPools are made, closed to every node. Whatever pods may have, by the old objects and by the pods' own
// status, becomes a hold in the block of its slot ([ipam.Hold]): a share that no node owns, so that no node can claim or
// lease the address. Of nv-ipam, whose objects say no more than which node has which block, the rest of each block becomes that node's share, under a
// session that is not its store's: its agent looks into the live network namespaces before it leases from such a share.
// All is read again until nothing new is found, and only then the pools are opened.
//
// A hold ends when its pod has gone, see [Setup].
//
// Every step may be repeated, and a run that died is finished by the next one: until the end the pools are closed.
package migrate
