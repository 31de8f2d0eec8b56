// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package gpu lists the NVIDIA GPUs of a machine with what is needed to hand them out: UUID, PCI address, memory, NUMA node and MIG
// instances. It asks the driver's library (NVML), so it is for programs that serve a node: it needs cgo, and no CNI plugin links it.
//
// # States
//
// Most machines have no GPU, and a driver may be installed while the node runs. So a missing driver is a [State] and no error, and
// whoever wants to know asks again; nothing is kept between two calls:
//
//	NoLibrary ──the driver's package is installed──▶ NoDriver ──its module is loaded──▶ Ready
//
// Built without cgo, the state is always NoLibrary.
//
// # Faults
//
// [Watch] reports what the driver calls an XID, and [Health] says what that means for GPUs and instances, and when they are well again.
//
// # Guarantees
//
//  1. A GPU of which something essential can't be read is left out, and the error, one [*DeviceError] a GPU, joined, says why; the
//     others are returned all the same.
//  2. What a GPU or an older driver does not know is no error: its value says so.
//  3. GPUs are in the order of their PCI addresses, which no restart of the driver changes, instances in that of their numbers.
package gpu

import (
	"fmt"
	"strings"

	"github.com/railyard-net/railyard/rdma"
)

// State is how much of a driver there is.
type State uint8

// The states in which a machine may be.
const (
	NoLibrary State = iota // no libnvidia-ml.so.1
	NoDriver               // the library is there; the kernel's module is not loaded
	Ready
)

func (s State) String() string { return [...]string{"no library", "no driver", "ready"}[s] }

// Inventory is the GPUs of a machine at one moment.
type Inventory struct {
	State  State
	Driver string // version
	GPUs   []GPU
}

// GPU is a physical GPU.
type GPU struct {
	Addr   rdma.BusAddr
	UUID   string
	Name   string // of the product
	Minor  int    // of /dev/nvidiaN
	Memory uint64 // bytes
	NUMA   int    // of its own memory, where that is a node, as on Grace; -1 if not
	C2C    bool   // NVLink-C2C joins it to its processor
	// NVLinks counts the links to other GPUs, and NVSwitch those to switches, which lead to every GPU that has such.
	NVLinks  map[rdma.BusAddr]int
	NVSwitch int
	Recovery Recovery

	MIG bool // instances are handed out, not the GPU
	// MIGCapable: it could be.
	MIGCapable bool
	Instances  []Instance
}

// Recovery is what a GPU needs after a fault, as its driver says.
type Recovery uint8

// What may be needed. Drivers before R560 do not know.
const (
	RecoveryUnknown Recovery = iota
	RecoveryNone
	RecoveryNeeded // a reset, a drain or a reboot
)

func (r Recovery) String() string { return [...]string{"unknown", "none", "needed"}[r] }

// LinksTo is how many NVLinks data between two GPUs can take at once.
func (g GPU) LinksTo(other GPU) int { return g.NVLinks[other.Addr] + min(g.NVSwitch, other.NVSwitch) }

// Instance is a MIG instance: a compute instance in a GPU instance.
type Instance struct {
	UUID            string
	Name            string
	GPUInstance     int
	ComputeInstance int
	Memory          uint64 // bytes
}

// DeviceError is what could not be read of one GPU.
type DeviceError struct {
	Index int          // of the library, at that moment
	Addr  rdma.BusAddr // empty if not even that could be read
	Call  string
	Err   error
}

func (e *DeviceError) Error() string {
	if e.Addr == "" {
		return fmt.Sprintf("GPU %d: %s: %v", e.Index, e.Call, e.Err)
	}
	return fmt.Sprintf("GPU %d at %s: %s: %v", e.Index, e.Addr, e.Call, e.Err)
}

func (e *DeviceError) Unwrap() error { return e.Err }

// parseBusID reads an address as NVML writes it, with a domain of eight digits, as the kernel would.
func parseBusID(s string) (rdma.BusAddr, error) {
	domain, rest, _ := strings.Cut(s, ":")
	for len(domain) > 4 && domain[0] == '0' {
		domain = domain[1:]
	}
	addr, err := rdma.ParseBusAddr(domain + ":" + rest)
	if err != nil || !addr.IsPCI() {
		return "", fmt.Errorf("%.64q is no PCI address", s)
	}
	return addr, nil
}
