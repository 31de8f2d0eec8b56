// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
	"github.com/railyard-net/railyard/rdma/topology"
)

// pairs makes the two resources of pairs. What is in use stays as it is; of the rest, the nearest are matched first, so that a second class takes nothing
// from the first.
func (b *builder) pairs(c *config.Pair) []Resource {
	near := Resource{Name: c.Resource, between: b.betweenGPUs}
	far := Resource{Name: c.NUMAResource, between: b.betweenGPUs}
	resources := []*Resource{&near}
	if c.NUMAResource != "" {
		resources = append(resources, &far)
	}
	usedGPU, usedNIC := map[rdma.BusAddr]bool{}, map[rdma.BusAddr]bool{}
	for _, r := range resources {
		for _, record := range b.Used {
			if record.Device.Resource != r.Name {
				continue
			}
			if d, ok := b.given(c, record); ok {
				r.Devices = append(r.Devices, d)
				usedGPU[d.gpu], usedNIC[d.nic] = true, true
			}
		}
	}
	gpus, nics := b.pairable(c, usedGPU, usedNIC)
	for _, r := range resources {
		worst := topology.P2C
		if r == &far {
			worst = topology.NODE
		}
		// What the tree lacks was left out before; nothing is given twice.
		made, _ := b.Snapshot.Tree.Pair(gpus, nics, topology.Limits{Worst: worst})
		for _, p := range made {
			g, _ := b.Snapshot.GPU(p.GPU.Addr)
			n, _ := b.Snapshot.NIC(p.NIC.Addr)
			r.Devices = append(r.Devices, b.pair(c, r.Name, g, n, p.Path.Class))
		}
		gpus = slices.DeleteFunc(gpus, func(g topology.GPU) bool {
			return slices.ContainsFunc(made, func(p topology.Pair) bool { return p.GPU.Addr == g.Addr })
		})
		nics = slices.DeleteFunc(nics, func(n topology.NIC) bool {
			return slices.ContainsFunc(made, func(p topology.Pair) bool { return p.NIC.Addr == n.Addr })
		})
	}
	var all []Resource
	for _, r := range resources {
		for _, d := range r.Devices {
			if !c.Dynamic {
				b.taken[d.gpu], b.taken[d.nic] = true, true
			}
		}
		all = append(all, *r)
	}
	return all
}

// pairable are the GPUs and NICs that may be matched: chosen, well, and not in use as anything else.
func (b *builder) pairable(c *config.Pair, usedGPU, usedNIC map[rdma.BusAddr]bool) (gpus []topology.GPU, nics []topology.NIC) {
	for i, g := range b.Snapshot.GPUs.GPUs {
		chosen := len(c.GPUs) == 0 || oneOf(c.GPUs, g.UUID, string(g.Addr), strconv.Itoa(i))
		if chosen && !g.MIG && !usedGPU[g.Addr] && !b.busy[gpuUnit(g.Addr)] && b.Sick[gpuUnit(g.Addr)] == "" && b.inTree(g.Addr) {
			gpus = append(gpus, topology.GPU{Addr: g.Addr, Name: g.UUID, Rail: i, C2C: g.C2C})
		}
	}
	rail := map[rdma.BusAddr]int{}
	for _, n := range b.Snapshot.NICs {
		if _, ok := rail[n.PF]; !ok && n.Capable {
			rail[n.PF] = len(rail)
		}
		ok := n.Kind != inventory.Subfunction && n.Capable && b.free(n) && anySelects(c.NICs, n)
		if ok && !usedNIC[n.Addr] && !b.busy[nicUnit(n.Addr)] && unhealthyNIC(n, true, c.Health) == "" {
			nics = append(nics, n.TopologyNIC(rail[n.PF]))
		}
	}
	return gpus, nics
}

func (b *builder) inTree(addr rdma.BusAddr) bool {
	_, err := b.Snapshot.Tree.Function(addr)
	return err == nil
}

// given is a pair as it was given, if its NIC is still there.
func (b *builder) given(c *config.Pair, record ledger.Record) (Device, bool) {
	n, ok := b.Snapshot.NIC(rdma.BusAddr(record.Device.ID))
	if !ok {
		return Device{}, false
	}
	var g gpu.GPU
	var addr rdma.BusAddr
	for _, claim := range record.Claims {
		var kind, rest string
		if _, err := fmt.Sscanf(string(claim.Unit), "%s %s", &kind, &rest); err == nil && kind == "gpu" {
			addr = rdma.BusAddr(rest)
		}
	}
	if addr == "" { // the record was lost: the GPU that would be with it today
		if addr = b.guess(c, n); addr == "" {
			return Device{}, false
		}
	}
	g, ok = b.Snapshot.GPU(addr)
	if !ok {
		return Device{
			ID: record.Device.ID, Claims: record.Claims, gpu: addr, nic: n.Addr, card: n.PF, class: topology.SYS, Unhealthy: "its GPU at " + string(addr) + " is gone",
		}, true
	}
	path, _ := b.Snapshot.Tree.GPUPath(topology.GPU{Addr: g.Addr, C2C: g.C2C}, n.Addr)
	return b.pair(c, record.Device.Resource, g, n, path.Class), true
}

// guess matches as if nothing was in use.
func (b *builder) guess(c *config.Pair, n inventory.NIC) rdma.BusAddr {
	fresh := &builder{Input: b.Input, busy: map[ledger.Unit]bool{}, inUse: map[ledger.Device]ledger.Record{}, taken: map[rdma.BusAddr]bool{}}
	fresh.Used, fresh.Sick = nil, nil
	for _, r := range fresh.pairs(c) {
		if d, ok := sorted(r).Device(string(n.Addr)); ok {
			return d.gpu
		}
	}
	return ""
}

func sorted(r Resource) Resource {
	slices.SortFunc(r.Devices, func(a, b Device) int { return compareIDs(a.ID, b.ID) })
	return r
}

func (b *builder) pair(c *config.Pair, resource string, g gpu.GPU, n inventory.NIC, class topology.Class) Device {
	d := Device{
		ID: string(n.Addr), NUMA: numaOf(b.gpuNUMA(g), n.NUMA), gpu: g.Addr, nic: n.Addr, card: n.PF, class: class, gpuName: GPUKind + "=" + g.UUID,
		Claims: []ledger.Claim{{Unit: gpuUnit(g.Addr)}, {Unit: nicUnit(n.Addr)}},
		Grant:  b.functionGrant(resource, n, c.Inject, nil).with(gpuGrant(g.UUID, c.Strategies)),
	}
	if d.Unhealthy = b.Sick[gpuUnit(g.Addr)]; d.Unhealthy == "" {
		d.Unhealthy = unhealthyNIC(n, true, c.Health)
	}
	return d
}
