// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package pool says what a node offers: from a config, the hardware and what is in use it makes resources with devices, and says what a
// container gets for them. It is a pure function of these and knows no plugin API.
//
//	Build(Input) ─▶ []Resource ─▶ []Device{ID, NUMA, Claims, Grant}
//	                   │ Prefer: which devices of several      │ Answer: what one container gets for some devices
//
// # IDs
//
//	shared RDMA   0000:18:00.0#3, an HCA and a slot of it; with compat: 0, 1, ...
//	VF, PF, SF    the PCI address, or the auxiliary device's name
//	GPU, MIG      the UUID; UUID::3 for a replica
//	pair          the PCI address of its NIC or VF, which is what CNI plugins take as deviceID
//
// A NIC goes to the first pool that selects it. Pairs come before all others: with static accounting what is in a pair is in no other resource.
//
// # What is in pods stays
//
// A NIC in a pod does not show all that selectors look at, and a pair in a pod may not be the pair that would be made today. So a device that is in use stays in its
// resource, as it was given, for as long as its hardware is there, whatever is selected or matched now.
package pool

import (
	"cmp"
	"slices"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
	"github.com/railyard-net/railyard/rdma/topology"
)

// Input is all that decides what is offered.
type Input struct {
	Config   *config.Config
	Snapshot inventory.Snapshot
	// Used are the devices in use with what they are made of.
	Used []ledger.Record
	// Sick says why units are unhealthy that the snapshot shows as well.
	Sick map[ledger.Unit]string
}

// Resource is what a node offers under one name.
type Resource struct {
	Name    string
	Devices []Device // by ID
	// RefuseSeveral: a container may have one of them.
	RefuseSeveral bool
	// Pack puts replicas on few GPUs.
	Pack bool
	// between says how good it is for two devices to be in one container; nil: it does not matter.
	between func(a, b Device) int
}

// Device is one piece of a resource.
type Device struct {
	ID     string
	NUMA   []int // none: not known, or not to be told
	Claims []ledger.Claim
	// Unhealthy says why it can't be given; empty: it can.
	Unhealthy string
	Grant     Grant

	// What Prefer looks at.
	gpu, nic rdma.BusAddr
	gpuName  string
	card     rdma.BusAddr // the NIC's physical function
	group    string       // of GPUs: the NICs beside them
	lonely   bool         // whoever is beside it is in use already
	class    topology.Class
}

// Class is how far the two of a pair are apart; ok is false for other devices.
func (d Device) Class() (c topology.Class, ok bool) { return d.class, d.gpu != "" && d.nic != "" }

// GPU and NIC are the hardware of a device, where it has such.
func (d Device) GPU() rdma.BusAddr { return d.gpu }

// GPUName is the CDI name of the GPU that comes with a device; empty: none does.
func (d Device) GPUName() string { return d.gpuName }

// NIC goes with GPU.
func (d Device) NIC() rdma.BusAddr { return d.nic }

// The units of the ledger.
func gpuUnit(addr rdma.BusAddr) ledger.Unit { return ledger.Unit("gpu " + string(addr)) }
func nicUnit(addr rdma.BusAddr) ledger.Unit { return ledger.Unit("nic " + string(addr)) }

// GPUUnit and MIGUnit name GPUs and MIG instances in [Input.Sick].
func GPUUnit(addr rdma.BusAddr) ledger.Unit { return gpuUnit(addr) }

// MIGUnit goes with GPUUnit.
func MIGUnit(uuid string) ledger.Unit { return ledger.Unit("mig " + uuid) }

// builder is Build's working state.
type builder struct {
	Input
	busy  map[ledger.Unit]bool
	inUse map[ledger.Device]ledger.Record
	taken map[rdma.BusAddr]bool // by pairs, and then by the pools before
}

// Build returns the resources that the config names, by name; one whose hardware is not there has no devices.
func Build(in Input) []Resource {
	b := &builder{Input: in, busy: map[ledger.Unit]bool{}, inUse: map[ledger.Device]ledger.Record{}, taken: map[rdma.BusAddr]bool{}}
	for _, r := range in.Used {
		b.inUse[r.Device] = r
		for _, c := range r.Claims {
			b.busy[c.Unit] = true
		}
	}
	var all []Resource
	if in.Config.Pair != nil {
		all = append(all, b.pairs(in.Config.Pair)...)
	}
	for _, p := range in.Config.Net {
		all = append(all, b.network(p))
	}
	for _, p := range in.Config.Shared {
		all = append(all, b.shared(p))
	}
	if in.Config.GPU != nil {
		all = append(all, b.gpus(in.Config.GPU)...)
	}
	for i := range all {
		slices.SortFunc(all[i].Devices, func(a, b Device) int { return compareIDs(a.ID, b.ID) })
	}
	slices.SortFunc(all, func(a, b Resource) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// compareIDs puts slot 10 behind slot 9.
func compareIDs(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// Device returns the one of that ID.
func (r Resource) Device(id string) (Device, bool) {
	i, ok := slices.BinarySearchFunc(r.Devices, id, func(d Device, id string) int { return compareIDs(d.ID, id) })
	if !ok {
		return Device{}, false
	}
	return r.Devices[i], true
}

func numaOf(nodes ...int) []int {
	var known []int
	for _, n := range nodes {
		if n >= 0 && !slices.Contains(known, n) {
			known = append(known, n)
		}
	}
	slices.Sort(known)
	return known
}
