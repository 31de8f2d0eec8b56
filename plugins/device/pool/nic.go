// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/railyard-net/railyard/plugins/device/config"
	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/inventory"
	"github.com/railyard-net/railyard/rdma/ledger"
	"github.com/railyard-net/railyard/rdma/topology"
)

// shared makes slots on HCAs.
func (b *builder) shared(p config.SharedPool) Resource {
	r := Resource{Name: p.Resource}
	var hcas []inventory.NIC
	for _, n := range b.Snapshot.NICs {
		// That plugin knows PCI alone, and takes what has all three files.
		old := n.Kind == inventory.Subfunction || n.Files.Verbs == "" || n.Files.CM == "" || len(n.Files.UMAD) == 0
		if b.taken[n.Addr] || !n.Capable || !Selects(p.Selectors, n) || p.Compat && old {
			continue
		}
		hcas = append(hcas, n)
	}
	if p.Compat {
		r.Devices = compatSlots(p, hcas)
		return r
	}
	for _, n := range hcas {
		lonely := !b.hasFreeGPU(n.Addr)
		for slot := range p.Slots {
			r.Devices = append(r.Devices, Device{
				ID: fmt.Sprintf("%s#%d", n.Addr, slot), NUMA: numaOf(n.NUMA), nic: n.Addr, card: n.PF,
				Claims:    []ledger.Claim{{Unit: nicUnit(n.Addr), Shared: true}},
				Unhealthy: unhealthyNIC(n, true, p.Health),
				Grant:     nicGrant(n, p.Inject), lonely: lonely,
			})
		}
	}
	return r
}

// compatSlots are numbers, each of which stands for all HCAs of the pool.
func compatSlots(p config.SharedPool, hcas []inventory.NIC) []Device {
	if len(hcas) == 0 {
		return nil
	}
	whole := Device{}
	for _, n := range hcas {
		inject := p.Inject
		inject.UMAD = true
		g := nicGrant(n, inject)
		for i := range g.Nodes {
			g.Nodes[i].Permissions = "rwm"
		}
		whole.Grant = whole.Grant.with(g)
		whole.Claims = append(whole.Claims, ledger.Claim{Unit: nicUnit(n.Addr), Shared: true})
	}
	var all []Device
	for i := range p.Slots {
		d := whole
		d.ID = fmt.Sprint(i)
		all = append(all, d)
	}
	return all
}

// network makes devices of whole functions.
func (b *builder) network(p config.NetPool) Resource {
	r := Resource{Name: p.Resource}
	for _, n := range b.Snapshot.NICs {
		_, ours := b.inUse[ledger.Device{Resource: p.Resource, ID: string(n.Addr)}]
		switch {
		case b.taken[n.Addr]:
			continue
		case ours:
		case (n.Kind == inventory.Subfunction) != p.Aux, !b.free(n), !anySelects(p.Selectors, n):
			continue
		}
		b.taken[n.Addr] = true
		wantRDMA := false
		for _, s := range p.Selectors {
			wantRDMA = wantRDMA || s.IsRDMA
		}
		d := Device{
			ID: string(n.Addr), NUMA: numaOf(n.NUMA), nic: n.Addr, card: n.PF, Claims: []ledger.Claim{{Unit: nicUnit(n.Addr)}},
			Unhealthy: unhealthyNIC(n, wantRDMA, p.Health),
			Grant:     b.functionGrant(p.Resource, n, p.Inject, p.AdditionalInfo), lonely: !b.hasFreeGPU(n.Addr),
		}
		if p.NoTopology {
			d.NUMA = nil
		}
		r.Devices = append(r.Devices, d)
	}
	return r
}

// free says that a function may be given away whole: the host does not speak to the world by it, and nobody has its virtual functions.
func (b *builder) free(n inventory.NIC) bool {
	if n.DefaultRoute {
		return false
	}
	f, err := b.Snapshot.Tree.Function(n.Addr)
	return err != nil || len(f.VirtFns) == 0
}

