// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package bare makes and removes a macvlan with addresses in a network namespace by netlink, and does nothing else: no
// configuration, no IPAM, no journal, no announcement, no waiting. It is the benchmark's floor.
package bare

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is one macvlan in bridge mode, from a master in the caller's namespace to the namespace at a path.
type Link struct {
	NetNS, IfName, Master string
	Addresses             []netip.Prefix
}

// Add makes the link inside of the namespace, gives it the addresses and sets it up.
func (l Link) Add() error {
	ns, err := netns.GetFromPath(l.NetNS)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.NetNS, err)
	}
	defer ns.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	master, err := host.LinkByName(l.Master)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.Master, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = l.IfName, master.Attrs().Index, netlink.NsFd(int(ns))
	if err := host.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		return fmt.Errorf("make %s: %w", l.IfName, err)
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", l.NetNS, err)
	}
	defer pod.Close()
	link, err := pod.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.IfName, err)
	}
	for _, p := range l.Addresses {
		ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := pod.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, l.IfName, err)
		}
	}
	if err := pod.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", l.IfName, err)
	}
	return nil
}

// Del removes the link.
func (l Link) Del() error {
	ns, err := netns.GetFromPath(l.NetNS)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.NetNS, err)
	}
	defer ns.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", l.NetNS, err)
	}
	defer pod.Close()
	link, err := pod.LinkByName(l.IfName)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.IfName, err)
	}
	if err := pod.LinkDel(link); err != nil {
		return fmt.Errorf("delete %s: %w", l.IfName, err)
	}
	return nil
}
