// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"cmp"
	"slices"
)

// Device is an RDMA device as sysfs shows it.
type Device struct {
	// Name is the kernel's name at the time, such as mlx5_0. It is never a key: see the package's documentation.
	Name string
	// Bus is the address of the hardware; empty for a software device such as rxe. Two devices may have the same.
	Bus BusAddr
	// Parent is the network interface that a software device was made on, by the name that it has in whichever namespace it is; empty
	// for hardware.
	Parent string
	// Node says what the device is; 0 where the kernel doesn't.
	Node NodeType
	// NodeGUID may be zero, and two devices may have the same.
	NodeGUID GUID
	// NUMA is the node that the hardware hangs on, or -1 if the machine doesn't say.
	NUMA int
	// Ports are in the order of their numbers.
	Ports []Port
	// CharDevs are the files that a program opens to use the device.
	CharDevs CharDevs
}

// Port is one port of a device.
type Port struct {
	// Number counts from 1.
	Number int
	// LinkLayer says which kind of network is behind the port.
	LinkLayer LinkLayer
	// State is the logical state. Only StateActive carries traffic.
	State PortState
	// NetDevs are the network interfaces of the port that are in the namespace of the sysfs, sorted. A RoCE port has the
	// one that the kernel gave it, which is the bond for a bond in RoCE LAG; an InfiniBand port has all that IPoIB made.
	NetDevs []string
}

// LinkLayer is a port's kind of network as sysfs writes it (link_layer_show in drivers/infiniband/core/sysfs.c). Others
// than the two below are possible.
type LinkLayer string

// The link layers that one can have a network on.
const (
	Ethernet   LinkLayer = "Ethernet"   // RoCE or iWARP
	InfiniBand LinkLayer = "InfiniBand" // IPoIB for network interfaces
)

// NodeType is enum rdma_node_type of include/rdma/ib_verbs.h.
type NodeType int

// The types of node that a host has; others are possible.
const (
	NodeCA   NodeType = 1 // InfiniBand or RoCE
	NodeRNIC NodeType = 4 // iWARP
)

// IWARP says that the device speaks RDMA over TCP. It has one GID, made of the hardware address of its interface and none of an
// IP address, and its connections are made through rdma_cm alone, by processes in the namespace of that interface.
func (d Device) IWARP() bool { return d.Node == NodeRNIC }

// RoCE says that the port has a GID for each address of its interface.
func (d Device) RoCE(p Port) bool { return p.LinkLayer == Ethernet && !d.IWARP() }

// PortState is enum ib_port_state of include/rdma/ib_verbs.h.
type PortState int

// The states of a port.
const (
	StateNop PortState = iota
	StateDown
	StateInit
	StateArmed
	StateActive
	StateActiveDefer
)

func (s PortState) String() string {
	names := [...]string{"NOP", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"}
	if s < 0 || int(s) >= len(names) {
		return "UNKNOWN"
	}
	return names[s]
}

// CharDevs are the character devices of a device, as paths below /dev/infiniband; empty where the kernel module that
// serves them is not loaded. The numbers in them change whenever the device is moved or its driver loaded anew.
type CharDevs struct {
	// Verbs is uverbsN, all that most programs need.
	Verbs string
	// CM is rdma_cm, the connection manager that all devices share.
	CM string
	// UMAD and ISSM are umadN and issmN, one for each port: management datagrams and the subnet manager. They give power over
	// the network and are not for everybody.
	UMAD, ISSM []string
}

// Of returns the devices on one function of a bus, in the order given: none, one or several.
func Of(devices []Device, bus BusAddr) []Device {
	var on []Device
	for _, d := range devices {
		if d.Bus == bus && bus != "" {
			on = append(on, d)
		}
	}
	return on
}

// sortDevices orders by hardware: names change places.
func sortDevices(devices []Device) {
	slices.SortFunc(devices, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Name, b.Name))
	})
}
