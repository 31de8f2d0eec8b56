// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/ledger"
	"github.com/railyard-net/railyard/rdma/topology"
)

// gpus makes devices of the GPUs that are in no pair, and of MIG instances.
func (b *builder) gpus(c *config.GPU) []Resource {
	whole := Resource{Name: c.Resource, RefuseSeveral: c.RefuseSeveral && c.Replicas > 1, Pack: c.PackReplicas, between: b.betweenGPUs}
	byProfile := map[string]*Resource{}
	profiles := map[string]bool{}
	domain, _, _ := strings.Cut(c.Resource, "/")
	for _, g := range b.Snapshot.GPUs.GPUs {
		switch {
		case b.taken[g.Addr]:
		case !g.MIG || c.MIG == config.MIGNone:
			if c.MIG == config.MIGSingle {
				profiles["whole GPUs"] = true
			}
			whole.Devices = append(whole.Devices, replicas(c, b.wholeGPU(g, c.Strategies))...)
		default:
			for _, i := range g.Instances {
				profile := profileOf(i)
				profiles[profile] = true
				r := &whole
				if c.MIG == config.MIGMixed {
					name := domain + "/mig-" + strings.ReplaceAll(profile, "+", ".")
					if byProfile[name] == nil {
						byProfile[name] = &Resource{Name: name, RefuseSeveral: whole.RefuseSeveral, Pack: c.PackReplicas}
					}
					r = byProfile[name]
				}
				r.Devices = append(r.Devices, replicas(c, b.instance(g, i, c.Strategies))...)
			}
		}
	}
	if c.MIG == config.MIGSingle && len(profiles) > 1 {
		for i := range whole.Devices {
			whole.Devices[i].Unhealthy = cmp.Or(whole.Devices[i].Unhealthy,
				fmt.Sprintf("migStrategy single needs one profile on all GPUs, here are %s: make them equal, or use mixed", strings.Join(sortedKeys(profiles), ", ")))
		}
	}
	all := []Resource{whole}
	for _, name := range sortedKeys(byProfile) {
		all = append(all, *byProfile[name])
	}
	return all
}

// profileOf is 1g.10gb of "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
func profileOf(i gpu.Instance) string {
	_, profile, ok := strings.Cut(i.Name, "MIG ")
	if !ok {
		return "unknown"
	}
	return strings.ReplaceAll(strings.TrimSpace(profile), " ", "-")
}

func (b *builder) wholeGPU(g gpu.GPU, strategies []string) Device {
	t := topology.GPU{Addr: g.Addr, Rail: topology.NoRail, C2C: g.C2C}
	d := Device{
		ID: g.UUID, NUMA: numaOf(b.gpuNUMA(g)), gpu: g.Addr, Claims: []ledger.Claim{{Unit: gpuUnit(g.Addr)}},
		Unhealthy: b.Sick[gpuUnit(g.Addr)], Grant: gpuGrant(g.UUID, strategies), lonely: true,
	}
	var beside []string
	for _, n := range b.Snapshot.NICs {
		if n.Capable && n.Addr.IsPCI() && b.near(t, n.Addr) {
			beside = append(beside, string(n.PF))
			d.lonely = d.lonely && b.busy[nicUnit(n.Addr)]
		}
	}
	slices.Sort(beside)
	d.group = strings.Join(slices.Compact(beside), ",")
	return d
}

// gpuNUMA is the node of the PCI function: that which the driver says may be the GPU's own memory, where no processor is.
func (b *builder) gpuNUMA(g gpu.GPU) int {
	f, err := b.Snapshot.Tree.Function(g.Addr)
	if err != nil {
		return -1
	}
	return f.NUMA
}

func (b *builder) instance(g gpu.GPU, i gpu.Instance, strategies []string) Device {
	return Device{
		ID: i.UUID, NUMA: numaOf(b.gpuNUMA(g)), gpu: g.Addr,
		Claims:    []ledger.Claim{{Unit: MIGUnit(i.UUID)}, {Unit: gpuUnit(g.Addr), Shared: true}},
		Unhealthy: cmp.Or(b.Sick[MIGUnit(i.UUID)], b.Sick[gpuUnit(g.Addr)]), Grant: gpuGrant(i.UUID, strategies),
	}
}

// replicas are several devices that are the same GPU by turns.
func replicas(c *config.GPU, d Device) []Device {
	if c.Replicas < 2 {
		return []Device{d}
	}
	claims := slices.Clone(d.Claims)
	for i := range claims {
		claims[i].Shared = true
	}
	var all []Device
	for i := range c.Replicas {
		r := d
		r.ID, r.Claims = fmt.Sprintf("%s::%d", d.ID, i), claims
		all = append(all, r)
	}
	return all
}

func gpuGrant(uuid string, strategies []string) Grant {
	var g Grant
	for _, s := range strategies {
		switch s {
		case config.CDICRI:
			g.CDI = append(g.CDI, GPUKind+"="+uuid)
		case config.CDIAnnotations:
			g.Annotated = append(g.Annotated, GPUKind+"="+uuid)
		case config.EnvVar:
			g.Lists = append(g.Lists, List{"NVIDIA_VISIBLE_DEVICES", uuid})
		}
	}
	return g
}

// betweenGPUs is how well two GPUs speak to each other: a hundred for each NVLink, and some for a short way over PCI.
func (b *builder) betweenGPUs(x, y Device) int {
	score := 0
	gx, okx := b.Snapshot.GPU(x.gpu)
	gy, oky := b.Snapshot.GPU(y.gpu)
	if okx && oky {
		score = 100 * gx.LinksTo(gy)
	}
	p, err := b.Snapshot.Tree.Path(x.gpu, y.gpu)
	if err != nil {
		return score
	}
	return score + map[topology.Class]int{topology.Self: 60, topology.PIX: 50, topology.PXB: 40, topology.PHB: 30, topology.NODE: 20, topology.SYS: 10}[p.Class]
}
