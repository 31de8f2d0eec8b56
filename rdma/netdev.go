// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// OfNetDev returns the devices under a network interface, in the order given: those on its hardware, those that were made on it,
// and those with a port that is its. If there is none and it stands on other interfaces (a VLAN, a bond), those under them: a
// bond of two cards without RoCE LAG has two. It is an ErrNotFound if the sysfs has no such interface.
func OfNetDev(sys fs.FS, devices []Device, name string) ([]Device, error) {
	under := map[string]bool{}
	if err := underNetDev(sys, devices, name, under, map[string]bool{}); err != nil {
		return nil, err
	}
	var found []Device
	for _, d := range devices {
		if under[d.Name] {
			found = append(found, d)
		}
	}
	return found, nil
}

// underNetDev puts the names of the devices into under.
func underNetDev(sys fs.FS, devices []Device, name string, under, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	bus, err := netDevBus(sys, name)
	if err != nil {
		return err
	}
	found := false
	for _, d := range devices {
		if bus != "" && d.Bus == bus || d.Parent == name || d.has(name) {
			under[d.Name], found = true, true
		}
	}
	if found {
		return nil
	}
	// lower_NAME, netdev_adjacent_sysfs_add in net/core/dev.c; only those in the same namespace.
	entries, err := list(sys, path.Join("class/net", name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if lower, ok := strings.CutPrefix(e, "lower_"); ok {
			if err := underNetDev(sys, devices, lower, under, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// has says that the interface is a port's.
func (d Device) has(netdev string) bool {
	return slices.ContainsFunc(d.Ports, func(p Port) bool { return slices.Contains(p.NetDevs, netdev) })
}
