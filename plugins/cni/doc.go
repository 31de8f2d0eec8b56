// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package cni is the railyard plugin: one attachment of a pod to a rail, or to several, in one call. The paper
// docs/design/0003-attachments.md has the steps, the kinds of link, and what is left after each way to fail.
//
// # Protocol
//
// ADD decides first and acts then. It resolves the master, looks that the interface's name is free in the pod, and
// makes a plan: the link with its name, MAC and MTU, or the device with all that it is on the host; the source of its
// addresses, the settings and their old values. A config of several rails has all that for each of them.
// Nothing has happened yet that must be undone, and most of what can be wrong has been refused. The plan goes to the
// attachment's journal in one write, and only then come the deeds: the link, made by one netlink request directly in
// the pod's namespace; the addresses; the settings; up; the routes; the device information. A second write completes
// the journal with the result. Whatever fails on the way, all of it is undone, and the first error is the answer.
//
// DEL is driven by the journal alone. Stdin may be stripped to cniVersion, name, type and ipam.type, the namespace
// may be gone, unnamed or no namespace, and the agent may be away. Links and settings in the pod end with its namespace,
// so a dead one needs nothing. A lease that cannot be released within two seconds is left to the agent, which ends
// it with the namespace. Another IPAM plugin has nobody to do that for it, so its failure keeps the journal and is
// DEL's failure, after all the rest is undone.
//
// CHECK compares the journal with the kernel. GC undoes the attachments of its network that are not in the list,
// in-between ones included, unless somebody works on them at this moment. STATUS looks for the master, the state
// folder and room in the pool.
//
// # Announcement and duplicate address detection
//
// Before the interface is up it gets arp_notify and ndisc_notify, so the kernel itself sends a gratuitous ARP and an
// unsolicited neighbour advertisement for every address when it comes up, now and after each flap. Duplicate address
// detection is off (accept_dad=0): uniqueness is the address management's to guarantee, the MAC is the
// attachment's own, and a pod must not wait seconds for it. ADD answers when no address is tentative.
//
// # The master
//
// A master that is down is brought up, as users of other plugins expect of the rails they never configured; it stays
// up, since other attachments may stand on it by then.
package cni
