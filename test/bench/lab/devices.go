// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Second is another master, for attachments of two rails; AddDevices makes it.
const Second = "rail1"

// Device is the name of a link that a pod can have for itself; AddDevices makes one for each.
func Device(slot int) string { return fmt.Sprintf("dev%d", slot) }

// AddDevices makes Second and the devices: veths whose other ends lead nowhere.
func (l *Lab) AddDevices() error {
	add := func(name, peer string) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		return setUp(peer)
	}
	if err := add(Second, "port1"); err != nil {
		return err
	}
	if err := setUp(Second); err != nil {
		return err
	}
	for i := range l.Pods {
		if err := add(Device(i), fmt.Sprintf("devport%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// HasIPvlan tries out whether the kernel has ipvlans. It needs Second.
func HasIPvlan() bool {
	parent, err := netlink.LinkByName(Second)
	if err != nil {
		return false
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "try0", parent.Attrs().Index
	link := &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
	return netlink.LinkAdd(link) == nil && netlink.LinkDel(link) == nil
}

// Addressed says what is missing of an interface that is up with a global IPv4 address.
func (p Pod) Addressed(ifName string) error {
	link, err := p.handle.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Path, ifName, err)
	}
	addrs, err := p.handle.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || link.Attrs().Flags&1 == 0 {
		return fmt.Errorf("%s: %s has %d addresses and the flags %s: %w", p.Path, ifName, len(addrs), link.Attrs().Flags, err)
	}
	return nil
}

// Lacks says whether the interface is gone.
func (p Pod) Lacks(ifName string) error {
	if _, err := p.handle.LinkByName(ifName); err == nil {
		return fmt.Errorf("%s: %s is left", p.Path, ifName)
	}
	return nil
}
