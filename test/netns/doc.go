// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package netns holds the conformance tests of the railyard plugin: they execute the built binary, as a container
// runtime would, in network namespaces that they make. A host is a namespace of its own, with a state folder of its
// own, so any number of tests may run at once, and the machine's namespace is never touched. They need root.
//
// TestConformance has a section for each part of the contract: A the protocol, B what ADD makes, C what a failed or
// killed call leaves, D DEL in every hard case, E CHECK, F STATUS and GC, H many at once.
package netns
