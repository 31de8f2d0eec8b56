// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package topology says where the PCI functions of a machine are, how far it is from one to another, and which NIC goes
// with which GPU. It is a library: a device plugin hands out GPUs with their NICs by it, a diagnosis draws it.
//
// # Three steps, each a value
//
//	Read(sysfs) ─▶ Tree ──Path──▶ Path{Class, Hops}     between two functions
//	                    ──Pair──▶ []Pair                GPUs and NICs, matched
//	                    ──Matrix─▶ text                 as nvidia-smi topo -m shows it
//
// [Read] takes an [fs.FS] rooted at /sys that can read links, such as os.DirFS("/sys"), and is all that looks at the
// machine. A [Tree] does not change; what is computed from it depends on nothing else. No driver, no library of a vendor
// and no privilege is needed for that. A process without CAP_SYS_ADMIN gets the first 64 bytes of a configuration space from
// the kernel, and then ACS and ATS are [Unknown].
//
// # Classes
//
// A [Class] is what nvidia-smi topo and NCCL call the way between two devices, from near to far:
//
//	PIX   at most one switch
//	PXB   several switches, and no host bridge
//	P2C   from the GPU over NVLink-C2C to its processor, from there over PCIe to the NIC
//	PHB   by way of their common host bridge
//	NODE  two host bridges of one NUMA node
//	SYS   between NUMA nodes
//
// Up to P2C a NIC reaches the memory of a GPU directly by NCCL's defaults; further away the data takes a turn through the
// memory of the machine. A virtual function counts as its physical one. A NIC with Data Direct has one more function, beside
// the GPU, which carries the data: the nearer of the two is its place.
//
// # Guarantees
//
//  1. Order is the same for the same state of the machine, and for the same GPUs and NICs in any order.
//  2. What could be read is returned beside the errors of what could not; each is a [*FunctionError]. What is not known has
//     a value that says so, and is never taken for good news.
//  3. A machine without PCI has an empty tree, which is no error.
//  4. [Tree.Pair] finds the best of all matchings by the order that stands there, not just a good one.
//
// The design is docs/design/0004-topology.md.
package topology
