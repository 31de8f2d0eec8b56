// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package agent keeps one node's addresses: it is the ipam.Leaser that other programs of the node reach through a
// socket, and the only writer of what the API says that the node owns.
//
// # What it does
//
// A lease is served from the store (package store) alone: no API request, one write to a file on tmpfs. Only where
// the store has no room does the agent claim a block (package claim), once for however many callers wait for it;
// and ahead of need, at the pool's low watermark. Where the pool has no block either, it asks other nodes for addresses and
// has the caller wait for them. While the API server cannot be reached, leases go on from what the node owns.
//
// Beside that run five loops:
//
//   - sync compares the store with the API and brings them together, see below;
//   - collect ends leases whose network namespace is gone, seen twice with a grace time between;
//   - mirror writes changed leases into the status of their blocks, for people to see, and as a hint of keys in a recovery;
//   - return gives blocks back that have long been empty;
//   - trade cedes addresses to nodes that ask for them, and takes back wants that nobody here waits for any more.
//
// # What a node owns
//
// The store leases only from holdings: what an acknowledged write to a block object said is the node's, under the
// session of this very store. Sync compares each holding with its block in the watch cache, and acts on a
// difference only after a live read has confirmed it, because the cache may be behind the node's own writes:
//
//   - a share of this session without a holding (a write whose answer was lost) is adopted;
//   - a share of another session of this node (a reboot, a lost store) is fenced first: the session is written
//     into it, so that no write of the old one can succeed any more. Then the live network namespaces are searched
//     for its addresses, which are leased to those who use them before any other is given out;
//   - a share that shrank changes its holding alike; what it grew by is given back, because it may be on its way back;
//   - a share that somebody else removed is not leased from any more, and if addresses in it are in use it is
//     claimed again at once. What cannot be had back is counted as lost;
//   - a block that has been given back is retired in the store first, so that no lease can come from it while the
//     API is written, and forgotten only after the API says that the share is gone. A retired block is never taken
//     back into use, so a write that arrives late does no harm.
//
// # Ceding
//
// A request for addresses is a want in the block that holds them, for one of its sharers. That one withdraws free
// addresses from its store, which never leases them again, and then takes them out of its share, with a word in the
// want for whom that is. The asker, whose watch shows it, takes into its own share what nobody owns there. So each node
// writes its own share only, and leases only what its own write was acknowledged to have made its own; a want and its
// answer give nothing. What was withdrawn and could not be offered is shed. docs/design/0005-ceding.md has the states,
// and every crash and race; the tests of this package explore them all on small clusters.
//
// Every step may be repeated, and a process that dies between two of them leaves a state from which sync goes on.
package agent
