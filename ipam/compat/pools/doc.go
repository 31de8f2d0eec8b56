// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package pools makes the IPPools that whereabouts' configs mean, see package compat, and removes those that no config
// means any more once no node has an address of them.
//
// A pool is this controller's if it bears [Label]. One of the same name without it is somebody's own: it is used as it
// is, and never written. Of its own pools, the controller writes the gateways, which are no address to give; what a
// person adds to one stays.
//
// # Beside whereabouts
//
// While the API server serves whereabouts' objects, addresses of a range may be in use that no IPPool knows. So a pool
// is made closed then ([Close]), and the migration opens it, after it has fenced them.
//
// # What is said
//
// An Event on the NetworkAttachmentDefinition says that its ipam section cannot be read, that its pool is not accepted,
// or that the pool waits for the migration.
package pools
