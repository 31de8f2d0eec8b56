// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma/inventory"
)

// Selects says whether a NIC is one of those that selectors name.
func Selects(s config.Selectors, n inventory.NIC) bool {
	switch {
	case !oneOf(s.Vendors, n.Vendor), !oneOf(s.Devices, n.Device), !oneOf(s.Drivers, n.Driver),
		!oneOf(s.PCIAddresses, string(n.Addr)), !oneOf(s.ACPIIndexes, n.ACPIIndex), !oneOf(s.IfNames, n.NetDevs...),
		!oneOf(s.LinkTypes, n.LinkType), !oneOf(s.PKeys, n.PKey),
		!ranged(s.PFNames, n.PFName, n), !ranged(s.RootDevices, string(n.PF), n):
		return false
	case len(s.AuxTypes) > 0 && (n.Kind != inventory.Subfunction || !slices.Contains(s.AuxTypes, "sf")):
		return false
	}
	return !s.IsRDMA || n.Capable
}

// oneOf says that one of the values is listed; an empty list is no condition.
func oneOf(list []string, values ...string) bool {
	return len(list) == 0 || slices.ContainsFunc(values, func(v string) bool { return slices.Contains(list, v) })
}

// ranged is oneOf for entries such as ens1f0#0-3, which only functions with an index can meet.
func ranged(list []string, name string, n inventory.NIC) bool {
	if len(list) == 0 {
		return true
	}
	return slices.ContainsFunc(list, func(entry string) bool {
		of, in, err := config.SplitRange(entry)
		switch {
		case err != nil || of != name:
			return false
		case of == entry:
			return true
		}
		return n.Kind != inventory.Physical && in(n.Index)
	})
}

func anySelects(list []config.Selectors, n inventory.NIC) bool {
	return slices.ContainsFunc(list, func(s config.Selectors) bool { return Selects(s, n) })
}
