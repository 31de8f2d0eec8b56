// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"slices"

	"github.com/railyard-net/railyard/rdma"
)

// ErrTwice: a GPU or NIC is given twice, so that the limits would mean nothing.
var ErrTwice = errors.New("given twice")

// NoRail is the index of what belongs to no rail.
const NoRail = -1

// GPU is a GPU that is to be paired.
type GPU struct {
	Addr rdma.BusAddr
	Name string // for people
	Rail int    // its index among the GPUs, or NoRail
	C2C  bool   // NVLink-C2C joins it to its processor, as in a GH200 or GB200. PCI does not show that.
}

// NIC is a network interface that is to be paired: a physical function, or a virtual one.
type NIC struct {
	Addr  rdma.BusAddr
	Name  string // for people
	Rail  int    // the index of its rail, or NoRail
	Speed int64  // of its port, in Mb/s; 0 is not known
}

// Limits say what may be paired. Zeros are the common case: one NIC for a GPU, one GPU for a NIC, at any distance.
type Limits struct {
	NICsPerGPU, GPUsPerNIC int
	Worst                  Class // pairs further apart are none
}

func (l Limits) withDefaults() Limits {
	l.NICsPerGPU, l.GPUsPerNIC = max(l.NICsPerGPU, 1), max(l.GPUsPerNIC, 1)
	if l.Worst == Self {
		l.Worst = SYS
	}
	return l
}

// Pair is a GPU and a NIC that go together.
type Pair struct {
	GPU  GPU
	NIC  NIC
	Path Path
}

// Pair matches GPUs with NICs. Of all matchings that keep to the limits it returns one, by address, that is best in this order:
//
//  1. as many pairs as there can be, and as many GPUs with a NIC;
//  2. as many as possible in the nearest class, then in the next one, and so on;
//  3. shared evenly, where several NICs for a GPU or several GPUs for a NIC are allowed;
//  4. the greatest speed of the pairs' NICs together;
//  5. rails that are those of the GPUs, or near (the sum of the squares of the differences is least).
//
// It is the same for the same GPUs and NICs in any order. A GPU or NIC that the tree lacks is left out, and the error, an
// [rdma.ErrNotFound], says so; one that is given twice leaves no pairs at all, and an [ErrTwice].
func (t *Tree) Pair(gpus []GPU, nics []NIC, limits Limits) ([]Pair, error) {
	limits = limits.withDefaults()
	gpus, lostGPUs := known(t, gpus, func(g GPU) rdma.BusAddr { return g.Addr })
	nics, lostNICs := known(t, nics, func(n NIC) rdma.BusAddr { return n.Addr })
	lost := errors.Join(lostGPUs, lostNICs)
	if errors.Is(lost, ErrTwice) {
		return nil, lost
	}
	var able []Pair
	for _, g := range gpus {
		for _, n := range nics {
			path, err := t.GPUPath(g, n.Addr)
			if err != nil {
				return nil, err
			}
			if path.Class <= limits.Worst {
				able = append(able, Pair{g, n, path})
			}
		}
	}
	return choose(gpus, nics, able, limits), lost
}

// known returns those devices that the tree has, by address, and an error for each of the others and each that is there twice.
func known[D any](t *Tree, devices []D, addr func(D) rdma.BusAddr) (sorted []D, err error) {
	devices = slices.Clone(devices)
	slices.SortFunc(devices, func(a, b D) int { return compareAddrs(addr(a), addr(b)) })
	var errs []error
	for i, d := range devices {
		switch _, err := t.at(addr(d)); {
		case i > 0 && addr(d) == addr(devices[i-1]):
			errs = append(errs, fmt.Errorf("%s: %w", addr(d), ErrTwice))
		case err != nil:
			errs = append(errs, err)
		default:
			sorted = append(sorted, d)
		}
	}
	return sorted, errors.Join(errs...)
}

// choose is the matching as a flow of the least cost: from a source through a GPU and a NIC to a sink. Each path is one pair.
func choose(gpus []GPU, nics []NIC, able []Pair, limits Limits) []Pair {
	const source, sink = 0, 1
	n := &flow{nodes: 2 + len(gpus) + len(nics)}
	node := make(map[rdma.BusAddr]int, n.nodes)
	for i, g := range gpus {
		node[g.Addr] = 2 + i
		for k := range min(limits.NICsPerGPU, len(nics)) {
			n.add(source, 2+i, cost{covers: first(k), uneven: int64(k)})
		}
	}
	for i, nic := range nics {
		node[nic.Addr] = 2 + len(gpus) + i
		for k := range min(limits.GPUsPerNIC, len(gpus)) {
			n.add(2+len(gpus)+i, sink, cost{uneven: int64(k)})
		}
	}
	edges := make([]int, len(able))
	for i, p := range able {
		edges[i] = n.add(node[p.GPU.Addr], node[p.NIC.Addr], p.cost())
	}
	for n.augment(source, sink) {
	}
	var pairs []Pair
	for i, p := range able {
		if !n.edges[edges[i]].free {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// The currencies of a cost.
const (
	covers = iota
	near   // one for each class
	uneven = near + int(SYS) + 1
	slow   = uneven + 1
	astray = slow + 1
)

func first(k int) int64 {
	if k == 0 {
		return -1
	}
	return 0
}

func (p Pair) cost() cost {
	c := cost{slow: -p.NIC.Speed}
	c[near+int(p.Path.Class)] = -1
	if p.GPU.Rail != NoRail && p.NIC.Rail != NoRail {
		d := int64(p.GPU.Rail - p.NIC.Rail)
		c[astray] = d * d
	}
	return c
}
