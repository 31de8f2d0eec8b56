// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package inventory is what a machine has to hand out, at one moment: its NICs (physical, virtual and sub-functions) with their RDMA
// devices, its GPUs, and the PCI tree that both hang on. It knows no plugin API: device plugins, a DRA driver and a diagnosis stand on it.
//
//	Read(sysfs, GPUs) ─▶ Snapshot{NICs, GPUs, Tree}
//
// # Devices that are in a pod
//
// A NIC whose interface or RDMA device was moved into a pod's network namespace is still on the machine, and still listed: its PCI function
// stays where it is. What goes with the namespace is no longer seen: [NIC.NetDevs] and [NIC.RDMA] are empty then. What the function itself shows,
// stays: [NIC.Capable], [NIC.Files], [NIC.LinkType], its place and its physical function. Whoever selects by what goes must remember.
//
// # Guarantees
//
//  1. Nothing is cached, and nothing on the machine is changed.
//  2. What could be read is returned beside the errors of what could not.
//  3. NICs are by PCI address, sub-functions after the others by name.
package inventory
