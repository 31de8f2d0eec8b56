// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Discover returns the RDMA devices that the sysfs shows, by bus address, software devices first. A kernel without RDMA has none.
//
// A device of which anything can't be read is left out, and the error, one of several that are joined, names it and the file;
// the others are returned all the same. Who looks for one device need not fail unless that is missing. A file of a class of
// character devices that can't be read is told in the same way, and then whose it is can't be known.
func Discover(sys fs.FS) ([]Device, error) {
	return discover(sys, func(BusAddr) bool { return true })
}

// DiscoverAt is Of on what Discover finds, without reading the other devices: asking a port for its state may cost a command to
// the firmware, and a card may have hundreds of functions.
func DiscoverAt(sys fs.FS, bus BusAddr) ([]Device, error) {
	return discover(sys, func(b BusAddr) bool { return b == bus && bus != "" })
}

func discover(sys fs.FS, want func(BusAddr) bool) ([]Device, error) {
	names, err := list(sys, "class/infiniband")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var devices []Device
	var errs []error
	for _, name := range names {
		d, ok, err := readDevice(sys, name, want)
		if err != nil && !gone(sys, name) {
			errs = append(errs, fmt.Errorf("rdma device %s: %w", name, err))
		}
		if err == nil && ok {
			devices = append(devices, d)
		}
	}
	if len(devices) > 0 {
		files, err := charDevs(sys)
		errs = append(errs, err)
		for i := range devices {
			devices[i].CharDevs = files.of(devices[i].Name)
		}
	}
	sortDevices(devices)
	return devices, errors.Join(errs...)
}

// gone says that the device went away, which explains every error in reading it.
func gone(sys fs.FS, name string) bool {
	_, err := fs.Lstat(sys, "class/infiniband/"+name)
	return errors.Is(err, fs.ErrNotExist)
}

func readDevice(sys fs.FS, name string, want func(BusAddr) bool) (d Device, ok bool, err error) {
	link := path.Join("class/infiniband", name)
	target, err := fs.ReadLink(sys, link)
	if err != nil {
		return Device{}, false, err
	}
	dir := path.Join("class/infiniband", target)
	if !fs.ValidPath(dir) || path.IsAbs(target) {
		return Device{}, false, fmt.Errorf("%s leads out of sysfs, to %.128q", link, target)
	}
	d = Device{Name: name}
	switch hardware, err := fs.ReadLink(sys, path.Join(dir, "device")); {
	case err == nil:
		d.Bus = BusAddr(path.Base(hardware))
	case !errors.Is(err, fs.ErrNotExist):
		return Device{}, false, err
	}
	if !want(d.Bus) {
		return Device{}, false, nil
	}
	if d.Bus == "" {
		if d.Parent, err = parent(sys, dir); err != nil {
			return Device{}, false, err
		}
	}
	if d.Node, err = nodeType(sys, dir); err != nil {
		return Device{}, false, err
	}
	guid, err := attribute(sys, path.Join(dir, "node_guid"))
	if err != nil {
		return Device{}, false, err
	}
	if d.NodeGUID, err = ParseGUID(guid); err != nil {
		return Device{}, false, fmt.Errorf("%s/node_guid: %w", dir, err)
	}
	if d.NUMA, err = numaNode(sys, dir); err != nil {
		return Device{}, false, err
	}
	d.Ports, err = readPorts(sys, dir, d)
	return d, err == nil, err
}

// parent is the interface of a software device. Soft RoCE says so (parent_show in drivers/infiniband/sw/rxe/rxe_verbs.c); of others the
// one GID that they have is that of the interface (config_non_roce_gid_cache in drivers/infiniband/core/cache.c).
func parent(sys fs.FS, dir string) (string, error) {
	for _, file := range []string{"parent", "ports/1/gid_attrs/ndevs/0"} {
		name, err := attribute(sys, path.Join(dir, file))
		if err == nil && name != "" || err != nil && !absent(err) {
			return name, err
		}
	}
	return "", nil
}

// nodeType reads "1: CA", node_type_show in drivers/infiniband/core/sysfs.c.
func nodeType(sys fs.FS, dir string) (NodeType, error) {
	name := path.Join(dir, "node_type")
	text, err := attribute(sys, name)
	if absent(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	digits, _, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, damaged(name, text, "the type of a node")
	}
	return NodeType(n), nil
}

