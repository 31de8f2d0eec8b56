// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugins into the folder from which a node's container runtime executes them, and takes them away again.
//
// A plugin is replaced in one step, so a runtime that executes it meanwhile gets the old one or the new one, whole; and only after the
// new one, as it lies in that folder, has answered VERSION. What is there already, byte by byte, is left alone. The file keeps the
// SELinux label of the one in whose place it comes. Nothing else on the node is written: no network configuration, no credential.
//
// Find says which folder that is, from the configuration of the runtime that runs.
//
// Remove takes away only what Install put there, and refuses while the node has attachments or leases, whose DEL needs it.
package install
