// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"slices"

	"github.com/railyard-net/railyard/rdma"
)

// Class is what lies between two functions. A smaller one is nearer.
type Class uint8

// The classes of nvidia-smi topo (NVML_TOPOLOGY_*) and NCCL (PATH_* in src/graph/topo.h). NCCL takes NODE and PHB for one, and the
// two levels of a Broadcom switch for one, so that it says PIX of some ways that are PXB here and with nvidia-smi; it treats both alike.
const (
	Self Class = iota // the same function
	PIX               // at most one switch
	PXB               // several switches, and no host bridge
	P2C               // NVLink-C2C to the GPU's processor, PCIe from there
	PHB               // one host bridge
	NODE              // two host bridges of one NUMA node
	SYS               // two NUMA nodes
)

func (c Class) String() string { return [...]string{"X", "PIX", "PXB", "P2C", "PHB", "NODE", "SYS"}[c] }

// Path is the way between two functions.
type Path struct {
	Class Class
	Hops  int // bridges and ports of switches that it goes through

	// DataDirect is the function of the NIC by which the data goes, where that is not the NIC's own.
	DataDirect rdma.BusAddr

	// Redirects are ports at the turning point, in a switch, whose ACS sends the data up to the root port and back.
	// MayRedirect are those whose ACS could not be read.
	Redirects, MayRedirect []rdma.BusAddr
}

// compare puts the nearer path first.
func (p Path) compare(q Path) int {
	return cmp.Or(cmp.Compare(p.Class, q.Class), cmp.Compare(p.Hops, q.Hops))
}

// Path returns the way over PCI between two functions. Virtual functions are where their physical ones are. NUMA nodes are equal if
// the kernel says the same of both, be it that it knows none. It is an [rdma.ErrNotFound] if the tree lacks one of the two.
func (t *Tree) Path(a, b rdma.BusAddr) (Path, error) {
	from, err := t.home(a)
	if err != nil {
		return Path{}, err
	}
	to, err := t.home(b)
	if err != nil {
		return Path{}, err
	}
	if a == b {
		return Path{}, nil
	}
	return t.path(from, to), nil
}

// home is the function whose place counts.
func (t *Tree) home(addr rdma.BusAddr) (*Function, error) {
	f, err := t.at(addr)
	if err != nil {
		return nil, err
	}
	if pf, ok := t.index[f.PhysFn]; ok {
		return &t.functions[pf], nil
	}
	return f, nil
}

func (t *Tree) path(from, to *Function) Path {
	for i, bridge := range from.Above {
		if j := slices.Index(to.Above, bridge); j >= 0 {
			return t.below(from.Above[:i+1], to.Above[:j+1], from.Above[i:])
		}
	}
	p := Path{Class: SYS, Hops: len(from.Above) + len(to.Above)}
	switch {
	case from.Root == to.Root:
		p.Class = PHB
	case from.NUMA == to.NUMA:
		p.Class = NODE
	}
	return p
}

// below is a path that does not reach the host bridge. Both sides end with the bridge that they have in common; common are that and
// those above it.
func (t *Tree) below(from, to, common []rdma.BusAddr) Path {
	switches := map[rdma.BusAddr]bool{}
	for _, side := range [][]rdma.BusAddr{from, to} {
		whole := slices.Concat(side, common[1:])
		for i, bridge := range side {
			// The ports of a switch are bridges of their own: the upstream port stands for all.
			if t.port(whole[i:]) == Downstream && i+1 < len(whole) {
				bridge = whole[i+1]
			}
			switches[bridge] = true
		}
	}
	p := Path{Class: PIX, Hops: len(from) + len(to) - 1}
	if len(switches) > 1 {
		p.Class = PXB
	}
	if t.port(common) == Upstream {
		for _, side := range [][]rdma.BusAddr{from, to} {
			if len(side) > 1 {
				t.turn(&p, side[len(side)-2])
			}
		}
	}
	return p
}

// turn notes what a downstream port does to traffic for its neighbour.
func (t *Tree) turn(p *Path, port rdma.BusAddr) {
	f, err := t.at(port)
	switch {
	case err != nil || f.ACS.Presence == Unknown:
		p.MayRedirect = append(p.MayRedirect, port)
	case f.ACS.Redirects():
		p.Redirects = append(p.Redirects, port)
	}
}

// GPUPath returns the way that data takes between a GPU and a NIC: by the NIC's own function or a Data Direct function of its card,
// whichever is nearer, and over NVLink-C2C where the GPU has that and PCI leads through the processor anyway.
func (t *Tree) GPUPath(g GPU, nic rdma.BusAddr) (Path, error) {
	best, err := t.Path(g.Addr, nic)
	if err != nil {
		return Path{}, err
	}
	gpu, _ := t.home(g.Addr)
	home, _ := t.home(nic)
	for _, addr := range t.direct[home.Card] {
		direct, _ := t.at(addr)
		if p := t.path(gpu, direct); p.compare(best) < 0 {
			best = p
			best.DataDirect = addr
		}
	}
	if g.C2C && best.Class > P2C && t.sameProcessor(gpu, home) {
		best.Class = P2C
	}
	return best, nil
}

// sameProcessor compares the NUMA nodes of root ports, not of functions: the node that a Grace machine gives for a GPU may be
// the GPU's memory.
func (t *Tree) sameProcessor(a, b *Function) bool {
	node := t.rootNode(a)
	return a.Root == b.Root || node >= 0 && node == t.rootNode(b)
}

func (t *Tree) rootNode(f *Function) int {
	for _, addr := range slices.Backward(f.Above) {
		if i, ok := t.index[addr]; ok && t.functions[i].NUMA >= 0 {
			return t.functions[i].NUMA
		}
	}
	return f.NUMA
}
