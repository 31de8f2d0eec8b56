// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/railyard-net/railyard/rdma"
	"github.com/railyard-net/railyard/rdma/gpu"
	"github.com/railyard-net/railyard/rdma/topology"
)

// Snapshot is a machine's hardware as it was when it was read.
type Snapshot struct {
	NICs []NIC
	GPUs gpu.Inventory
	// Tree is never nil.
	Tree *topology.Tree
}

// Kind is what a NIC is on its card.
type Kind string

// The kinds of NICs.
const (
	Physical    Kind = "PF" // a physical function, with virtual ones or without
	Virtual     Kind = "VF"
	Subfunction Kind = "SF" // on the auxiliary bus
)

// NIC is a network function that can be handed out.
type NIC struct {
	Addr rdma.BusAddr
	Kind Kind
	// Vendor and Device are four hexadecimal digits; a sub-function has those of its card.
	Vendor, Device string
	Driver         string // empty: none is bound
	NetDevs        []string
	// LinkType is ether or infiniband, or empty if that can't be known.
	LinkType string
	// PF is the physical function that a VF or SF is of, and a PF's own address. PFName is that one's interface. Index counts VFs and SFs.
	PF     rdma.BusAddr
	PFName string
	Index  int
	NUMA   int // -1: not known
	Speed  int64
	// RDMA are the devices that the host's namespace sees. Capable says that there is one somewhere, and Files are its character devices.
	RDMA    []rdma.Device
	Capable bool
	Files   rdma.CharDevs
	PKey    string // of index 0, such as 0x7fff; InfiniBand only
	// ACPIIndex is the firmware's number for the card; empty: none.
	ACPIIndex string
	// Up says that the port of the physical function has a link. Link is false where the machine shows neither port nor carrier.
	Up, Link bool
	// DefaultRoute says that the host speaks to the world by it.
	DefaultRoute bool
}

// RDMANames are the names that the kernel has for the NIC's RDMA devices now, in the host's namespace.
func (n NIC) RDMANames() []string {
	var names []string
	for _, d := range n.RDMA {
		names = append(names, d.Name)
	}
	return names
}

// NIC returns the one of that address.
func (s Snapshot) NIC(addr rdma.BusAddr) (NIC, bool) {
	i := slices.IndexFunc(s.NICs, func(n NIC) bool { return n.Addr == addr })
	if i < 0 {
		return NIC{}, false
	}
	return s.NICs[i], true
}

// GPU returns the one of that address.
func (s Snapshot) GPU(addr rdma.BusAddr) (gpu.GPU, bool) {
	i := slices.IndexFunc(s.GPUs.GPUs, func(g gpu.GPU) bool { return g.Addr == addr })
	if i < 0 {
		return gpu.GPU{}, false
	}
	return s.GPUs.GPUs[i], true
}

// Source is where a machine is read.
type Source struct {
	// Sys is its sysfs, and must be able to read links, such as os.DirFS("/sys").
	Sys fs.FS
	// Proc is the procfs that says by which interfaces the default routes go; nil: nobody asks.
	Proc fs.FS
	// GPUs is asked for the GPUs; nil: there are none.
	GPUs func() (gpu.Inventory, error)
}

// Read reads a machine. The snapshot has what could be read, and the error, joined, the rest.
func (src Source) Read() (Snapshot, error) {
	sys, gpus := src.Sys, src.GPUs
	tree, treeErr := topology.Read(sys)
	s := Snapshot{Tree: tree}
	devices, deviceErr := rdma.Discover(sys)
	routed, routeErr := defaultRoutes(src.Proc)
	errs := []error{treeErr, deviceErr, routeErr}
	l := look{sys: sys, devices: devices, routed: routed}
	for _, f := range tree.Functions() {
		if !f.IsNIC() {
			continue
		}
		n, err := l.function(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("NIC %s: %w", f.Addr, err))
		}
		s.NICs = append(s.NICs, n)
	}
	subs, err := l.subfunctions(s.NICs)
	errs = append(errs, err)
	s.NICs = append(s.NICs, subs...)
	if gpus != nil {
		if s.GPUs, err = gpus(); err != nil {
			errs = append(errs, fmt.Errorf("GPUs: %w", err))
		}
	}
	return s, errors.Join(errs...)
}

// TopologyGPUs are the GPUs as pairing wants them, each GPU's index among all being its rail. Those that hand out MIG instances are no candidates.
func (s Snapshot) TopologyGPUs() []topology.GPU {
	var all []topology.GPU
	for i, g := range s.GPUs.GPUs {
		if !g.MIG {
			all = append(all, topology.GPU{Addr: g.Addr, Name: g.UUID, Rail: i, C2C: g.C2C})
		}
	}
	return all
}

// TopologyNIC is the NIC as pairing wants it.
func (n NIC) TopologyNIC(rail int) topology.NIC {
	return topology.NIC{Addr: n.Addr, Name: strings.Join(n.RDMANames(), ","), Rail: rail, Speed: n.Speed}
}