func unhealthyNIC(n inventory.NIC, wantRDMA bool, h config.Health) string {
	switch {
	case n.Driver == "":
		return "no driver is bound to it"
	case wantRDMA && !n.Capable:
		return "it has no RDMA device"
	case wantRDMA && n.Files.Verbs == "":
		return "its RDMA device has no uverbs file: is ib_uverbs loaded?"
	case h.Link && n.Link && !n.Up:
		return "no link at the port of " + string(n.PF)
	}
	return ""
}

// nicGrant is the files of an RDMA device.
func nicGrant(n inventory.NIC, inject config.Inject) Grant {
	var g Grant
	if inject.CDI {
		g.CDI = []string{NICKind + "=" + string(n.Addr)}
	} else {
		g.Nodes = NICNodes(n, inject.UMAD)
	}
	for _, d := range n.RDMA {
		for _, name := range inject.Env {
			g.Lists = append(g.Lists, List{name, fmt.Sprintf("%s:%d", d.Name, 1)})
		}
	}
	return g
}

// NICNodes are the files by which a program uses the NIC's RDMA device, and what a driver for user space needs.
func NICNodes(n inventory.NIC, umad bool) []Node {
	var nodes []Node
	files := []string{n.Files.Verbs, n.Files.CM}
	if umad {
		files = append(append(files, n.Files.UMAD...), n.Files.ISSM...)
	}
	for _, f := range files {
		if f != "" {
			nodes = append(nodes, Node{Path: f, Permissions: "rw"})
		}
	}
	return nodes
}

// functionGrant adds what programs and CNI plugins of the SR-IOV plugin's world look at.
func (b *builder) functionGrant(resource string, n inventory.NIC, inject config.Inject, extra map[string]map[string]string) Grant {
	g := nicGrant(n, inject)
	key := "PCIDEVICE_" + envName(resource)
	info := Info{"generic": {"deviceID": string(n.Addr)}}
	if n.Capable {
		r := map[string]string{"uverbs": n.Files.Verbs, "rdma_cm": n.Files.CM, "rdma_dev": strings.Join(n.RDMANames(), ",")}
		if inject.UMAD {
			r["umad"], r["issm"] = strings.Join(n.Files.UMAD, ","), strings.Join(n.Files.ISSM, ",")
		}
		for k, v := range r {
			if v == "" {
				delete(r, k)
			}
		}
		info["rdma"] = r
	}
	if n.Driver == "vfio-pci" {
		if f, err := b.Snapshot.Tree.Function(n.Addr); err == nil && f.IOMMUGroup >= 0 {
			group := fmt.Sprintf("/dev/vfio/%d", f.IOMMUGroup)
			g.Nodes = append(g.Nodes, Node{Path: "/dev/vfio/vfio", Permissions: "rw"}, Node{Path: group, Permissions: "rw"})
			info["vfio"] = map[string]string{"mount": "/dev/vfio/vfio", "dev-mount": group}
		}
	}
	for _, of := range []string{"*", string(n.Addr)} {
		for k, v := range extra[of] {
			if info["extraInfo"] == nil {
				info["extraInfo"] = map[string]string{}
			}
			info["extraInfo"][k] = v
		}
	}
	g.Lists = append(g.Lists, List{key, string(n.Addr)})
	g.Info = map[string]map[string]Info{key + "_INFO": {string(n.Addr): info}}
	return g
}

// near says which functions are beside each other: what GPUDirect wants.
func (b *builder) near(gpu topology.GPU, nic rdma.BusAddr) bool {
	p, err := b.Snapshot.Tree.GPUPath(gpu, nic)
	return err == nil && p.Class <= topology.P2C
}

// hasFreeGPU says that a GPU beside the NIC is not in use. Sub-functions are where their card is.
func (b *builder) hasFreeGPU(nic rdma.BusAddr) bool {
	if n, ok := b.Snapshot.NIC(nic); ok && n.Kind == inventory.Subfunction {
		nic = n.PF
	}
	for _, g := range b.Snapshot.TopologyGPUs() {
		if !b.busy[gpuUnit(g.Addr)] && b.near(g, nic) {
			return true
		}
	}
	return false
}

// envName is a resource's name as part of a variable's.
func envName(resource string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(cmp.Or(resource, "_")))
}
