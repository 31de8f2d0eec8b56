// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package store is a node's lease store: one bbolt file on tmpfs that is itself the allocator's data structure.
//
// # Who allocates
//
// Whoever holds the file's lock. The agent holds it for life; while the agent is down, any process that needs a
// lease opens the file, does its transaction and closes it again (package client does so). There is no copy of
// the state in memory that could differ from the file, so the allocator can change hands between any two
// transactions, and a process may be killed at any point: a transaction is there as a whole or not at all.
//
// The file is not synced to a disk. It lives as long as the boot, as the network namespaces do that it describes:
// a file of another boot is put aside, and so is a damaged one. Fresh then says that whatever lives on the node
// has to be looked at before anything new is leased.
//
// # What an address is
//
// An address reaches the store by Grant, which records what an acknowledged write to the API said is this node's.
// From there on it is
//
//	free    in the queue of its pool and family: never used, or rested for the pool's cooldown
//	cooling in the same queue, released less than a cooldown ago
//	leased  held by exactly one key
//	named   granted, but reserved: given to whoever asks for it by name, and never queued
//
// The queue is first in, first out; addresses that were never used come before all others. Retire, Withdraw and
// WithdrawFree take addresses out of it for good before the API is told that they are another's, so no crash in between can
// make two nodes lease the same address. An address that is leased when its grant goes away stays leased;
// Check reports it, and it does not return to the queue.
//
// # The file
//
//	meta      schema, boot, session, node, uid, fresh
//	pools     name → Pool as JSON
//	holdings  block → what was granted, as JSON
//	leases    network \0 containerID \0 ifName → Lease as JSON
//	addrs     pool \0 address(16) → 'L' key, or 'F' time(8)
//	free      pool \0 '4'|'6' time(8) address(16) → nothing
//
// Times are CLOCK_BOOTTIME nanoseconds, big endian; 0 means never used.
package store