// numaNode is that of the PCI function that the device is on: an auxiliary device has none of its own.
func numaNode(sys fs.FS, dir string) (int, error) {
	for dir = path.Dir(dir); dir != "." && dir != "devices"; dir = path.Dir(dir) {
		n, err := number(sys, path.Join(dir, "numa_node"))
		if err == nil {
			return max(n, -1), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	return -1, nil
}

func readPorts(sys fs.FS, dir string, d Device) ([]Port, error) {
	names, err := list(sys, path.Join(dir, "ports"))
	if err != nil {
		return nil, err
	}
	ports := make([]Port, 0, len(names))
	for _, name := range names {
		p, err := readPort(sys, dir, name, d, len(names))
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int { return cmp.Compare(a.Number, b.Number) })
	return ports, nil
}

func readPort(sys fs.FS, dir, name string, d Device, ports int) (Port, error) {
	number, err := strconv.Atoi(name)
	if err != nil {
		return Port{}, fmt.Errorf("%s/ports has %.64q, which is no number of a port", dir, name)
	}
	p := Port{Number: number}
	base := path.Join(dir, "ports", name)
	layer, err := attribute(sys, path.Join(base, "link_layer"))
	if err != nil {
		return Port{}, err
	}
	p.LinkLayer = LinkLayer(layer)
	// "4: ACTIVE", state_show in drivers/infiniband/core/sysfs.c.
	text, err := attribute(sys, path.Join(base, "state"))
	if err != nil {
		return Port{}, err
	}
	digits, _, ok := strings.Cut(text, ":")
	state, err := strconv.Atoi(digits)
	if err != nil || !ok {
		return Port{}, damaged(path.Join(base, "state"), text, "the state of a port")
	}
	p.State = PortState(state)
	p.NetDevs, err = portNetDevs(sys, dir, d, p, ports)
	return p, err
}

// portNetDevs finds the interfaces of a port. An Ethernet port's first GID is that of the interface which the driver gave it, or
// of the bond over that (drivers/infiniband/core/roce_gid_mgmt.c). That says more than the interfaces on the function do, which
// may be representors. The name is that of the interface wherever it is, so it counts only if it can be the one here.
func portNetDevs(sys fs.FS, dir string, d Device, p Port, ports int) ([]string, error) {
	if d.Parent != "" {
		return []string{d.Parent}, nil
	}
	if p.LinkLayer == Ethernet {
		name, err := attribute(sys, fmt.Sprintf("%s/ports/%d/gid_attrs/ndevs/0", dir, p.Number))
		if err != nil && !absent(err) {
			return nil, err
		}
		if err == nil && name != "" {
			switch bus, err := netDevBus(sys, name); {
			case err == nil && (bus == "" || bus == d.Bus):
				return []string{name}, nil
			case err != nil && !errors.Is(err, ErrNotFound):
				return nil, err
			}
		}
	}
	if d.Bus == "" {
		return nil, nil
	}
	names, err := list(sys, path.Join(dir, "device/net"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || ports == 1 {
		return names, err
	}
	var own []string
	for _, name := range names {
		// dev_port counts from 0 (Documentation/ABI/testing/sysfs-class-net).
		n, err := number(sys, path.Join(dir, "device/net", name, "dev_port"))
		if err != nil && !absent(err) {
			return nil, err
		}
		if err == nil && n == p.Number-1 {
			own = append(own, name)
		}
	}
	return own, nil
}

// netDevBus is the address of the hardware that an interface is on; empty for one that is on none. It is an ErrNotFound for
// one that is not in the namespace of the sysfs.
func netDevBus(sys fs.FS, name string) (BusAddr, error) {
	if name == "" || name == "." || strings.Contains(name, "/") || !fs.ValidPath(name) {
		return "", fmt.Errorf("%.64q is no name of a network interface", name)
	}
	dir := path.Join("class/net", name)
	target, err := fs.ReadLink(sys, path.Join(dir, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", mustExist(sys, dir)
	}
	if err != nil {
		return "", err
	}
	return BusAddr(path.Base(target)), nil
}
